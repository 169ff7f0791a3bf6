"""One episode in progress: the acting seats, the views of the others, and the judge's verdict at the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from ..base import Facts, Illegal, Json, Marks, Out, Reply, Request, Result, Turns, View, legal
from ..verdict import JUDGE, Ratings, Rubric, verdict
from .actions import NONE, Action
from .ending import cap, gone, over
from .people import Form, Task, seen
from .prompts import FORMS

METRICS: Mapping[str, str] = {
    "turns": "turns of the episode",
    "left_rate": "1 if it ended because fewer than two characters were still there",
    "stale_rate": "1 if it ended because nobody did anything any more",
    "cap_rate": "1 if all turns were used up",
    "invalid_rate": "1 if a view outgrew its model's context",
    "legal_rate": "share of the seat's replies that were legal actions",
    "silent": "turns of the seat in which no reply was legal",
    "words": "words of what the seat said or did in an action, on average",
}
JUDGED: Mapping[str, str] = {
    "judged_rate": "1 if the judge gave a verdict",
    "asked": "how often the judge was asked",
    "overall": "mean of all scales of the judge, as they are",
}
JUDGE_RETRIES = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of an episode, as `Social` takes them."""

    form: Form = "corrected"
    order: str = "round_robin"
    turns: int = 20
    idle: int = 2
    retries: int = 2
    prompt: str = "chat"
    judge: Rubric | None = None


def facts(rules: Rules, people: int) -> Facts:
    """Facts that hold for every episode with at most `people` characters."""
    acts = cap(rules.turns, rules.form) * (people if rules.order == "simultaneous" else 1)
    judged = {**{name: each.says for name, each in rules.judge.scales.items()}, **JUDGED} if rules.judge else {}
    return Facts(
        min_return=0,
        max_return=0,
        max_requests=acts * (1 + rules.retries) + (1 + JUDGE_RETRIES if rules.judge else 0),
        max_retries=max(rules.retries, JUDGE_RETRIES if rules.judge else 0),
        metrics={**METRICS, **judged},
    )


Log: TypeAlias = list[dict[int, Action]]
"""turn -> seat index -> action"""
Truth: TypeAlias = Callable[[Log], Sequence[float]]
"""The score of each character, in the order of the seats."""


@dataclass(slots=True)
class Counted:
    """Counts of one seat: replies, legal ones, turns without a legal one, words of each action."""

    replies: int = 0
    legal: int = 0
    silent: int = 0
    said: list[int] = field(default_factory=list)


class Scene:
    """One episode. `truth` computes each character's success, if that is decidable; it is the payoff then."""

    def __init__(self, rules: Rules, task: Task, truth: Truth | None = None) -> None:
        self.rules, self.task, self.truth = rules, task, truth
        self.seats = tuple(f"agent_{place + 1}" for place in range(len(task.people)))
        self.views = [FORMS[rules.prompt](seat, task, place, rules.form) for place, seat in enumerate(self.seats)]
        self.counted = [Counted() for _ in self.seats]
        self.log: Log = []
        self.marks: Marks = {}

    def turns(self) -> Turns:
        """The whole episode, as `GeneratorMatch` runs it."""
        try:
            outcome = yield from self._play()
            ratings = yield from self._judged()
        except Out as out:
            return self._end(out.outcome, out.blame)
        return self._end(outcome, ratings=ratings)

    def _play(self) -> Generator[list[Request], list[Reply], str]:
        actor = -1
        for turn in range(cap(self.rules.turns, self.rules.form) if self.task.ends is None else self.task.ends):
            there = [place for place in range(len(self.seats)) if place not in gone(self.log)]
            if self.rules.order == "round_robin":  # the next one still present
                actor = min(there, key=lambda place: (place - actor - 1) % len(self.seats))
                there = [actor]
            done = yield from _together({place: self._act(place, turn) for place in there})
            self.log.append(done)
            for view in self.views:
                view.see(turn, list(done.items()))
            if (ended := over(self.log, len(self.seats), self.rules.idle, self.rules.form)) is not None:
                return ended
        return "cap"

    def _act(self, place: int, turn: int) -> Generator[Request, Reply, Action]:
        """A character's action; none if no reply was legal."""
        view, count = self.views[place], self.counted[place]

        def read(reply: Reply) -> Action | Illegal:
            found = view.parse(reply)
            count.replies, count.legal = count.replies + 1, count.legal + isinstance(found, Action)
            return found

        try:
            action = yield from legal(view, read, self.rules.retries, self.marks, self._observation(place, turn))
        except Out as out:
            if out.outcome == "context":
                raise
            count.silent += 1
            return NONE
        count.said += [len(action.argument.split())] if action.argument else []
        return action

    def _observation(self, place: int, turn: int) -> dict[str, Json]:
        return {
            "turn": turn,
            "prompt": self.rules.prompt,
            "you": self.task.names[place],
            "goal": seen(self.task.goals[place], self.seats[place]),
            "history": [
                [self.task.names[seat], each.kind, each.argument]
                for done in self.log for seat, each in done.items()
            ],
        }  # fmt: skip

    def _judged(self) -> Generator[Request, Reply, Ratings | None]:
        """The judge's ratings, by the characters' names; None without a verdict or a judge."""
        if (rubric := self.rules.judge) is None:
            return None
        told, names = story(self.task, self.log), self.task.names
        try:
            view, seen = View(JUDGE, rubric.task), self._evidence()
            return (yield from verdict(view, told, names, rubric, JUDGE_RETRIES, self.marks, **seen))
        except Out as out:
            if out.outcome == "context":
                raise
            return None

    def _evidence(self) -> dict[str, Json]:
        """The observation of a scripted judge, by the characters' names: each one's texts and true success."""
        said = {
            name: [done[place].argument for done in self.log if place in done]
            for place, name in enumerate(self.task.names)
        }
        return {"said": said, **({"truth": self._true(self.task.names)} if self.truth else {})}

    def _true(self, names: Sequence[str]) -> dict[str, float]:
        return dict(zip(names, self.truth(self.log), strict=True)) if self.truth else {}

    def _end(self, outcome: str, blame: tuple[str, ...] = (), ratings: Ratings | None = None) -> Result:
        metrics: dict[str, float | Mapping[str, float]] = {"turns": float(len(self.log))}
        metrics |= {f"{name}_rate": float(outcome == name) for name in ("left", "stale", "cap")}
        metrics["invalid_rate"] = float(outcome == "context")
        counted = dict(zip(self.seats, self.counted, strict=True))
        metrics["legal_rate"] = {seat: each.legal / each.replies for seat, each in counted.items() if each.replies}
        metrics["silent"] = {seat: float(each.silent) for seat, each in counted.items()}
        metrics["words"] = {seat: sum(each.said) / len(each.said) for seat, each in counted.items() if each.said}
        if self.rules.judge:
            asked = sum(request.startswith(f"{JUDGE}.") for request in self.marks)
            metrics |= {"judged_rate": float(ratings is not None), "asked": float(asked)}
        seats = dict(zip(self.task.names, self.seats, strict=True))
        for scale, given in (ratings or {}).items():
            metrics[scale] = {seats[name]: value for name, value in given.items()}
        returns = self._true(self.seats) or dict.fromkeys(self.seats, 0.0)
        if self.truth:
            metrics["true_goal"] = returns
            if isinstance(told := metrics.get("goal"), Mapping):
                metrics["gap"] = {seat: told[seat] - returns[seat] for seat in self.seats}
        return Result(returns, outcome, blame=blame, metrics=metrics, marks=self.marks)


def story(task: Task, log: Log) -> str:
    """The episode for a judge: everybody's knowledge, then the actions, turns numbered from 1."""
    lines = [task.context(None)]
    for turn, done in enumerate(log, 1):
        lines += [f"Turn #{turn}", *(f"{task.names[place]} {action.told()}" for place, action in done.items())]
    return "\n".join(lines)


def _together(
    asking: dict[int, Generator[Request, Reply, Action]],
) -> Generator[list[Request], list[Reply], dict[int, Action]]:
    """Runs several seats' requests side by side; returns their results in the order of the seats."""
    done: dict[int, Action] = {}
    waiting = {place: next(each) for place, each in asking.items()}
    while waiting:
        replies = yield list(waiting.values())
        for place, reply in zip(list(waiting), replies, strict=True):
            try:
                waiting[place] = asking[place].send(reply)
            except StopIteration as end:
                done[place] = end.value
                del waiting[place]
    return {place: done[place] for place in asking}
