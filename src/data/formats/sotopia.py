"""Sotopia's records of episodes, in and out: its own (EpisodeLog) and the rated dialogues of Sotopia-π.

An episode is read as actions, and then played: the game asks, the record answers. So what is read is a match like any
other, which replays, and whose views are the very prompts that a model would be shown. A seat that the record passes
over did nothing in its turn. What a record says in other words than ours (a stray comma, a piece of a torn reply) is
kept beside the turn, and written back as it was.

    EpisodeLog   {"environment", "agents", "models", "messages": [[[sender, receiver, text], …], …], "rewards", …}
    dialogue     {"episode", "scenario", "names", "personal_info", "social_goal", "parsed_conversation": [{"speaker",
                 "dialogue"}, …]}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...games.base import Game, Json, Reply, Scenario
from ...games.social.actions import NONE, Action, heard, parse
from ...games.social.people import Person, Task
from ...games.social.prompts import STARTS
from ...system.files import read_jsonl
from ..consent import trainable
from ..episode import Episode, Turn
from ..scorer import Scored, Scores, scored
from ..store import Matches
from .messages import write_lines

ENVIRONMENT = "Environment"
DIMENSIONS = (
    "believability", "relationship", "knowledge", "secret", "social_rules", "financial_and_material_benefits", "goal",
)  # fmt: skip
_TAIL = re.compile(r"\nTurn #\d+,?\s*\Z")
OURS = "sotopia"  # names what is kept of the record, in an episode's and a turn's further fields
VERSION = "imported"


@dataclass(frozen=True, slots=True)
class Line:
    """What a character did, and how the record writes it."""

    place: int
    action: Action
    text: str


@dataclass(frozen=True, slots=True)
class Record:
    """A recorded episode: its task and lines in order, and all else that the record says (`rest`).

    `rewards` are a judge's scores, dimension -> score for each character; None where there are none."""

    name: str
    task: Task
    lines: tuple[Line, ...]
    models: tuple[str, ...]
    rest: Mapping[str, Json]
    rewards: tuple[Mapping[str, float] | None, ...] = ()


def read(path: str | Path, known: Iterable[Scenario] = ()) -> Iterator[Record]:
    """The episodes of a JSONL file, in either layout. `known` scenarios tell the relationship of a dialogue, and the
    task of an EpisodeLog, which only names it. InputError names the line that is neither."""
    tasks = [Task.from_json(each.data) for each in known]
    return read_jsonl(path, lambda row: _dialogue(row, tasks) if "parsed_conversation" in row else _log(row, tasks))


def _dialogue(row: Mapping[str, Any], known: Sequence[Task]) -> Record:
    names = tuple(row["names"])
    like = next((task for task in known if task.situation == row["scenario"]), None)
    task = Task(
        row["scenario"],
        like.relationship if like else 0,
        tuple(row["social_goal"][name] for name in names),
        tuple(_person(row["personal_info"][name]) for name in names),
        like.environment if like else "",
        like.codename if like else "",
    )
    lines = tuple(_said(turn["speaker"], turn["dialogue"], names) for turn in row["parsed_conversation"])
    rest = {key: value for key, value in row.items() if key != "parsed_conversation"}
    return Record(str(row["episode"]), task, lines, (str(row.get("model", "")),) * len(names), rest)


def _person(told: Mapping[str, Any]) -> Person:
    return Person(
        told["name"], int(told["age"]), told["profession"], "", told["pronouns"], told["interests"],
        told["personality"], told["secrets"],
    )  # fmt: skip


def _said(speaker: str, text: str, names: Sequence[str]) -> Line:
    """A line of a dialogue, whose layout puts speech in quotation marks and all else behind the speaker's name."""
    if speaker not in names:
        raise ValueError(f"the speaker {speaker!r} is none of {', '.join(names)}")
    told = _TAIL.sub("", text).strip()
    bare = " ".join(told.removeprefix(speaker).strip().rstrip(".,").split())
    action = heard(bare) or Action("speak", " ".join(told.strip('"').split()))
    return Line(names.index(speaker), action if action.argument or action.kind != "speak" else NONE, text)


def _shown(action: Action, name: str) -> str:
    """How a dialogue writes an action, as a rule. Of who did nothing it says nothing."""
    if action == NONE:
        return ""
    if action.kind == "speak":
        return f'"{action.argument}"'
    return f"{name} {action.told()}." if action.kind == "leave" else f"{name} {action.told()}\n"


def _log(row: Mapping[str, Any], known: Sequence[Task]) -> Record:
    cast = tuple(str(each) for each in row["agents"])
    pairs = {(each.environment, *(person.id for person in each.people)): each for each in known}
    like = pairs.get((row["environment"], *cast))
    if like is None:
        raise ValueError(f"no pair of game.path plays the environment {row['environment']} with {', '.join(cast)}")
    lines = []
    for turn in row["messages"]:
        for sender, receiver, text in turn:
            if receiver == ENVIRONMENT and sender in like.names and text != NONE.told():
                if (action := heard(" ".join(text.split()))) is None:
                    raise ValueError(f"{sender} did {text[:60]!r}, which is no action")
                lines.append(Line(like.names.index(sender), action, text))
    models = tuple(str(each) for each in (row.get("models") or ["", *[""] * len(cast)])[1:])
    name = str(row.get("pk") or f"{row['environment']}-{'-'.join(cast)}")
    return Record(name, like, tuple(lines), models, row, tuple(map(_reward, row.get("rewards") or ())))


def _reward(given: Json) -> Mapping[str, float] | None:
    """A character's scores; None for the bare number that stands for a judge's failure."""
    if not isinstance(given, list | tuple) or len(given) != 2 or not isinstance(given[1], dict):
        return None
    return {name: float(score) for name, score in given[1].items() if name in (*DIMENSIONS, "overall_score")}


# --- to matches and back ---------------------------------------------------------------------------------------------


def match(record: Record, game: Game, stage: str) -> Episode:
    """The record as a match of `game` (game=social). What comes after its end by the rules is kept, not played."""
    lines, name = _filled(record), record.name.replace("/", "|")
    task = replace(record.task, ends=len(lines))
    scenario = Scenario(name, task.to_json(), task.environment or name)
    seats = [f"agent_{place + 1}" for place in range(len(task.people))]
    played, turns = game.match(scenario, 0), list[Turn]()
    asked = played.start()
    while asked:
        (request,), line = asked, lines[len(turns)]
        extra = {} if line.text == _shown(line.action, task.names[line.place]) else {OURS: line.text}
        turns.append(Turn(request.id, request.seat, request.kind, line.action.written(), extra=extra))
        asked = played.step([Reply(request.id, turns[-1].text)])
    after = [[line.place, line.text] for line in lines[len(turns) :] if line.text]
    return Episode(
        f"{stage}/{name}/0", game.name, game.version, scenario, 0,
        dict(zip(seats, record.models, strict=True)), dict.fromkeys(seats, VERSION), tuple(turns), played.result(),
        extra={OURS: {**record.rest, **({"after": after} if after else {})}},
    )  # fmt: skip


def scores(record: Record) -> Scores:
    """The judge's scores that the record has: dimension -> {seat: score}."""
    found: dict[str, dict[str, float]] = {}
    for place, given in enumerate(record.rewards):
        for name, score in (given or {}).items():
            found.setdefault("overall" if name == "overall_score" else name, {})[f"agent_{place + 1}"] = score
    return found


def _filled(record: Record) -> list[Line]:
    """The lines with one for each turn: a seat that was passed over did nothing."""
    found: list[Line] = []
    for line in record.lines:
        while (place := len(found) % len(record.task.people)) != line.place:
            found.append(Line(place, NONE, ""))
        found.append(line)
    return found


def row(episode: Episode, scores: Scores, tag: str = "") -> dict[str, Json]:
    """An episode of game=social as a record: in the layout in which it was read, else as an EpisodeLog. A seat without
    all seven `scores` (dimension -> {seat: score}) has the reward 0.0, which stands for no verdict there."""
    own = dict(episode.extra.get(OURS, {}))
    task, log = Task.from_json(episode.scenario.data), actions(episode)
    if "messages" in own:
        return own
    if "names" in own:
        written = [(line.place, line.text) for line in log if line.text] + own.pop("after", [])
        spoken = [{"speaker": task.names[place], "dialogue": text} for place, text in written]
        return {**own, "parsed_conversation": spoken}
    return {
        "pk": episode.id,
        "environment": task.environment,
        "agents": [person.id for person in task.people],
        "tag": tag,
        "models": [episode.players.get("judge", ""), *(episode.players[seat] for seat in episode.result.returns)],
        "messages": _messages(task, log),
        "reasoning": "",
        "rewards": [_rewarded(seat, scores) for seat in episode.result.returns],
        "rewards_prompt": "",
    }


def actions(episode: Episode) -> list[Line]:
    """What each character did, turn by turn, with the words of the record that it was read from."""
    task, found = Task.from_json(episode.scenario.data), list[Line]()
    refused = frozenset[str]().union(*(episode.refused(seat) for seat in episode.result.returns))
    for turn in episode.turns:
        if turn.seat in episode.result.returns and turn.request not in refused:
            place, action = (
                int(turn.seat.removeprefix("agent_")) - 1,
                parse(Reply(turn.request, turn.text, turn.finish)),
            )
            if isinstance(action, Action):
                found.append(Line(place, action, turn.extra.get(OURS, _shown(action, task.names[place]))))
    return found


def _messages(task: Task, log: Sequence[Line]) -> list[Json]:
    """The turns as an EpisodeLog has them: what each is shown, then what each did; at last what is shown alone."""
    seen = [f"{task.context(place)}\n{STARTS}" for place in range(len(task.people))]
    turns: list[Json] = []
    for number, line in enumerate(log):
        told = [
            [name, ENVIRONMENT, (line.action if place == line.place else NONE).told()]
            for place, name in enumerate(task.names)
        ]
        turns.append([*([ENVIRONMENT, name, text] for name, text in zip(task.names, seen, strict=True)), *told])
        seen = [f"Turn #{number}: {task.names[line.place]} {line.action.told()}"] * len(task.people)
    return [*turns, [[ENVIRONMENT, name, text] for name, text in zip(task.names, seen, strict=True)]]


def _rewarded(seat: str, scores: Scores) -> Json:
    given = {name: scores[name][seat] for name in DIMENSIONS if seat in scores.get(name, {})}
    return [sum(given.values()) / len(given), given] if len(given) == len(DIMENSIONS) else 0.0


def export(out: Path, game: Game, rounds: Iterable[Matches], tag: str) -> list[Path]:
    """Writes matches of game=social as its records (`sotopia.jsonl`), a line each, but for those with people who did
    not agree to training; of any other game nothing."""
    if game.name != "social":
        return []
    every = (each for matches in rounds for each in scored(matches) if trainable(each.episode))
    write_lines(out / "sotopia.jsonl", (row(each.episode, _scores(each), tag) for each in every))
    return [out / "sotopia.jsonl"]


def _scores(each: Scored) -> Scores:
    """What a scorer says of a match, and what a judge in the match said, which comes first."""
    metrics = each.episode.result.metrics
    return {**each.scores, **{name: value for name, value in metrics.items() if isinstance(value, Mapping)}}
