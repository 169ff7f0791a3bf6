"""Exports of people's work as JSONL and CSV: ratings (for task=agreement), votes, persons, matches.

Persons are pseudonyms: the file that maps them to tokens and outer ids is never read here.
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
    """The folders of a table's studies, recognised by their files."""
    return [each for each in folders(table) if (each / FILE).exists()]


def tables(taken: Sequence[Path], matches: Iterable[Episode]) -> dict[str, Rows]:
    """File name -> rows, from the events of the studies `taken` and the matches that people played."""
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
    """Adds each person's current consent to the matches, in the format of `data.consent`. A person in several studies
    has allowed training only if all of them say so."""
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
    """A row for each person in the match."""
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
    """Flattens {"scores": {"goal": 3}} to ("scores.goal", 3). Text that a spreadsheet would run as a formula is
    quoted."""
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{key}.")
        else:
            formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@")
            yield f"{head}{key}", f"'{value}" if formula else value


def figures(matches: Iterable[Episode], votes: Rows) -> dict[str, dict[str, Any]]:
    """All figures as JSON: those of each player in matches with people, and of the votes."""
    found = {f"{player}, with people": to_json(each) for player, each in against(matches).items()}
    side = preferred(votes)
    return {**found, **({} if side is None else {"votes": to_json({"right preferred": side})})}


def preferred(votes: Rows) -> Estimate | None:
    """The share of votes for the study's `right` over its `left` (ties and both bad count a half), clustered by person
    and scenario. None without a vote."""
    if not votes:
        return None
    worth = {"left": 1.0, "right": 0.0}
    sides = [(vote, worth.get(vote["vote"], 0.5)) for vote in votes]
    won = [own if vote["left"] == vote["second"] else 1.0 - own for vote, own in sides]
    return two_way(won, [vote["person"] for vote in votes], [vote["cluster"] for vote in votes])


def against(matches: Iterable[Episode]) -> dict[str, dict[str, Estimate]]:
    """Evaluation against people: player -> metrics and payoff in matches with people, clustered by person and scenario.

    The players are the people's partners, and "people" for all persons together.
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
    """Player -> its seats; all persons count as one player."""
    found: dict[str, list[str]] = defaultdict(list)
    for seat, player in episode.players.items():
        found["people" if seat in there else player].append(seat)
    return found
