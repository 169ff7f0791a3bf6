"""What people did, as files for others: ratings as task=agreement reads them, votes, persons; each as JSONL and CSV.

Nothing here knows who people are: persons are pseudonyms, and their map (tokens, outer ids) is never read.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.consent import CONSENT
from ..data.episode import Episode
from ..report.estimates import Estimate, to_json, two_way, values
from ..system.files import replacing
from .events import FILE, read, standings
from .plan import Standing
from .played import at_seat, folders, persons

Rows = Sequence[Mapping[str, Any]]


def studies(table: Path) -> list[Path]:
    """The folders of the studies of a table, whatever their names."""
    return [each for each in folders(table) if (each / FILE).exists()]


def tables(taken: Sequence[Path], matches: Iterable[Episode]) -> dict[str, Rows]:
    """The rows by the name of their file, from the events of the studies `taken` and the matches that people played."""
    events = [event for study in taken for event in read(study)]
    ratings = [row for event in events if event["what"] == "rating" for row in event["rows"]]
    votes = [
        {key: value for key, value in event.items() if key not in ("what", "item")}
        for event in events
        if event["what"] == "vote"
    ]
    played = [row for episode in matches for row in _match(episode)]
    people = [_person(study, name, now, played) for (study, name), now in standings(taken).items()]
    return {"ratings": ratings, "votes": votes, "persons": people, "matches": played}


def consented(taken: Sequence[Path], matches: Iterable[Episode]) -> Iterator[Episode]:
    """The matches with what each person in them has agreed to by now, as `data.consent` reads it. Who took several
    studies has allowed training if each of them says so."""
    agreed: dict[str, list[Standing]] = defaultdict(list)
    for (_, person), now in standings(taken).items():
        agreed[person].append(now)
    for episode in matches:
        told = {seat: _agreed(person, agreed[person]) for seat, person in persons(episode).items()}
        yield replace(episode, extra={**episode.extra, CONSENT: told})


def _agreed(person: str, given: Sequence[Standing]) -> dict[str, Any]:
    versions = " and ".join(now.consent for now in given if now.consent)
    training = bool(given) and all(now.training for now in given)
    return {"person": person, "version": versions or None, "training": training}


def _match(episode: Episode) -> list[dict[str, Any]]:
    """A row for each person at the table."""
    whole = {"match": episode.id, "scenario": episode.scenario.id, "cluster": episode.scenario.cluster}
    return [
        {**whole, "seat": seat, "person": person, "outcome": episode.result.outcome, **at_seat(episode, seat)}
        for seat, person in persons(episode).items()
    ]


def _person(study: str, name: str, now: Standing, played: Rows) -> dict[str, Any]:
    base, bonus = now.paid or (None, None)
    return {
        "study": study,
        "person": name,
        "consent": now.consent,
        "training": now.training,
        "understood": now.understood,
        "tries": now.tries,
        "attention": now.attention.count(True),
        "misses": now.attention.count(False),
        "ratings": len(now.rated),
        "votes": len(now.voted),
        "matches": sum(row["person"] == name for row in played),
        "completed": now.paid is not None,
        "base": base,
        "bonus": bonus,
    }


def write(folder: Path, found: Mapping[str, Rows]) -> None:
    """Writes each table as NAME.jsonl and NAME.csv."""
    for name, rows in found.items():
        with replacing(folder / f"{name}.jsonl") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        flat = [dict(_flat(row)) for row in rows]
        with replacing(folder / f"{name}.csv") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
            writer.writeheader()
            writer.writerows(flat)


def _flat(row: Mapping[str, Any], head: str = "") -> Iterable[tuple[str, Any]]:
    """{"scores": {"goal": 3}} as ("scores.goal", 3). A text that a spreadsheet would compute is marked as text."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{key}.")
        else:
            formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@")
            yield f"{head}{key}", f"'{value}" if formula else value


def figures(matches: Iterable[Episode], votes: Rows) -> dict[str, dict[str, Any]]:
    """All figures as JSON: those of each player at the tables of people, and of votes."""
    found = {f"{player}, with people": to_json(each) for player, each in against(matches).items()}
    side = preferred(votes)
    return {**found, **({} if side is None else {"votes": to_json({"right preferred": side})})}


def preferred(votes: Rows) -> Estimate | None:
    """How often the matches of the study's `right` were preferred to those of its `left`, ties and both bad as a half;
    by person and scenario. None without a vote."""
    if not votes:
        return None
    worth = {"left": 1.0, "right": 0.0}
    sides = [(vote, worth.get(vote["vote"], 0.5)) for vote in votes]
    won = [own if vote["left"] == vote["second"] else 1.0 - own for vote, own in sides]
    return two_way(won, [vote["person"] for vote in votes], [vote["cluster"] for vote in votes])


def against(matches: Iterable[Episode]) -> dict[str, dict[str, Estimate]]:
    """Evaluation against people: player -> its metrics and payoff in the matches with people, by person and scenario.

    The players are the others at these tables, and "people" themselves.
    """
    columns: dict[tuple[str, str], list[tuple[float, str, str]]] = defaultdict(list)
    for episode in matches:
        if not (there := persons(episode)):
            continue
        whom, cluster = " and ".join(sorted({*there.values()})), episode.scenario.cluster
        for player, seats in _sides(episode, there).items():
            told = values(episode, {episode.players[seat] for seat in seats})
            payoffs = [episode.result.returns[seat] for seat in seats if seat in episode.result.returns]
            for name, value in {**told, **({"payoff": sum(payoffs) / len(payoffs)} if payoffs else {})}.items():
                columns[player, name].append((value, whom, cluster))
    found: dict[str, dict[str, Estimate]] = defaultdict(dict)
    for (player, name), rows in columns.items():
        found[player][name] = two_way(*(list(column) for column in zip(*rows, strict=True)))
    return found


def _sides(episode: Episode, there: Mapping[str, str]) -> dict[str, list[str]]:
    """The seats of each player; those of people together."""
    found: dict[str, list[str]] = defaultdict(list)
    for seat, player in episode.players.items():
        found["people" if seat in there else player].append(seat)
    return found
