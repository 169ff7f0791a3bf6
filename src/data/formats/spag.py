"""SPAG's files (arXiv 2404.10642, as its code reads and writes them), in and out: episodes, training rows, Alpaca rows.

    episodes   [{"history": [{"role": "attacker"|"defender", "content"}, …], "target_word", "max_turns"}, …]
    rows       [{"query", "target", "reward", "role", "weight", "type"}, …]; type is sft for what was not played
    Alpaca     [{"instruction", "input", "output"}, …], which become rows of type sft

Each file is one JSON list. What a row leaves out counts as in their code: reward 1, weight 1, played. A query may also
be called prompt, a target answer; or both stand in one of the texts of `text`, with <sep> between them. Files are
untrusted: whatever is wrong is reported with the file and the entry's number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from ...games.base import Game, Json, Message
from ...games.taboo.game import Taboo
from ...games.taboo.judges import JUDGES, Ruling, ruling
from ...games.taboo.layouts import Draw, training_text
from ...games.taboo.prompts import Brief
from ...games.taboo.scoring import ROLES
from ...system.files import InputError, read_json, reason, write_json
from ...system.seeds import rng
from ..episode import Episode
from ..sample import Demonstration, Sample, decayed
from .skipping import skipped

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Played:
    """One episode of theirs: the word, the turns of each side, and what was said, the attacker first, in turn."""

    word: str
    turns: int
    said: tuple[str, ...]

    def ending(self, judge: str = "legacy") -> tuple[Ruling | None, int]:
        """(how it ends by the rules, utterances until then): what is said later, or after the last turn, does not
        count."""
        asked = JUDGES[judge](self.word)
        within = self.said[: 2 * self.turns]
        for number, text in enumerate(within):
            if (ruled := ruling(asked, ROLES[number % 2], text)) is not None:
                return ruled, number + 1
        return None, len(within)


@dataclass(frozen=True, slots=True)
class Row:
    """A text to continue and how: one utterance of a winner, or a row of another data set (type sft), which has no
    reward."""

    query: str
    target: str
    reward: float = 1.0
    weight: float = 1.0
    role: str = ""
    type: str = ""

    def demonstration(self, name: str) -> Demonstration:
        """The row as a chat: the query is the user's, the target the assistant's, with the row's weight."""
        chat = (Message("user", self.query), Message("assistant", self.target))
        return Demonstration(name, chat, (0.0, self.weight))

    def sample(self, name: str, render: Callable[[Demonstration], Sample]) -> Sample:
        """The row as something to train on, with its reward, weight and kind; `render` makes tokens of a chat."""
        made = render(replace(self, weight=1.0).demonstration(name))
        kind = "sft" if self.type == "sft" else "act"
        said = (replace(each, reward=self.reward, weight=self.weight, kind=kind) for each in made.utterances)
        return replace(made, utterances=tuple(said))


# --- what they make of episodes ---------------------------------------------------------------------------------------


def played(episode: Episode, turns: int) -> Played:
    """What was said in a match of Taboo whose sides had `turns` each; illegal replies, which were asked for again, left
    out. An utterance that broke the rules was said: their judge finds it."""
    refused = {request for seat in ROLES for request in episode.refused(seat)}
    if episode.result.outcome == "breach":
        refused.discard(episode.turns[-1].request)
    return Played(
        episode.scenario.data["word"], turns, tuple(turn.text for turn in episode.turns if turn.request not in refused)
    )


def rows(games: Sequence[Played], chance: Random, judge: str = "legacy", gamma: float = 0.8) -> list[Row]:
    """The winners' utterances as rows to train on (their assign_rewards), each in a layout of its own that `chance`
    draws.

    With n utterances of the winner, the j-th has the reward gamma^(n-j) (1 - gamma) / (1 - gamma^n); the weight is
    N / (2 N_role) for N games that somebody won, N_role of them in this role. Losers, ties, rule breaks and empty
    utterances have no rows.
    """
    endings = [game.ending(judge) for game in games]
    wins = Counter(ruled for ruled, _ in endings if ruled in ROLES)
    found: list[Row] = []
    for game, (winner, length) in zip(games, endings, strict=True):
        if winner not in ROLES:
            continue
        own = range(ROLES.index(winner), length, 2)
        for place, reward in zip(own, decayed(len(own), gamma), strict=True):
            query, target = _query(game, winner, place, chance), game.said[place].strip()
            if target:
                found.append(Row(query, target, reward, wins.total() / (2 * wins[winner]), winner, "play"))
    return found


def _query(game: Played, seat: str, place: int, chance: Random) -> str:
    history = [(ROLES[number % 2], text) for number, text in enumerate(game.said[:place])]
    return training_text(
        Draw.of(chance), Brief(seat, game.word if seat == "attacker" else None, game.turns, void=True), history
    )


def export(out: Path, game: Game, episodes: Iterable[Episode], player: str, seed: int) -> list[Path]:
    """Writes matches of Taboo as their two files, rows by the judge that ended the matches; of any other game nothing.

    Their code trains on every winner, so matches that somebody else than `player` won are left out.
    """
    if not isinstance(game, Taboo):
        return []
    games = [(each, played(each, game.turns)) for each in episodes]
    own = [told for each, told in games if each.players.get(told.ending(game.judge)[0] or "", player) == player]
    paths = [out / "spag_episodes.json", out / "spag_rows.json"]
    write_episodes(paths[0], own)
    write_rows(paths[1], rows(own, rng(seed, "export"), game.judge))
    return paths


# --- files ------------------------------------------------------------------------------------------------------------


def read_episodes(path: str | Path) -> list[Played]:
    """The episodes of a file; InputError names the entry that is none."""
    return list(_entries(path, _played))


def write_episodes(path: Path, games: Iterable[Played]) -> int:
    """Writes `path` as their episodes file; returns how many."""
    return _write(path, [_episode(game) for game in games])


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a training file, or of an Alpaca file; InputError names the entry that is none.

    Rows with an empty answer, which the original writes too, are left out, with a warning that counts them.
    """
    every = list(_entries(path, _row))
    found = [row for row in every if row.target.strip()]
    skipped(path, len(every) - len(found), len(every))
    if not found:
        raise InputError(f"{path}: every answer is empty")
    return found


def write_rows(path: Path, found: Iterable[Row]) -> int:
    """Writes `path` as their training file; returns how many."""
    return _write(path, [_line(row) for row in found])


def _write(path: Path, entries: list[dict[str, Json]]) -> int:
    write_json(path, entries)
    return len(entries)


def _entries(path: str | Path, parse: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    for number, entry in enumerate(load(path), 1):
        try:
            if not isinstance(entry, dict):
                raise ValueError(f"{type(entry).__name__}, expected an object")
            yield parse(entry)
        except ValueError as error:
            raise InputError(f"{path}, entry {number}: {reason(error)}") from None


def load(path: str | Path) -> list[Json]:
    """The entries of a file, which is one JSON list. InputError for any other."""
    data = read_json(path)
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: expected one list of episodes or of rows, with at least one entry")
    return data


def _played(entry: Mapping[str, Any]) -> Played:
    history, word, turns = (entry.get(key) for key in ("history", "target_word", "max_turns"))
    if (
        not isinstance(history, list)
        or not isinstance(word, str)
        or not word.strip()
        or type(turns) is not int
        or turns < 1
    ):
        raise ValueError("no episode, expected history (a list), target_word (text) and max_turns (a whole number)")
    for number, said in enumerate(history):
        right = (
            isinstance(said, dict) and said.get("role") == ROLES[number % 2] and isinstance(said.get("content"), str)
        )
        if not right:
            raise ValueError(
                f"utterance {number + 1} is {str(said)[:60]!r}, expected the {ROLES[number % 2]}'s, with role and "
                f"content"
            )
    return Played(word, turns, tuple(said["content"] for said in history))


def _episode(game: Played) -> dict[str, Json]:
    history: list[Json] = [{"role": ROLES[number % 2], "content": text} for number, text in enumerate(game.said)]
    return {"history": history, "target_word": game.word, "max_turns": game.turns}


ALPACA = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the "
    "request.\n\n"
    "### Instruction:\n{instruction}{input}\n\n### Response:"
)
"""The prompt of Stanford Alpaca (Apache-2.0), with and without an input."""


def _alpaca(entry: Mapping[str, Any]) -> Row:
    told, more, answer = (entry.get(key, "") for key in ("instruction", "input", "output"))
    if not all(isinstance(each, str) for each in (told, more, answer)) or not told:
        raise ValueError("no Alpaca row, expected texts instruction, input and output (the last two may be empty)")
    extra = (", paired with an input that provides further context", f"\n\n### Input:\n{more}") if more else ("", "")
    return Row(ALPACA.format(more=extra[0], instruction=told, input=extra[1]), answer, type="sft")


def _row(entry: Mapping[str, Any]) -> Row:
    if "instruction" in entry and "output" in entry:
        return _alpaca(entry)
    query, target = _either(entry, "query", "prompt"), _either(entry, "target", "answer")
    if query is None and target is None and isinstance(entry.get("text"), list) and entry["text"]:
        query, target = _best(entry)
    if not isinstance(query, str) or not isinstance(target, str):
        raise ValueError("no row, expected the texts query (or prompt) and target (or answer)")
    numbers = [entry.get(key, 1.0) for key in ("reward", "weight")]
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e6 for each in numbers):
        raise ValueError(f"reward and weight are {numbers}, expected numbers")
    role, kind = entry.get("role", ""), entry.get("type", "")
    if not isinstance(kind, str) or not isinstance(role, str):
        raise ValueError(f"role and type are {[role, kind]}, expected texts")
    return Row(query, target, float(numbers[0]), float(numbers[1]), role, kind)


def _either(entry: Mapping[str, Any], *names: str) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _best(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    """Query and target of a row with several `text`s, each both at once: the one with the highest of `scores`."""
    scores = entry.get("scores", [0.0] * len(entry["text"]))
    if not isinstance(scores, list) or not all(type(score) in (int, float) for score in scores):
        raise ValueError(f"scores are {str(scores)[:60]}, expected a list of numbers")
    if len(scores) != len(entry["text"]):
        raise ValueError("scores and text differ in length")
    best = entry["text"][max(range(len(scores)), key=lambda at: scores[at])]
    parts = best.split("<sep>") if isinstance(best, str) else []
    if len(parts) != 2:
        raise ValueError(f"text {str(best)[:60]!r}, expected one <sep> between query and target")
    return parts[0], parts[1]


def _line(row: Row) -> dict[str, Json]:
    """A row of another data set has no reward, as theirs have none."""
    reward: dict[str, Json] = {} if row.type == "sft" else {"reward": row.reward}
    names = {key: value for key, value in (("role", row.role), ("type", row.type)) if value}
    return {"query": row.query, "target": row.target, **reward, "weight": row.weight, **names}
