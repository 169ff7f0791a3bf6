"""The plan of a study: its texts, questions and pay, and a person's next step, given what they have done so far.

consent → instructions → comprehension → rating, voting, playing, with attention items between them → done
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from ..system.bounds import Amount, Count, Whole
from ..system.files import InputError
from .bonus import Expression

Work: TypeAlias = Literal["rate", "vote", "play"]
WORKS: tuple[Work, ...] = get_args(Work)
Step: TypeAlias = Literal["refused", "consent", "instructions", "failed", "questions", "attention", "done"] | Work
COUNTS = ("matches", "ratings", "votes", "attention", "earned")  # names allowed in `bonus`


@dataclass(frozen=True, slots=True)
class Question:
    """A question with options; `answer` is the index of the right one, counted from 0."""

    ask: str
    options: Sequence[str]
    answer: int

    def __post_init__(self) -> None:
        if not 0 <= self.answer < len(self.options):
            raise InputError(f"the question {self.ask!r} has no option {self.answer}: options are counted from 0")


@dataclass(frozen=True, slots=True)
class Standing:
    """One person's progress so far. `after` returns the next standing; instances never change.

    consent   version of the consent given, or None; training: whether training was allowed
    attention, near   for each attention item whether it was right; for each reference item whether the rating was near
    rated, voted      items rated and compared
    open      (work, item) that was handed out and is not done, `since` a time in seconds since the epoch
    paid      (base, bonus) once the study is done
    """

    consent: str | None = None
    training: bool = False
    refused: bool = False
    read: bool = False
    tries: int = 0
    understood: bool = False
    attention: tuple[bool, ...] = ()
    near: tuple[bool, ...] = ()
    rated: tuple[str, ...] = ()
    voted: tuple[str, ...] = ()
    open: tuple[str, str] | None = None
    since: float = 0.0
    paid: tuple[float, float] | None = None

    def after(self, event: Mapping[str, Any]) -> Standing:
        """The standing after `event`."""
        match event["what"]:
            case "consent":
                return replace(self, consent=event["version"], training=event["training"], refused=False)
            case "refused":
                return replace(self, consent=None, training=False, refused=True)
            case "read":
                return replace(self, read=True)
            case "answers":
                return replace(self, tries=self.tries + 1, understood=event["right"])
            case "attention":
                return replace(self, attention=(*self.attention, event["right"]))
            case "given":
                return replace(self, open=(event["work"], event["item"]), since=event["time"])
            case "rating":
                near = self.near if event["near"] is None else (*self.near, event["near"])
                return replace(self, rated=(*self.rated, event["item"]), near=near, open=None)
            case "vote":
                return replace(self, voted=(*self.voted, event["item"]), open=None)
            case "done":
                return replace(self, paid=(event["base"], event["bonus"]))
        return self


class Pay:
    """The pay of a study.

    base      amount for everybody who has done any task
    match     expression over a match's metrics at the person's seat and its `payoff`; summed over a person's matches it
              is `earned`
    bonus     expression over matches, ratings, votes, attention (share of right answers) and earned
    most      largest bonus
    currency  its name on the page
    """

    def __init__(self, base: Amount, match: str, bonus: str, most: Amount, currency: str) -> None:
        self.base, self.most, self.currency = base, most, currency
        self.match, self.bonus = Expression(match, "pay.match"), Expression(bonus, "pay.bonus")
        self.bonus.check(COUNTS)

    def __call__(self, now: Standing, matches: Sequence[Mapping[str, float]]) -> tuple[float, float]:
        """(base, bonus): the bonus rounded to hundredths, at least 0 and at most `most`. `matches`: figures of each."""
        if not (now.rated or now.voted or matches):
            return 0.0, 0.0
        right = sum(now.attention) / len(now.attention) if now.attention else 1.0
        counts = len(matches), len(now.rated), len(now.voted), right, sum(map(self.match, matches))
        bonus = self.bonus(dict(zip(COUNTS, map(float, counts), strict=True)))
        return self.base, round(min(max(bonus, 0.0), self.most), 2)


class Plan:
    """The steps of a study. An empty text or list skips its step.

    version       version of the consent, stored with each agreement; consent: its text
    training      label of the box that allows training on what people write; "": no box, and no training
    instructions  text to read first; paragraphs are separated by empty lines
    questions     comprehension questions {ask, options, answer}; tries: attempts at answering all of them
    rate, vote, play   number of matches to rate, pairs to compare, matches to play
    attention     {after, ask, options, answer}: asked after that many tasks; misses: how many may be wrong
    code, url     completion code, in which {person} becomes the person's id, and the address to go to at the end
    platform      MTurk site to which the end is posted, such as https://www.mturk.com; "": none
    """

    def __init__(
        self,
        version: str,
        consent: str,
        training: str,
        instructions: str,
        questions: Sequence[Mapping[str, Any]],
        tries: Count,
        rate: Whole,
        vote: Whole,
        play: Whole,
        attention: Sequence[Mapping[str, Any]],
        misses: Whole,
        code: str,
        url: str,
        platform: str,
    ) -> None:
        self.version, self.consent, self.training, self.instructions = version, consent, training, instructions
        self.tries, self.misses, self.code, self.url, self.platform = tries, misses, code, url, platform
        self.wanted: Mapping[Work, int] = {"rate": rate, "vote": vote, "play": play}
        self.questions = [Question(**each) for each in questions]
        rest = [({key: value for key, value in each.items() if key != "after"}, each["after"]) for each in attention]
        self.attention = sorted(((after, Question(**each)) for each, after in rest), key=lambda each: each[0])
        for name, address in (("url", url), ("platform", platform)):
            if address and (urlsplit(address).scheme != "https" or not urlsplit(address).netloc):
                raise InputError(f"plan.{name} is {address!r}, expected an address that begins with https://")

    def step(self, now: Standing, played: int, left: Collection[Work] = WORKS) -> Step:
        """The next step of a person who has `played` that many matches. `left` names the kinds of work that still have
        items for them."""
        if now.paid is not None:  # paid: items that become free later go to others
            return "done"
        if now.refused:
            return "refused"
        if self.consent and now.consent != self.version:
            return "consent"
        if self.instructions and not now.read:
            return "instructions"
        if self.failed(now):
            return "failed"
        if self.questions and not now.understood:
            return "questions"
        if self.due(now, played) is not None:
            return "attention"
        done = {"rate": len(now.rated), "vote": len(now.voted), "play": played}
        return next((work for work in WORKS if work in left and done[work] < self.wanted[work]), "done")

    def due(self, now: Standing, played: int) -> Question | None:
        """The attention item due before the next task, or None."""
        following = self.attention[len(now.attention) :]
        done = len(now.rated) + len(now.voted) + played
        return following[0][1] if following and following[0][0] <= done else None

    def failed(self, now: Standing) -> bool:
        """Whether a person has failed comprehension, attention or the reference ratings, which ends their study."""
        misread = bool(self.questions) and not now.understood and now.tries >= self.tries
        return misread or now.attention.count(False) > self.misses or False in now.near
