"""A SPAG file as demonstrations, or as samples with rewards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...games.base import Game, Message, Reply
from ...games.taboo.game import Taboo
from ...games.taboo.prompts import Brief
from ...games.taboo.scoring import ROLES
from ...system.files import InputError
from ...system.seeds import derive, rng
from ..formats.spag import Played, load, read_episodes, read_rows, rows
from ..sample import Demonstration, Sample


@dataclass(frozen=True)
class SpagFile:
    """A data source: a SPAG file (episodes, rows or Alpaca rows), to imitate, or to train on with its rewards.

    From episodes the winners' utterances (by `judge`) are imitated, each in the game's view; episodes of held-out words
    belong to the held-out splits. Rows are single questions and answers, all of them train data.
    """

    path: str
    judge: Literal["strict", "legacy"] = "legacy"

    def __post_init__(self) -> None:
        if not Path(self.path).is_file():
            raise FileNotFoundError(
                f"{self.path} is no file: give SPAG's episodes, its training rows or Alpaca rows as data.path"
            )

    @property
    def files(self) -> dict[str, str]:
        """What it reads."""
        return {"path": self.path}

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The chats of a split, in the file's order. InputError for a file that is not SPAG's."""
        if not self._episodes():
            found = enumerate(read_rows(self.path) if split == "train" else [])
            yield from (row.demonstration(f"rows/{number:06d}") for number, row in found)
            return
        if not isinstance(game, Taboo):
            raise InputError(
                f"{self.path} holds episodes of Adversarial Taboo, not of {game.name}: use them with game=taboo"
            )
        others = {
            word.data["word"] for name in ("validation", "test") if name != split for word in game.scenarios(name)
        }
        own = None if split == "train" else {word.data["word"] for word in game.scenarios(split)}
        for number, each in enumerate(read_episodes(self.path)):
            winner, length = each.ending(self.judge)
            if winner in ROLES and each.word not in others and (own is None or each.word in own):
                yield from winners(game, each, length, winner, f"episodes/{number:06d}")

    def samples(self, render: Callable[[Demonstration], Sample]) -> list[Sample]:
        """All rows with their rewards, weights and kinds; a file of episodes is first converted to rows as in SPAG's
        code."""
        found = (
            rows(read_episodes(self.path), rng(0, "layouts"), self.judge) if self._episodes() else read_rows(self.path)
        )
        return [row.sample(f"rows/{number:06d}", render) for number, row in enumerate(found)]

    def _episodes(self) -> bool:
        first = load(self.path)[0]
        return isinstance(first, dict) and "history" in first


def winners(game: Taboo, each: Played, length: int, winner: str, name: str) -> Iterator[Demonstration]:
    """The winner's views of the first `length` utterances in `game`, with weight 1 on its own: one chat if views only
    grow, else one per utterance. The game's own judge is ignored."""
    brief = Brief(winner, each.word if winner == "attacker" else None, each.turns, game.void)
    view = game.form(brief, rng(derive(0, name), "prompt", winner))
    messages: tuple[Message, ...] = ()
    for number, text in enumerate(each.said[:length]):
        if ROLES[number % 2] != winner:
            view.partner(text)
            continue
        request = view.ask(observation={})
        if messages and request.messages[: len(messages)] != messages:
            yield from _imitated(f"{name}/{number:02d}", messages)
        messages = (*request.messages, Message("assistant", text.strip(), request.id))
        view.hear(Reply(request.id, text.strip()))
    yield from _imitated(name, messages)


def _imitated(name: str, messages: tuple[Message, ...]) -> Iterator[Demonstration]:
    """A chat with every non-empty reply imitated; nothing if all are empty."""
    weights = tuple(float(message.role == "assistant" and message.content != "") for message in messages)
    if any(weights):
        yield Demonstration(name, messages, weights)
