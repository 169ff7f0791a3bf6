"""Reads and writes FireAct's files (arXiv:2310.05915): trajectories of an evaluation (JSON), fine-tuning rows made of
them (Alpaca layout), and preference rows of right against wrong trajectories (ReinholdM/SPIN's convert_dpo_data).

A trajectory file is an object: index of the question -> reward, em, f1, gt (the right answer), pred, prompt, traj; traj
is one text in the Alpaca wrapper, or a list of chat messages. The last observation holds the reward; the published code
trains on it, parley only writes it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...games.base import Json, Message
from ...games.chats import read_messages, write_messages
from ...games.qa.grammar import FINISH
from ...games.qa.prompts import ALPACA
from ...games.qa.scoring import normalise
from ...games.qa.trajectory import Trajectory, from_row, from_text, to_row
from ...system.files import REFUSED, InputError, read_json, reason, write_json
from ..episode import Episode

OBSERVATION = "Observation: "
_HEAD, _MIDDLE = ALPACA.split("{question}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A question of a trajectory file: `scores` are its fields reward, em, f1, gt and pred, in the file's order."""

    steps: Trajectory
    scores: Mapping[str, Json]
    layout: Literal["alpaca", "chat"] = "alpaca"

    def to_json(self) -> dict[str, Json]:
        """The file's entry under the question's index."""
        if self.layout == "chat":
            return {**self.scores, "prompt": [], "traj": write_messages(list(_messages(self.steps)))}
        text = f"{ALPACA.format(question=self.steps.question)}\n{self.steps.text}"
        return {**self.scores, "prompt": "", "traj": text, "traj_by_line": text.split("\n")}


def read_entries(path: str | Path) -> dict[str, Entry]:
    """The questions of a trajectory file, by index. InputError names an invalid one."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected an object with a trajectory under each question's index")
    found = {}
    for index, each in data.items():
        try:
            found[index] = _entry(each)
        except REFUSED as error:
            raise InputError(f"{path}, trajectory {index}: {reason(error)}") from None
    return found


def read_rows(path: str | Path) -> list[Trajectory]:
    """The experts' rows of a file. InputError names an invalid one."""
    data, found = read_json(path), []
    if not isinstance(data, list):
        raise InputError(f'{path}: expected a JSON list of {{"instruction", "input", "output"}}')
    for number, row in enumerate(data):
        try:
            found.append(from_row(row))
        except REFUSED as error:
            raise InputError(f"{path}, row {number}: {reason(error)}") from None
    return found


def alpaca(entries: Iterable[Entry], right: bool = False) -> list[dict[str, Json]]:
    """Fine-tuning rows. `right` leaves out those without a reward; the published converter keeps them."""
    return [to_row(entry.steps) for entry in entries if entry.scores["reward"] or not right]


def right_against_wrong(one: Mapping[str, Entry], other: Mapping[str, Entry]) -> list[dict[str, Json]]:
    """Preference rows {"instruction", "input", "chosen", "rejected"} for the questions that exactly one of the two
    answered right; in the order of `one`."""
    rows = []
    for index, first in one.items():
        second = other.get(index)
        if second is None or bool(first.scores["reward"]) == bool(second.scores["reward"]):
            continue
        chosen, rejected = (first, second) if first.scores["reward"] else (second, first)
        rows.append(_preference(chosen.steps, rejected.steps))
    return rows


def entries(episodes: Iterable[Episode]) -> Iterator[tuple[str, Entry]]:
    """(scenario id, entry) of each match of question answering that ended with an answer, as in the published files.
    Illegal replies are left out."""
    for episode in episodes:
        data, metrics = episode.scenario.data, episode.result.metrics
        if episode.game != "qa" or not metrics.get("finished_rate"):
            continue
        steps = _steps(episode)
        words, reward = "f1" in metrics, episode.result.returns["agent"]
        told: Json = bool(reward) if words else int(reward)
        ended = (*steps.observations, f"Episode finished, reward = {told}")
        answer, gold = steps.answer, data["answers"][0]
        scores = {
            "reward": told, "em": told, **({"f1": metrics["f1"]} if words else {}),
            "gt": normalise(gold) if words else gold, "pred": normalise(answer) if words else answer,
        }  # fmt: skip
        yield episode.scenario.id, Entry(replace(steps, observations=ended), scores)


def contrasts(episodes: Iterable[Episode]) -> Iterator[dict[str, Json]]:
    """Preference rows from matches: for each question the first right one against the first wrong one."""
    seen: dict[str, dict[bool, Trajectory]] = {}
    for scenario, entry in entries(episodes):
        sides = seen.setdefault(scenario, {})
        if len(sides) < 2 and bool(entry.scores["reward"]) not in sides:
            sides[bool(entry.scores["reward"])] = entry.steps
            if len(sides) == 2:
                yield _preference(sides[True], sides[False])


def export(folder: Path, episodes: Collection[Episode]) -> Iterator[Path]:
    """Writes `trajectories.json` (the first finished match of each question), `alpaca.json`, `alpaca_right.json` (right
    answers only) and `right_wrong.json` (preference rows) into `folder`; nothing for matches of another game."""
    found: dict[str, Entry] = {}
    for scenario, entry in entries(episodes):
        found.setdefault(scenario, entry)
    if not found:
        return
    files: Mapping[str, Json] = {
        "trajectories": {scenario: entry.to_json() for scenario, entry in found.items()},
        "alpaca": alpaca(found.values()),
        "alpaca_right": alpaca(found.values(), right=True),
        "right_wrong": list(contrasts(episodes)),
    }
    for name, data in files.items():
        write_json(path := folder / f"{name}.json", data)
        yield path


def _preference(chosen: Trajectory, rejected: Trajectory) -> dict[str, Json]:
    one, other = to_row(chosen), to_row(rejected)
    return {**{key: one[key] for key in ("instruction", "input")}, "chosen": one["output"], "rejected": other["output"]}


def _steps(episode: Episode) -> Trajectory:
    """The legal replies of a match, and the observations after them as the agent saw them."""
    refused = episode.refused("agent")
    replies = [turn.text.strip() for turn in episode.turns if turn.seat == "agent" and turn.request not in refused]
    found = [" ".join(turn.text.split()) or "None" for turn in episode.turns if turn.seat not in ("agent", FINISH)]
    return Trajectory(episode.scenario.data["question"], tuple(replies), tuple(found))


def _entry(data: Mapping[str, Json]) -> Entry:
    scores = {key: data[key] for key in ("reward", "em", "f1", "gt", "pred") if key in data}
    if "reward" not in scores:
        raise ValueError("lacks the reward")
    if isinstance(data["traj"], list):
        return Entry(_chat(read_messages(data["traj"])), scores, "chat")
    head, middle, steps = data["traj"].partition(f"{_MIDDLE}\n")
    if not middle or not head.startswith(_HEAD):
        raise ValueError("traj is neither a chat nor in the Alpaca layout")
    return Entry(from_text(head.removeprefix(_HEAD), steps), scores)


def _chat(messages: tuple[Message, ...]) -> Trajectory:
    """Question, then replies and observations in turn."""
    question, *rest = messages
    replies, seen = rest[::2], rest[1::2]
    told = all(each.role == "user" and each.content.startswith(OBSERVATION) for each in seen)
    if len(replies) != len(seen) or any(each.role != "assistant" for each in replies) or not told:
        raise ValueError("expected a question, then replies and observations in turn")
    observations = tuple(each.content.removeprefix(OBSERVATION) for each in seen)
    return Trajectory(question.content, tuple(each.content for each in replies), observations)


def _messages(steps: Trajectory) -> Iterator[Message]:
    yield Message("user", steps.question)
    for reply, seen in zip(steps.replies, steps.observations, strict=True):
        yield Message("assistant", reply)
        yield Message("user", f"{OBSERVATION}{seen}")
