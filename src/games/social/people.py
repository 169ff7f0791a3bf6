"""Characters and tasks, and the characters' knowledge of each other.

A task is a situation, the relationship of the characters and the goal of each. It is plain JSON in a scenario's data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from ..base import Json

RELATIONSHIPS = ("strangers", "know each other by name", "acquaintances", "friends", "a couple", "family")
Form: TypeAlias = Literal["corrected", "faithful"]
UNKNOWN = "Unknown"
_HINT = re.compile(r"</?(?:extra_info|clarification_hint|strategy_hint)>")
_VIEWED = re.compile(r"""<p viewer=["']([\w-]+)["']>(.*?)</p>""", re.S)
_TAG = re.compile(r"</?[A-Za-z_]+(?: [^<>]*)?>")
_ADJECTIVES = {"Man": "male", "Woman": "female", "Nonbinary": "nonbinary"}


@dataclass(frozen=True, slots=True)
class Person:
    """A character. `secret` is known to the character only, `personality` to close ones."""

    name: str
    age: int = 0
    occupation: str = ""
    gender: str = ""
    pronouns: str = ""
    public: str = ""
    personality: str = ""
    secret: str = ""
    id: str = ""

    def bio(self, level: int) -> str:
        """The biography at a level of knowledge: 0 nothing, 1 the name, 2 public facts, 3 also the personality, 4 also
        the secret."""
        if level < 2:
            return self.name if level else ""
        facts = [f"{self.age}-year-old"] if self.age else []
        facts += [_ADJECTIVES.get(self.gender, self.gender), self.occupation.lower()]
        told = " ".join(word for word in facts if word)
        parts = [f"{self.name} is a {told}." if told else f"{self.name}."]
        parts += [f"{self.pronouns} pronouns."] if self.pronouns else []
        parts += [self.public] if self.public else []
        parts += [f"Personality and values: {self.personality}"] if level > 2 and self.personality else []
        parts += [f"Secret: {self.secret}"] if level > 3 and self.secret else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Task:
    """A social task: `goals` has one for each of `people`; `relationship` is a place in RELATIONSHIPS. `ends` is the
    number of turns of a recorded episode, which ends it; None: the rules decide."""

    situation: str
    relationship: int
    goals: tuple[str, ...]
    people: tuple[Person, ...]
    environment: str = ""
    codename: str = ""
    ends: int | None = None

    def to_json(self) -> dict[str, Json]:
        """The data of a scenario."""
        return {**asdict(self), "goals": list(self.goals), "people": [asdict(each) for each in self.people]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Task:
        """Reads the result of `to_json`. KeyError, TypeError or ValueError for anything else."""
        people = tuple(Person(**each) for each in data["people"])
        task = Task(**{**data, "goals": tuple(data["goals"]), "people": people})
        names = [person.name for person in people]
        if len(people) < 2 or len(people) != len(task.goals):
            raise ValueError(
                f"{len(people)} people and {len(task.goals)} goals, expected a goal for each of at least two"
            )
        if len(set(names)) < len(names) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError(f"the names {names} do not tell the people apart")
        if task.relationship not in range(len(RELATIONSHIPS)):
            raise ValueError(f"relationship {task.relationship!r}, expected 0 to {len(RELATIONSHIPS) - 1}")
        return task

    @property
    def names(self) -> tuple[str, ...]:
        """The characters' names, in the order of their seats."""
        return tuple(person.name for person in self.people)

    def levels(self, viewer: int | None, form: Form = "corrected") -> tuple[int, ...]:
        """The level of knowledge (see `Person.bio`) of `viewer` (None: the judge, who knows all) about each character.

        The published rule: strangers know nothing of the other, those who know each other by name know the name,
        acquaintances all except personality and secret, closer ones all except the secret. In the faithful form, as
        published in January 2024, strangers do not see their own background either.
        """
        other = min(self.relationship, 3)
        own = 0 if form == "faithful" and self.relationship == 0 else 4
        return tuple(4 if viewer is None else own if viewer == seat else other for seat in range(len(self.people)))

    def context(self, viewer: int | None, form: Form = "corrected") -> str:
        """The text for `viewer` before the first turn, one line per fact. Goals of others are unknown."""
        seer = "environment" if viewer is None else f"agent_{viewer + 1}"
        lines = [
            f"Scenario: {seen(self.situation, seer)}",
            f"Participants: {_listed(self.names)}",
        ]
        for person, level in zip(self.people, self.levels(viewer, form), strict=True):
            lines.append(f"{person.name}'s background: {seen(person.bio(level), seer) or UNKNOWN}")
        for seat, (name, goal) in enumerate(zip(self.names, self.goals, strict=True)):
            lines.append(f"{name}'s goal: {seen(goal, seer) if viewer in (None, seat) else UNKNOWN}")
        return "\n".join(lines)

    def hidden(self, viewer: int) -> list[str]:
        """The private texts of `viewer`, in its wording: nobody else may see them before it has said them."""
        person, goal = self.people[viewer], seen(self.goals[viewer], f"agent_{viewer + 1}")
        level = min(self.relationship, 3)
        own = [goal, person.secret, *([person.personality] * (level < 3)), *([person.public] * (level < 2))]
        others = [(f"agent_{seat + 1}", goal) for seat, goal in enumerate(self.goals) if seat != viewer]
        shared = "\n".join(seen(f"{self.situation}\n{theirs}", seer) for seer, theirs in others).casefold()
        return [text for text in own if text and text.casefold() not in shared]


def seen(text: str, viewer: str) -> str:
    """`text` for `viewer` (agent_1, …, environment), without tags and without spans for other viewers.

    The environment reads everything."""
    shown = _VIEWED.sub(lambda span: span[2] if viewer in (span[1], "environment") else "", text)
    return _TAG.sub("", _HINT.sub("", shown)).strip()


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
