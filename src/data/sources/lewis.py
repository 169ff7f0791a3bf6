"""The human dialogues of Lewis et al. 2017 as demonstrations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ...games.base import Game
from ...system.files import InputError
from ...system.seeds import rng
from ..formats.lewis import _ORDERS, Dialogue, read, relabelled, view
from ..sample import Demonstration

FILES = {"train": "train.txt", "validation": "val.txt", "test": "test.txt"}


@dataclass(frozen=True)
class LewisDialogues:
    """A data source: the dialogues of the folder `path`, each as its player's chat in game=deal.

    Weights: own messages and selection 1, the partner's messages `partner_weight`, the rest 0. For training each
    dialogue has `versions` versions: the original, then ones with renamed items (such as books for hats), because 5,000
    negotiations are few. `limit` takes only the first dialogues of each file. FileNotFoundError for a folder that lacks
    train.txt or val.txt.
    """

    path: str
    partner_weight: float = 1.0
    versions: int = 1
    limit: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.versions <= len(_ORDERS):
            raise ValueError(
                f"versions is {self.versions}, expected 1 (as they are) to {len(_ORDERS)} (three items in every order)"
            )
        missing = [name for name in ("train.txt", "val.txt") if not (Path(self.path) / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{self.path} has no {' and no '.join(missing)}: give the folder of the human dialogues "
                "(data/negotiate of facebookresearch/end-to-end-negotiator) as data.path"
            )

    def demonstrations(self, game: Game, split: str) -> Iterator[Demonstration]:
        """The chats of a split (train, validation; test if the folder has test.txt), in the file's order.

        ValueError names the file and the line that is invalid or no match of `game`.
        """
        if game.name != "deal":
            raise ValueError(f"the human dialogues are Deal or No Deal, not {game.name}: use them with game=deal")
        path = self.file(split)
        for number, line in enumerate(islice(read(path), self.limit), 1):
            try:
                for version, dialogue in enumerate(self._versions(line, number) if split == "train" else [line]):
                    messages, spoken = view(game, dialogue)
                    own = (float(message.role == "assistant") for message in messages)
                    weights = tuple(self.partner_weight if at in spoken else weight for at, weight in enumerate(own))
                    yield Demonstration(f"{split}/{number:05d}" + (f"/{version}" if version else ""), messages, weights)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None

    def _versions(self, dialogue: Dialogue, number: int) -> list[Dialogue]:
        """The dialogue and its renamed versions, all with different names."""
        orders = rng(0, "versions", number).sample(_ORDERS[1:], self.versions - 1)
        return [dialogue, *(relabelled(dialogue, (a, b, c)) for a, b, c in orders)]

    @property
    def files(self) -> dict[str, Path]:
        """The files it reads, by split."""
        return {split: path for split in FILES if (path := self.file(split)).is_file()}

    def file(self, split: str) -> Path:
        """The file of a split; ValueError for another name."""
        if split not in FILES:
            raise ValueError(f"unknown split {split!r}, expected one of {', '.join(FILES)}")
        return Path(self.path) / FILES[split]
