"""clembench's results folder: writes it from stored matches, reads it into rows for imitation, and makes its table.

    results/<models>/run.json
    results/<models>/<game>/<experiment>/experiment.json
    results/<models>/<game>/<experiment>/instance_00003/{instance,interactions,scores,player_1.requests,completed}.json

A match is replayed so that clemcore's own recorders make the files; `clem score`, `clem transcribe` and `clem eval` can
read them. The table is that of `clem eval`, with its rounding.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias

from ...games.base import GeneratorMatch, Message, Reply
from ...games.clembench.game import Clembench
from ...games.clembench.match import Records
from ...system.files import InputError, read_json, write_text
from ..episode import Episode
from .messages import Log

Layout: TypeAlias = Literal["instances", "episodes", "epochs"]
"""Folders of matches: instance_<id> (one match per instance), episode_<n> (in the order of play), or, for several
matches per instance, epoch_<n>/…/instance_<id>."""
RECORD = "interactions.json"  # of one match
NEVER = "1970-01-01T00:00:00"  # timestamp of stored turns, which parley does not record


@dataclass(frozen=True, slots=True)
class Scored:
    """One match's scores from scores.json. `played`: 1 if no reply aborted it; `main`: the Main Score, if any."""

    game: str
    experiment: str
    instance: str
    scores: Mapping[str, Any]

    @property
    def played(self) -> float:
        return 1 - float(self.scores["Aborted"])

    @property
    def main(self) -> float | None:
        score = self.scores.get("Main Score")
        return float(score) if isinstance(score, int | float) and not math.isnan(score) else None


def records(game: Clembench, episode: Episode) -> Records:
    """The contents of clemcore's recorders after a replay of the stored match."""
    table = game.table(episode.scenario, episode.seed)
    match, turns = GeneratorMatch(table.play()), iter(episode.turns)
    requests = match.start()
    while requests:
        given = islice(turns, len(requests))
        requests = match.step([Reply(turn.request, turn.text, turn.finish) for turn in given])
    return table.records


def write(root: Path, models: str, matches: Iterable[tuple[Clembench, Episode]], layout: Layout) -> list[Scored]:
    """Writes the matches below `root`/`models`; returns the scores of those that clemcore can score.

    InputError for a second match of an instance with the layout `instances`.
    """
    found, times, written = list[Scored](), Counter[str](), Counter[str]()
    for number, (game, episode) in enumerate(matches, 1):
        times[episode.scenario.id] += 1
        if layout == "instances" and times[episode.scenario.id] > 1:
            raise InputError(f"{episode.scenario.id} was played twice: choose the layout episodes or epochs")
        epoch = (f"epoch_{times[episode.scenario.id]:05d}",) if layout == "epochs" else ()
        experiment, instance = episode.scenario.data["experiment"], episode.scenario.data["game_id"]
        name = f"episode_{number:05d}" if layout == "episodes" else f"instance_{int(instance):05d}"
        folder = root.joinpath(models, *epoch, game.game, experiment)
        record = records(game, episode)
        _store(folder / name, _files(models, record, game.instances.rows[experiment, instance], episode))
        players = sorted({*episode.policies.values(), *episode.players.values()} - {""})
        head = {**game.instances.experiments[experiment], "timestamp": NEVER, "game_name": game.game}
        _store(folder, {"experiment": {**head, "player_models": [{"model_name": each} for each in players]}})
        written[game.game] += 1
        if record.scores:
            found.append(Scored(game.game, experiment, instance, record.scores["episode scores"]))
    games = {game: {"num_instances": count} for game, count in sorted(written.items())}
    _store(root / models, {"run": {"created": NEVER, "player_models": [{"model_name": models}], "games": games}})
    return found


def _files(models: str, record: Records, instance: Mapping[str, Any], episode: Episode) -> dict[str, Any]:
    """The files of one match, by name."""
    interactions = _timeless(record.interactions)
    interactions["meta"]["results_folder"] = models
    interactions["player_models"] = [{"model_name": models}]
    files = {"interactions": interactions, "instance": instance}
    for player, call in record.calls.items():
        if len(call):
            files["_".join(player.lower().split()) + ".requests"] = _timeless(call.requests)
    if record.scores:
        files["scores"] = record.scores
    over = episode.result.outcome in ("success", "failure", "aborted", "unscored")
    return files | ({"completed": {"timestamp": NEVER}} if over else {"error": {"error": episode.result.outcome}})


def _timeless(value: Any) -> Any:
    """Replaces the replay's timestamps, so that writing twice gives equal folders."""
    if isinstance(value, Mapping):
        return {key: NEVER if key == "timestamp" else _timeless(each) for key, each in value.items()}
    return [_timeless(each) for each in value] if isinstance(value, list | tuple) else value


def _store(folder: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        write_text(folder / f"{name}.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# The table


def table(rows: Sequence[Scored]) -> dict[str, float]:
    """clemscore, and % played and quality of each game and of all: the columns of `clem eval`.

    Quality is the mean Main Score of the matches that were played to their end; NaN if there are none. Means over games
    weigh each game equally. As in `clem eval`, every figure is rounded to two places before it enters the next.
    """
    figures: dict[str, float] = {}
    for game in sorted({row.game for row in rows}):
        own = [row for row in rows if row.game == game]
        figures[f"{game}, % Played"] = round(100 * fmean(row.played for row in own), 2)
        scores = [row.main for row in own if row.main is not None]
        figures[f"{game}, Quality Score"] = round(fmean(scores), 2) if scores else math.nan
    played = [value for name, value in figures.items() if name.endswith("Played")]
    quality = [value for name, value in figures.items() if name.endswith("Score") and not math.isnan(value)]
    head = {
        "all, Average % Played": round(fmean(played), 2) if played else math.nan,
        "all, Average Quality Score": round(fmean(quality), 2) if quality else math.nan,
    }
    clemscore = round(head["all, Average % Played"] / 100 * head["all, Average Quality Score"], 2)
    return {"-, clemscore": clemscore, **head, **figures}


def write_table(root: Path, models: str, figures: Mapping[str, float]) -> None:
    """Writes results.csv and results.html with one row, as `clem eval` does."""
    cells = ["" if math.isnan(value) else f"{value:.10g}" for value in figures.values()]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["", *figures], [models, *cells]])
    write_text(root / "results.csv", text.getvalue())
    head, row = (
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)
        for tag, line in (("th", ["", *figures]), ("td", [models, *cells]))
    )
    write_text(
        root / "results.html", f'<table border="1" class="dataframe">\n<tr>{head}</tr>\n<tr>{row}</tr>\n</table>\n'
    )


# Rows


def read(path: str | Path) -> Iterator[tuple[str, Log]]:
    """(id, log) of each model's seat in each match of a results folder, also of published ones.

    A log is the seat's chat, without side questions that it forgets; in an aborted match the last reply is rejected.
    Its meta has game, experiment, task_id, player_name, game_role, model and outcome. InputError names a file that is
    not clembench's, or a folder without such files.
    """
    root, count = Path(path), 0
    for file in _records(root):
        count += 1
        data = read_json(file)
        try:
            yield from _logs(root, file, data)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{file} is no record of clembench: {error!r}") from error
    if not count:
        raise InputError(f"{path} holds no interactions.json: give the path of a results folder of clembench")


def _records(root: Path) -> Iterator[Path]:
    """The files of matches below a folder, in order and one by one, because a folder may be large."""
    for folder, below, names in os.walk(root):
        below.sort()
        if RECORD in names:
            yield Path(folder) / RECORD


def _logs(root: Path, file: Path, data: Mapping[str, Any]) -> Iterator[tuple[str, Log]]:
    meta, outcome = data["meta"], _outcome(file.with_name("scores.json"))
    events = [event for turn in data["turns"] for event in turn]
    last = next((event["from"] for event in reversed(events) if event["to"] == "GM" != event["from"]), "")
    for player, said in data["players"].items():
        if player == "GM" or said["model_name"] in ("programmatic", "mock"):
            continue
        messages = _chat(player, events)
        if not any(message.role == "assistant" for message in messages):
            continue
        facts = {
            "game": meta["game_name"], "experiment": meta["experiment_name"], "task_id": meta["game_id"],
            "player_name": player, "game_role": said["game_role"], "model": said["model_name"], "outcome": outcome,
        }  # fmt: skip
        broke = outcome == "aborted" and player == last and messages[-1].role == "assistant"
        rejected = (len(messages) - 1,) if broke else ()
        yield f"{file.parent.relative_to(root)}/{player}", Log(tuple(messages), facts, rejected)


def _chat(player: str, events: Sequence[Mapping[str, Any]]) -> list[Message]:
    """A player's chat, with consecutive messages of one speaker joined as in clemcore's backends."""
    messages: list[Message] = []
    for event in events:
        action = event["action"]
        if action.get("label") == "forget" or {event["from"], event["to"]} != {"GM", player}:
            continue
        role: Literal["user", "assistant"] = "user" if event["to"] == player else "assistant"
        if messages and messages[-1].role == role:
            messages[-1] = Message(role, f"{messages[-1].content}\n\n{action['content']}")
        else:
            messages.append(Message(role, str(action["content"])))
    return messages


def _outcome(scores: Path) -> str | None:
    """aborted, success or failure; None if a match was not scored."""
    if not scores.is_file():
        return None
    found = read_json(scores).get("episode scores", {})
    return "aborted" if found.get("Aborted") else "success" if found.get("Success") else "failure"
