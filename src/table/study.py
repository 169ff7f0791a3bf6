"""The part `study` of the table: takes people through a plan, and has them rate and compare stored matches.

    GET  step            the present step, as JSON that names no model
    POST consent {agree, training}, read {}, questions {given}, attention {given}
    POST rate {item, scores: {subject: {scale: number}}}, vote {item, vote}

Each POST returns the next step. A request that does not fit the present step is refused and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..data.judge import RubricJudge
from ..games.base import Json
from ..report.agreement import read, rows
from ..run.config import ConfigError
from ..run.contents import rounds_of
from ..system.bounds import Count, Positive
from ..system.files import InputError
from .desks import VOTES, Held, Pair, Reference, held, mirrored, pairs, pick, scores, shown
from .events import Events
from .part import Body, Desk, Refusal, Served, Take
from .persons import Person, is_person
from .plan import WORKS, Pay, Plan, Question, Step, Work
from .played import Played


class Study:
    """The part.

    plan        the steps; pay: the pay
    judge       the judge whose rubric and wording people get
    stages      stages whose matches are rated, such as [iter_003/eval/sampled]; empty: every round of play
    left, right stages whose matches on the same scenario are compared; ask: the question, such as "Which is better?"
    per_item    number of different people who rate a match or vote on a pair
    abandon_s   seconds after which an unfinished item goes to other people
    reference   {ratings: file, scales, within}: matches that everybody rates first, to qualify; null: none
    """

    blind = True

    def __init__(
        self,
        plan: Plan,
        pay: Pay,
        judge: RubricJudge,
        stages: Sequence[str],
        left: Sequence[str],
        right: Sequence[str],
        ask: str,
        per_item: Count,
        abandon_s: Positive,
        reference: Mapping[str, Any] | None,
    ) -> None:
        self.plan, self.pay, self.judge = plan, pay, judge
        self.stages, self.left, self.right, self.ask = stages, left, right, ask
        self.per_item, self.abandon_s = per_item, abandon_s
        self.reference = Reference([], [], 0.0)
        if reference is not None:
            self.reference = Reference(read([reference["ratings"]]), reference["scales"], reference["within"])

    @asynccontextmanager
    async def open(self, desk: Desk) -> AsyncIterator[Served]:
        """Starts the study."""
        yield Taking(self, desk).served()


class Taking:
    """A running study: its steps and the functions for its page."""

    def __init__(self, study: Study, desk: Desk) -> None:
        self.study, self.plan, self.persons = study, study.plan, desk.persons
        self.run, self.seed = desk.run, int(desk.at_work.config.seed)
        self.events, self.played = Events(desk.folder), Played(desk.folder.parent)
        self._turn = asyncio.Lock()
        self.rated = self._held("rate", study.stages or rounds_of(desk.run))
        self.pilot = [item for item, each in self.rated.items() if each.episode in study.reference]
        found = pairs(self._held("vote", study.left).values(), self._held("vote", study.right).values())
        self.pairs = {each.item: each for each in found}
        if self.plan.wanted["vote"] and not self.pairs:
            raise ConfigError("study.left and study.right have no scenario in common: there is nothing to compare")

    def _held(self, work: Work, stages: Sequence[str]) -> dict[str, Held]:
        """The matches of `stages` by item; {} if the plan has no such work. ConfigError if a stage has no matches."""
        if not self.plan.wanted[work]:
            return {}
        if absent := [name for name in stages if not (self.run / name).is_dir()] or ([] if stages else ["no stage"]):
            raise ConfigError(f"the study wants people to {work}, and {self.run} has no matches in {absent[0]}")
        return {each.item: each for each in held(self.run, stages)}

    def served(self) -> Served:
        takes: Mapping[str, Take] = {
            "consent": self.consent, "read": self.read, "questions": self.questions, "attention": self.attention,
            "rate": self.rate, "vote": self.vote,
        }  # fmt: skip
        about = self.plan.instructions or self.plan.consent
        reads, takes = {"step": self._in_turn(self.step)}, {name: self._in_turn(take) for name, take in takes.items()}
        return Served("Study", "study.html", reads, takes, holds=self.holds, about=about)

    def _in_turn(self, act: Callable[..., Awaitable[Json]]) -> Callable[..., Awaitable[Json]]:
        """Serialises requests: no standing changes between choosing a step and storing its event."""

        async def taken(person: Person, *body: Body) -> Json:
            async with self._turn:
                return await act(person, *body)

        return taken

    def holds(self, person: Person) -> str:
        """Keeps people from playing except during the study's step `play`."""
        return "" if self._step(person)[0] == "play" else "please continue the study first"

    # --- steps ---

    async def step(self, person: Person) -> Json:
        """The present step, with everything its page shows."""
        step, item = await self._given(person)
        now, plan = self.events.standings[person.id], self.plan
        match step:
            case "consent" | "refused":
                told: dict[str, Json] = {"text": plan.consent, "box": plan.training}
            case "instructions":
                told = {"text": plan.instructions}
            case "questions":
                told = {"questions": [_asked(each) for each in plan.questions], "again": now.tries > 0}
            case "attention":
                told = {"questions": [_asked(self._due(person))]}
            case "rate":
                told = self._rating(self.rated[item])
            case "vote":
                told = self._voting(self.pairs[item], person)
            case "done":
                told = await self._end(person)
            case _:
                told = {}
        return {"step": step, **told}

    def _due(self, person: Person) -> Question:
        due = self.plan.due(self.events.standings[person.id], len(self.played.of(person.id)))
        assert due is not None  # at the step `attention` there is one
        return due

    def _step(self, person: Person) -> tuple[Step, str]:
        """(step, item to rate or to vote on)."""
        left: list[Work] = list(WORKS)
        while True:
            now, played = self.events.standings[person.id], len(self.played.of(person.id))
            step = self.plan.step(now, played, left)
            if step != "rate" and step != "vote":
                return step, ""
            if (item := self._pick(step, person)) is not None:
                return step, item
            left.remove(step)

    async def _given(self, person: Person) -> tuple[Step, str]:
        """The same; the item is then held by the person."""
        step, item = self._step(person)
        if item and self.events.standings[person.id].open != (step, item):
            await self.events.add(person.id, "given", work=step, item=item)
        return step, item

    def _pick(self, work: Work, person: Person) -> str | None:
        now, study = self.events.standings[person.id], self.study
        if work == "rate" and (first := [item for item in self.pilot if item not in now.rated]):
            return first[0]
        items = self.pairs.keys() if work == "vote" else [item for item in self.rated if item not in self.pilot]
        return pick(items, work, person.id, self.events, study.per_item, study.abandon_s, self.seed)

    def _rating(self, held: Held) -> dict[str, Json]:
        case, rubric = shown(held.episode, self.study.judge), self.study.judge.rubric
        scales = [
            {"name": name, "low": each.low, "high": each.high, "says": each.says}
            for name, each in rubric.scales.items()
        ]
        return {"item": held.item, "text": case.text, "subjects": list(case.seats), "scales": scales}

    def _voting(self, pair: Pair, person: Person) -> dict[str, Json]:
        texts = [shown(each.episode, self.study.judge).text for each in self._sides(pair, person)]
        return {"item": pair.item, "ask": self.study.ask, "left": texts[0], "right": texts[1]}

    def _sides(self, pair: Pair, person: Person) -> tuple[Held, Held]:
        """(left, right) as shown to this person."""
        number = len(self.events.standings[person.id].voted)
        turned = mirrored(person.id, number, self.seed)
        return (pair.second, pair.first) if turned else (pair.first, pair.second)

    async def _end(self, person: Person) -> dict[str, Json]:
        """The pay (fixed at the first call for a person) and the end of the study."""
        now, plan = self.events.standings[person.id], self.plan
        if now.paid is None:
            base, bonus = self.study.pay(now, self.played.of(person.id))
            await self.events.add(person.id, "done", base=base, bonus=bonus)
        base, bonus = self.events.standings[person.id].paid or (0.0, 0.0)
        pay = {"base": base, "bonus": bonus, "currency": self.study.pay.currency}
        code = plan.code.replace("{person}", person.id)
        return {"pay": pay, "code": code, "url": plan.url, "platform": plan.platform, "person": person.id}

    # --- answers ---

    async def consent(self, person: Person, body: Body) -> Json:
        await self._at("consent", person, again="refused")
        if body.get("agree") is not True:
            await self.events.add(person.id, "refused", version=self.plan.version)
        else:
            training = bool(self.plan.training) and body.get("training") is True
            await self.events.add(person.id, "consent", version=self.plan.version, training=training)
        return await self.step(person)

    async def read(self, person: Person, body: Body) -> Json:
        await self._at("instructions", person)
        await self.events.add(person.id, "read")
        return await self.step(person)

    async def questions(self, person: Person, body: Body) -> Json:
        await self._at("questions", person)
        given = _numbers(body, len(self.plan.questions))
        right = given == [each.answer for each in self.plan.questions]
        await self.events.add(person.id, "answers", given=given, right=right)
        return await self.step(person)

    async def attention(self, person: Person, body: Body) -> Json:
        await self._at("attention", person)
        due, given = self._due(person), _numbers(body, 1)
        await self.events.add(person.id, "attention", ask=due.ask, given=given[0], right=given[0] == due.answer)
        return await self.step(person)

    async def rate(self, person: Person, body: Body) -> Json:
        held = self.rated[await self._at("rate", person, body)]
        episode, study = held.episode, self.study
        try:
            found = scores(body.get("scores"), shown(episode, study.judge), study.judge)
        except InputError as error:
            raise Refusal(str(error)) from None
        near = study.reference.near(episode, found) if episode in study.reference else None
        told = list(rows(episode, found, person.id))
        await self.events.add(person.id, "rating", item=held.item, match=held.match, near=near, rows=told)
        return await self.step(person)

    async def vote(self, person: Person, body: Body) -> Json:
        pair, vote = self.pairs[await self._at("vote", person, body)], body.get("vote")
        if vote not in VOTES:
            raise Refusal(f"a vote is one of {', '.join(VOTES)}")
        first, second = pair.first.episode, pair.second.episode
        left, right = self._sides(pair, person)
        await self.events.add(
            person.id, "vote", item=pair.item, scenario=first.scenario.id, cluster=first.scenario.cluster,
            first=first.id, second=second.id, left=left.match, right=right.match, vote=vote,
        )  # fmt: skip
        told = {"left": _played(left), "right": _played(right)}
        return {**await self.step(person), "told": told}

    async def _at(self, step: Step, person: Person, body: Body | None = None, again: Step | None = None) -> str:
        """The person's item at `step`. Refusal if they are at another step, as after leaving an old page open."""
        now, item = await self._given(person)
        if now not in (step, again) or (body is not None and body.get("item") != item):
            raise Refusal("this is not asked any more: reload the page", 409)
        return item


def _asked(question: Question) -> dict[str, Json]:
    """A question without its answer."""
    return {"ask": question.ask, "options": list(question.options)}


def _numbers(body: Body, count: int) -> list[int]:
    given = body.get("given")
    if not isinstance(given, list) or len(given) != count or any(type(each) is not int for each in given):
        raise Refusal("choose one answer to each question")
    return given


def _played(held: Held) -> str:
    """The players of a match, for a person who has voted. People stay anonymous."""
    names = {seat: "a person" if is_person(name) else name for seat, name in held.episode.players.items()}
    seated = ", ".join(f"{seat}: {name}" for seat, name in names.items())
    return f"{seated} ({held.match.rpartition('/')[0].rpartition('/')[0]})"
