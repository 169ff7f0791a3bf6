"""Demonstrations (chats to imitate): matches by the game's scripts, and the chats of the data node."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..data.episode import Episode
from ..data.replay import replay
from ..data.sample import Demonstration, Sample
from ..games.base import Game, seats
from ..models.demonstrated import Demonstrated
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..play.pairing import Seating, Seatings, seated
from ..system.files import InputError
from ..system.seeds import derive, rng
from .run import Run, figures


class Demonstrations:
    """The demonstrations of a run, by split of the game."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._held: dict[str, list[Demonstration]] = {}

    def __call__(self, split: str, again: bool = False) -> list[Demonstration]:
        """The chats to imitate: the matches of the game's scripts (see `play`), and the chats of the data node.

        With `again` they are cached for one more call.
        """
        held = self._held.pop(split, None)
        demos = self._made(split) if held is None else held
        if again:
            self._held[split] = demos
        return demos

    def _made(self, split: str) -> list[Demonstration]:
        run = self.run
        weight = run.config.imitate.partner_weight
        played = run.episodes(f"iter_000/demonstrations/{split}") if self.inputs(split)["matches"] else []
        given = run.parts.data.demonstrations(run.game, split) if run.parts.data is not None else ()
        with uncollected():
            return [*(demo for episode in played for demo in demonstrate(run.game, episode, weight)), *given]

    def play(self, split: str) -> None:
        """Runs the stage in which scripts play the demonstrations of a split, if there are any."""
        name, inputs = f"iter_000/demonstrations/{split}", self.inputs(split)
        if inputs["matches"]:
            self.run.stage(
                name,
                inputs,
                lambda: self.run.play(name, Seatings(lambda: self._seatings(split, inputs["matches"])), figures),
                shared=True,
            )

    def inputs(self, split: str) -> dict[str, Any]:
        """The stage inputs of a split's demonstrations; `matches` is the number played by scripts."""
        config = self.run.config
        alone = (
            self.run.parts.data is None or config.imitate.matches
        )  # with data of another kind, only if it has demonstrations
        matches = config.imitate.matches if split == "train" else config.imitate.validation if alone else 0
        if config.imitate.limit is not None:
            matches = min(matches, config.imitate.limit)
        nodes = {name: self.run.node(name) for name in ("game", "data")}
        who = {"players": list(config.imitate.players), "serving": self.run.served()}
        return {"matches": matches, **who, "seed": self.run.seed, **nodes}

    def _seatings(self, split: str, matches: int) -> Iterator[Seating]:
        run = self.run
        scenarios, scripts = run.game.scenarios(split), list(run.config.imitate.players)
        if not scripts:
            raise InputError(
                f"imitate.matches is {matches}, and imitate.players names none of the game's scripts "
                f"({', '.join(run.game.scripts())}) to "
                "play them: name some, or set imitate.matches=0"
            )
        drawn = rng(run.seed, "demonstrations", split)
        for number in range(matches):
            match = f"demonstrations/{split}/{number:06d}"
            scenario = drawn.choice(scenarios)
            players = {role: scripts[(number + seat) % len(scripts)] for seat, role in enumerate(run.game.roles)}
            players = seated(run.game, scenario, players | run.serving)
            yield Seating(match, scenario, derive(run.seed, "match", match), players)


def demonstrate(game: Game, episode: Episode, partner_weight: float) -> list[Demonstration]:
    """Every role's whole chat of a match as a demonstration: weight 1 on its legal replies, `partner_weight` on the
    other messages."""
    refused = {request for seat in episode.players for request in episode.refused(seat)}
    roles = seats(game, episode.scenario)
    weight = {"system": 0.0, "user": partner_weight, "assistant": 1.0}
    return [
        Demonstration(
            f"{episode.id}/{seat}", messages,
            tuple(0.0 if each.request in refused else weight[each.role] for each in messages),
            cluster=episode.scenario.cluster,
        )
        for seat, messages in replay(game, episode).views.items() if seat in roles
    ]  # fmt: skip


def rendered(demos: Sequence[Demonstration], snapshot: Snapshot) -> list[Sample]:
    """Demonstrations tokenized for `snapshot`: all their streams in order."""
    return [sample for streams in rendered_each(demos, snapshot) for sample in streams]


def rendered_each(demos: Sequence[Demonstration], snapshot: Snapshot) -> list[list[Sample]]:
    """The streams of each demonstration, tokenized for `snapshot`."""
    if not demos:
        return []
    rendering = Demonstrated(Renderer.load(snapshot.base or snapshot.path))
    with uncollected():
        return [rendering.samples(demo) for demo in demos]


@contextmanager
def uncollected() -> Iterator[None]:
    """Turns off the garbage collector while long lists without cycles grow, which saves a sixth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
