"""The figures of each person's finished matches, read from the records as they grow.

A table has a folder for each part, under the name that the config gives it. The files in it show the part's kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..data.consent import PERSON
from ..data.episode import Episode
from ..data.store import EpisodeStore
from ..report.estimates import values
from ..system.files import parse_line

PAYOFF = "payoff"


def persons(episode: Episode) -> dict[str, str]:
    """Seat -> person, for the seats in which people sat."""
    return {seat: player.removeprefix(PERSON) for seat, player in episode.players.items() if player.startswith(PERSON)}


def at_seat(episode: Episode, seat: str) -> dict[str, float]:
    """The metrics of a match at one seat, its `payoff` there, and `payoff_NAME` = 1 if the scenario names one of
    several payoffs."""
    player, drawn = episode.players[seat], episode.scenario.data.get(PAYOFF)
    told = {f"{PAYOFF}_{drawn}": 1.0} if isinstance(drawn, str) else {}
    return {**values(episode, [player]), PAYOFF: episode.result.returns.get(seat, 0.0), **told}


def folders(table: Path) -> list[Path]:
    """The folders of the parts of a table, sorted."""
    return sorted(each for each in table.iterdir() if each.is_dir() and not each.is_symlink()) if table.is_dir() else []


def stores(table: Path) -> list[Path]:
    """The folders of parts that hold matches."""
    return [each for each in folders(table) if EpisodeStore(each, shard=None).shards()]


class Played:
    """The finished matches at a table. Each call of `of` reads only the matches added since the last one."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self._read: dict[Path, int] = defaultdict(int)  # shard -> bytes
        self._of: dict[str, list[Mapping[str, float]]] = defaultdict(list)

    def of(self, person: str) -> list[Mapping[str, float]]:
        """The figures of each match of a person, in the order in which they ended."""
        for episode in self._new():
            for seat, who in persons(episode).items():
                self._of[who].append(at_seat(episode, seat))
        return self._of[person]

    def _new(self) -> Iterator[Episode]:
        shards = [path for folder in stores(self.table) for path in EpisodeStore(folder, shard=None).shards()]
        for path in shards:
            if path.stat().st_size <= self._read[path]:
                continue
            with open(path, "rb") as file:
                file.seek(self._read[path])
                for line in file:
                    if line.endswith(b"\n"):
                        self._read[path] += len(line)
                        yield parse_line(line, path, 0, Episode.from_json)
