"""The judge's game for one seat: the judge reads a text and rates each subject on given scales.

A reply is a JSON object {subject: {scale: number}}, alone or after some reasoning. Replies with missing or out-of-range
numbers are retried; a verdict that never comes is missing, not a rating of 0. Ratings are recorded as the mark
{"scores": …} of their reply.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from .base import (
    Facts,
    GeneratorMatch,
    Illegal,
    Json,
    Marks,
    Match,
    Options,
    Out,
    Reply,
    Request,
    Result,
    Scenario,
    Script,
    Turns,
    View,
    legal,
)

JUDGE = "judge"
Ratings: TypeAlias = Mapping[str, Mapping[str, float]]
"""scale -> {subject: rating}"""


@dataclass(frozen=True, slots=True)
class Scale:
    """A rating scale: a number from `low` to `high`, both included; `says` explains it to the judge."""

    low: float
    high: float
    says: str = ""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"a scale goes from {self.low} to {self.high}: low must be below high")


@dataclass(frozen=True, slots=True)
class Rubric:
    """A judge's instructions `task`, and the scales by name.

    overall     whether to add the unscaled mean of all scales as a rating
    schematic   whether replies follow a JSON schema, if the backend can enforce it; unreadable replies are retried in
                any case. False for servers without response_format
    """

    task: str
    scales: Mapping[str, Scale]
    overall: bool = False
    schematic: bool = True

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("a rubric needs at least one scale: scales={politeness: {low: 0, high: 10}}")
        if self.overall and "overall" in self.scales:
            raise ValueError(
                "the scale overall has the name of the mean of all: name it otherwise, or say overall=false"
            )

    @staticmethod
    def of(task: str, scales: Mapping[str, Mapping[str, Any]], overall: bool = False, schematic: bool = True) -> Rubric:
        """A rubric from plain data. ValueError or TypeError names the fault."""
        return Rubric(task, {str(name): Scale(**each) for name, each in scales.items()}, overall, schematic)

    def rated(self, given: Ratings) -> Ratings:
        """The ratings, with their mean if `overall`."""
        if not self.overall:
            return given
        subjects = next(iter(given.values()))
        mean = {each: sum(given[scale][each] for scale in self.scales) / len(self.scales) for each in subjects}
        return {**given, "overall": mean}

    def schema(self, subjects: Sequence[str]) -> Json:
        """The JSON schema of a verdict, for constrained decoding. Scales with integer bounds are rated in integers
        there, which have finitely many digits."""
        rates = {
            name: {
                "type": "integer" if each.low == int(each.low) and each.high == int(each.high) else "number",
                "minimum": each.low,
                "maximum": each.high,
            }
            for name, each in self.scales.items()
        }
        return _object({subject: _object(rates) for subject in subjects})

    def ask(self, subjects: Sequence[str]) -> str:
        """The question after the text."""
        lines = [f"- {name}, from {each.low:g} to {each.high:g}: {each.says}" for name, each in self.scales.items()]
        form = {subject: {name: "…" for name in self.scales} for subject in subjects}
        return "\n".join(
            [
                f"Rate {' and '.join(subjects)} on each of these scales:",
                *(line.removesuffix(": ") for line in lines),
                f"Answer with one JSON object, each … a number: {json.dumps(form, ensure_ascii=False)}",
            ]
        )


def _object(properties: Mapping[str, Json]) -> Json:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def case(name: str, text: str, subjects: Sequence[str], cluster: str = "", **more: Json) -> Scenario:
    """A scenario: the judge reads `text` and rates each of `subjects`; `more` is recorded but not shown."""
    return Scenario(name, {"text": text, "subjects": list(subjects), **more}, cluster)


class VerdictGame:
    """The game of verdicts on `cases` by a rubric, with at most `retries` further attempts each."""

    name, version, roles = "verdict", 1, (JUDGE,)

    def __init__(self, cases: Sequence[Scenario], rubric: Rubric, retries: int = 1) -> None:
        self.cases, self.rubric, self.retries = cases, rubric, retries
        self.facts = Facts(
            min_return=0, max_return=0, max_requests=1 + retries, max_retries=retries, held_out=False,
            metrics={"judged_rate": "1 if the judge gave a verdict", "asked": "how often the judge was asked"},
        )  # fmt: skip

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The cases, for any split: they are not trained on."""
        return self.cases

    def match(self, scenario: Scenario, seed: int) -> Match:
        return GeneratorMatch(self._turns(scenario))

    def scripts(self) -> Mapping[str, Script]:
        return {"dice": self._dice}

    def _turns(self, scenario: Scenario) -> Turns:
        subjects, view = scenario.data["subjects"], View(JUDGE, self.rubric.task)
        marks: Marks = {}
        try:
            yield from verdict(view, scenario.data["text"], subjects, self.rubric, self.retries, marks)
        except Out as out:
            return self._result(out.outcome, 0.0, marks, out.blame)
        return self._result("judged", 1.0, marks)

    def _result(self, outcome: str, judged: float, marks: Marks, blame: tuple[str, ...] = ()) -> Result:
        metrics = {"judged_rate": judged, "asked": float(len(marks))}
        return Result({JUDGE: 0.0}, outcome, blame=blame, metrics=metrics, marks=marks)

    def _dice(self, request: Request, own: Random, persona: Random) -> str:
        return dice(self.rubric, request, own)


def dice(rubric: Rubric, request: Request, own: Random) -> str:
    """Random ratings of every subject, in tenths of each scale's range."""
    assert request.observation is not None
    scales = rubric.scales.items()
    return json.dumps(
        {
            subject: {name: each.low + (each.high - each.low) * own.randint(0, 10) / 10 for name, each in scales}
            for subject in request.observation["subjects"]
        }
    )


def verdict(
    view: View, text: str, subjects: Sequence[str], rubric: Rubric, retries: int, marks: Marks, **more: Json
) -> Generator[Request, Reply, Ratings]:
    """Requests ratings of `text` from the judge with this view: `found = yield from verdict(…)`.

    A scripted judge observes the subjects, and `more`. The reply with the ratings is marked {"scores": …}. Raises Out,
    like `legal`, if no reply had ratings.
    """
    view.tell(f"{text}\n\n{rubric.ask(subjects)}")

    def read(reply: Reply) -> Ratings | Illegal:
        found = ratings(reply.text, subjects, rubric.scales)
        if not isinstance(found, Illegal):
            found = rubric.rated(found)
            marks[reply.id] = {"scores": found}
        return found

    options = Options(schema=rubric.schema(subjects) if rubric.schematic else None)
    return legal(view, read, retries, marks, {"subjects": list(subjects), **more}, options)


def ratings(text: str, subjects: Sequence[str], scales: Mapping[str, Scale]) -> Ratings | Illegal:
    """The ratings in a reply, by scale. Further keys are ignored."""
    try:
        found = json.loads(text[text.find("{") : text.rfind("}") + 1])
    except (ValueError, RecursionError):
        return Illegal("no JSON", "That is no JSON object. Answer with the object alone.")
    given: dict[str, dict[str, float]] = {name: {} for name in scales}
    for subject in subjects:
        rated = found.get(subject) if isinstance(found, dict) else None
        for name, scale in scales.items():
            value = rated.get(name) if isinstance(rated, dict) else None
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return Illegal("a rating is missing", f"The number {name} of {subject} is missing.")
            if not scale.low <= value <= scale.high:  # nor is NaN
                return Illegal("out of range", f"{name} of {subject} must be from {scale.low:g} to {scale.high:g}.")
            given[name][subject] = float(value)
    return given


def rated(result: Result) -> Ratings | None:
    """The ratings in the result of a match; None without a verdict."""
    return next((mark["scores"] for mark in result.marks.values() if "scores" in mark), None)
