"""Sources of questions: files of the published tasks, or expert trajectories.

A scenario holds task, question and gold answers, and its own documents if the source has some. Its id consists of the
task, the file's name and the row (`hotpotqa:hotpotqa_dev:3687`); equal questions share a cluster.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol

from ...system.files import REFUSED, InputError, digest, read_json, read_text, reason
from ..base import Json, Scenario, Script
from ..splits import SPLITS, belongs, fine
from .scoring import TASKS, normalise
from .trajectory import from_row


class Questions(Protocol):
    """A source of scenarios. `files` (name -> path) lists the files it reads."""

    files: Mapping[str, str]

    @property
    def tasks(self) -> Collection[str]:
        """The tasks (`scoring.TASKS`) of its questions."""

    def scenarios(self, split: str) -> Sequence[Scenario]:
        """The questions of a split."""

    def scripts(self) -> Mapping[str, Script]:
        """Agents that can answer them, by name; may be empty."""


def question(name: str, task: str, text: str, answers: Sequence[str], **more: Json) -> Scenario:
    """A question as a scenario."""
    return Scenario(name, {"task": task, "question": text, "answers": list(answers), **more}, cluster(text))


def cluster(text: str) -> str:
    """The cluster of a question, independent of its spelling."""
    return f"qa:{digest(normalise(text))[:16]}"


@dataclass(frozen=True, slots=True)
class Selection:
    """A part of a file: rows `start` to `end` (exclusive; None: to the last) in the file's order, or in the order of
    `random.Random(shuffle)`, which is FireAct's with shuffle=233.

    `task` is one of hotpotqa, bamboogle, strategyqa, mmlu. None takes it from each row of expert trajectories.
    """

    path: str
    task: str | None = None
    shuffle: int | None = None
    start: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise InputError(f"task={self.task!r}, expected one of {', '.join(TASKS)}")
        if not Path(self.path).is_file():
            raise FileNotFoundError(f"{self.path}: there is no such file of questions")

    def scenarios(self) -> Iterator[Scenario]:
        """The chosen questions. InputError names the row that is none."""
        rows = _rows(self.path)
        order = list(range(len(rows)))
        if self.shuffle is not None:
            Random(self.shuffle).shuffle(order)
        chosen = order[self.start : self.end]
        if not chosen:
            raise InputError(f"{self.path} has {len(rows)} questions, none from {self.start} to {self.end}")
        for number in chosen:
            try:
                yield self._scenario(number, rows[number])
            except REFUSED as error:
                raise InputError(f"{self.path}, question {number}: {reason(error)}") from None

    def _scenario(self, number: int, row: Any) -> Scenario:
        if isinstance(row, dict) and "output" in row:
            expert = from_row(row)
            return self._question(number, self.task or expert.task, expert.question, expert.answer)
        if self.task is None:
            raise ValueError(f"the file does not tell its task: say task: {' | '.join(TASKS)}")
        return self._question(number, self.task, *_READERS[self.task](row))

    def _question(self, number: int, task: str, text: str, answer: str) -> Scenario:
        if not (isinstance(text, str) and text.strip() and isinstance(answer, str) and answer.strip()):
            raise ValueError("expected a question and its answer as text (the published test files have no answers)")
        return question(f"{task}:{Path(self.path).stem}:{number}", task, text.strip(), [answer])


class FileQuestions:
    """Questions from files. Each split is a list of selections, such as {task: hotpotqa, path: hotpotqa_dev.json,
    shuffle: 233, end: 500}; validation and test may also be shares of train. Of equal questions in one split the first
    is used.

    held_out  treatment of train questions that are also in validation or test: refuse (InputError), or leave_out.
              Evaluation questions are never trained on.
    """

    def __init__(
        self,
        train: Sequence[Mapping[str, Any]],
        validation: Sequence[Mapping[str, Any]] | float = 0.1,
        test: Sequence[Mapping[str, Any]] | float = 0.1,
        split_seed: int = 0,
        held_out: Literal["refuse", "leave_out"] = "refuse",
    ) -> None:
        if held_out not in ("refuse", "leave_out"):
            raise InputError(f"questions.held_out={held_out!r}, expected refuse or leave_out")
        self.held_out = held_out
        given = {"train": train, "validation": validation, "test": test}
        self.selections = {
            split: [_selection(split, each) for each in found]
            for split, found in given.items() if not isinstance(found, float | int)
        }  # fmt: skip
        shares = {split: float(found) for split, found in given.items() if isinstance(found, float | int)}
        if any(not 0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
            raise InputError(
                f"questions: validation={validation}, test={test}: expected files, or shares that leave train"
            )
        self.shares, self.split_seed = shares, split_seed
        self.files = {
            f"{split}.{number}": each.path
            for split, found in self.selections.items() for number, each in enumerate(found)
        }  # fmt: skip

    def scenarios(self, split: str) -> Sequence[Scenario]:
        return self._splits[split]

    @cached_property
    def tasks(self) -> Collection[str]:
        return {scenario.data["task"] for found in self._splits.values() for scenario in found}

    def scripts(self) -> Mapping[str, Script]:
        """None."""
        return {}

    @cached_property
    def _splits(self) -> Mapping[str, tuple[Scenario, ...]]:
        splits: dict[str, dict[str, Scenario]] = {split: {} for split in SPLITS}
        shared: list[tuple[Scenario, Scenario]] = []
        for split in reversed(SPLITS):  # what is held out by name stays held out
            held = {key: each for other in splits.values() if other is not splits[split] for key, each in other.items()}
            for scenario in (each for one in self.selections.get(split, ()) for each in one.scenarios()):
                if scenario.cluster in held:
                    shared.append((scenario, held[scenario.cluster]))
                else:
                    splits[self._place(split, scenario)].setdefault(scenario.cluster, scenario)
        if shared and self.held_out == "refuse":
            first, second = shared[0]
            raise InputError(
                f"questions: {len(shared)} questions are in two splits, the first as {first.id} and {second.id}: take "
                "them out of one, or say questions.held_out=leave_out"
            )
        if empty := [split for split, found in splits.items() if not found]:
            raise InputError(f"questions: no question is left for {' and '.join(empty)}: give files or larger shares")
        return {split: tuple(found.values()) for split, found in splits.items()}

    def _place(self, split: str, scenario: Scenario) -> str:
        if split != "train":
            return split
        shares = (self.shares.get(name, 0.0) for name in ("validation", "test"))
        return belongs(fine(self.split_seed, scenario.cluster), *shares)


def _selection(split: str, data: Mapping[str, Any]) -> Selection:
    try:
        return Selection(**data)
    except TypeError as error:
        raise InputError(f"questions.{split}: {error}; expected {{path, task, shuffle, start, end}}") from None


def _rows(path: str) -> list[Any]:
    """The rows of a JSON list, or of CSV (of Bamboogle without its head)."""
    if path.endswith(".csv"):
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
        return rows[1:] if rows[:1] == [["Question", "Answer"]] else rows
    if not isinstance(rows := read_json(path), list):
        raise InputError(f"{path}: expected a JSON list of questions, or CSV")
    return rows


def _plain(row: Mapping[str, Json]) -> tuple[Json, Json]:
    return row["question"], row["answer"]


def _judged(row: Mapping[str, Json]) -> tuple[Json, Json]:
    answer = row["answer"]
    return row["question"], ("yes" if answer else "no") if isinstance(answer, bool) else answer


def _options(row: Sequence[str]) -> tuple[str, str]:
    """MMLU: question, four options, letter."""
    text, *options, letter = row
    if len(options) != 4 or letter not in "ABCD":
        raise ValueError(f"expected a question, four options and a letter from A to D, got {len(row)} fields")
    lines = (f"{name}. {option}" for name, option in zip("ABCD", options, strict=True))
    return "\n".join([f"Question: {text}", *lines]), letter


_READERS: Mapping[str, Callable[[Any], tuple[Any, Any]]] = {
    "hotpotqa": _plain,
    "bamboogle": lambda row: (row[0], row[1]),
    "strategyqa": _judged,
    "mmlu": _options,
}
