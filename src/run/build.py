"""A run directory: how it is begun, guarded and resumed, what it is built from, and what lies in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ..backends.openai import served
from ..games.base import Game
from ..play.player import Backend
from ..play.seats import HUMAN, Opponent
from ..report.trackers import Jsonl, Tracker
from ..system import ranks
from ..system.naming import locate, nearest
from .config import ConfigError, imitation_learner, scheduled
from .directory import SAVED, begun, kept, on_disk
from .loop import Loop
from .parts import LEARNER, PREVIOUS, Parts, Recipe

SPENDING = "spending"  # folder of the ledgers


def build(config: DictConfig, out: Path) -> Parts:
    """The parts of the experiment. Nodes are built here and nowhere else."""
    objective, hardware = config.objective, config.hardware
    node, credit = imitation_learner(config), instantiate(objective.credit)
    if credit.mix != 0 and not config.data and not config.imitate.matches:
        raise ConfigError(
            "objective.credit wants demonstrations, and there are none: choose a data option, or say imitate.matches=…"
        )
    game, data = instantiate(config.game), instantiate(config.data) if config.data else None
    if credit.mix is None:
        _check_pairs(game, data)
    taught = {"hardware": hardware, "old": config.old, "ledger": out / SPENDING / "learner.jsonl"}

    def learner(objective: Any, node: Any) -> Any:
        return _made(node, loss=instantiate(objective["loss"]), **taught)

    parts = Parts(
        config=config,
        game=game,
        model=instantiate(config.model),
        backend=_backend(config.backend, config, out / SPENDING / "backend.jsonl"),
        credit=credit,
        learner=learner(objective, config.learner),
        imitator=_made(node, loss=instantiate(config.imitate.loss), **taught | {"old": "pass"}),
        adapter=instantiate(config.adapter, _convert_="all") if config.adapter else None,
        data=data,
        scorer=instantiate(config.scorer) if config.scorer else None,
        opponents={str(name): _opponent(str(name), config, out) for name in config.opponents},
        benchmark=instantiate(config.benchmark, _convert_="all") if config.benchmark else None,
        changes={
            number: Recipe(
                nodes, instantiate(nodes["objective"]["credit"]), learner(nodes["objective"], nodes["learner"])
            )
            for number, nodes in scheduled(config).items()
        },
    )
    if faults := [*_strangers(parts), *_misplaced(parts)]:
        raise ConfigError("\n  - ".join(["the parts do not go together", *faults]))
    return parts


def _made(node: DictConfig, **offered: Any) -> Any:
    """What `node` builds, with as much of what is offered as its target takes."""
    target = instantiate(node, _convert_="all")
    return target(**{name: value for name, value in offered.items() if name in signature(target).parameters})


def _backend(node: DictConfig, config: DictConfig, ledger: Path) -> Callable[[], Backend]:
    """Builds the backend of `node` when it is called."""
    device = {"cpu": "cpu", "gpu": "cuda"}[config.hardware.accelerator]
    dtype = "bfloat16" if config.hardware.precision.startswith("bf16") else "float32"
    return partial(_made, node, device=device, dtype=dtype, ledger=ledger)


def _opponent(name: str, config: DictConfig, out: Path) -> Opponent:
    """The language model that `opponents.<name>` names."""
    node, base = config.opponents[name], config.opponents[name].get("base")
    backend = _backend(node.backend, config, out / SPENDING / f"{name}.jsonl") if node.get("backend") else None
    if node.get("model") is not None:
        return Opponent(served(node.model), backend)
    folder = Path(node.path)
    return Opponent(
        kept(folder) if (folder / SAVED).exists() else on_disk(folder, base, f"opponents.{name}.base"), backend
    )


def _strangers(parts: Parts) -> Iterator[str]:
    """Names of players that nobody has, and roles that the game lacks."""
    config, game, task = parts.config, parts.game, _task(parts.config)
    models = {LEARNER, HUMAN, *parts.opponents}
    if clash := sorted(parts.opponents.keys() & {LEARNER, PREVIOUS, config.eval.start_name, HUMAN, *game.scripts()}):
        yield f"opponents: {', '.join(clash)} is taken: by the learner, its start, a person or a script of {game.name}"
    for role in config.players.keys() - {*game.roles, "default", "opponent"}:
        yield f"players.{role}: {game.name} has no such role{nearest(role, game.roles)}"
    if "opponent" in config.players and len(config.players) > 1:
        yield "players.opponent: the learner takes every role in turn, so no role can be given to somebody else"
    asked = [(f"players.{role}", name, models) for role, name in config.players.items()]
    if task in ("selfplay", "evaluate"):
        asked += [("eval.opponents", name, {PREVIOUS, *parts.opponents}) for name in config.eval.opponents]
    if config.imitate.matches:
        asked += [("imitate.players", name, set()) for name in config.imitate.players]
    for key, name, others in asked:
        if name not in (known := {*game.scripts(), *others}):
            yield f"{key}: there is no player {name}{nearest(name, known)}"


def _misplaced(parts: Parts) -> Iterator[str]:
    """Models whose backend or learner is of the wrong kind: what a server holds cannot be played or trained here, nor
    the reverse."""
    config, hosted = parts.config, _hosted(parts.config.model)
    if hosted != _hosted(config.backend):
        yield "backend: a served model (model=served) is played by backend=openai, and it plays no other"
    if hosted != _hosted(config.learner) and _task(config) in ("selfplay", "imitate", "learn"):
        yield "learner: a served model (model=served) is trained by learner=openai, and it trains no other"
    for name, each in parts.opponents.items():
        if (each.snapshot.served is not None) != _hosted(config.opponents[name].get("backend") or config.backend):
            wanted = "openai" if each.snapshot.served else "hf"
            yield f"opponents.{name}: its backend is of the wrong kind; say +backend@opponents.{name}.backend={wanted}"


def _task(config: DictConfig) -> str:
    return str(config.task._target_).rpartition(".")[2]


def _hosted(node: DictConfig) -> bool:
    """Whether a node's target deals with models that a server holds."""
    return bool(getattr(locate(node._target_), "hosted", False))


def _check_pairs(game: Game, data: Any) -> None:
    """ConfigError unless some demonstration is that of a scenario: credit that pairs them would keep nothing."""
    real = {demo.id for demo in data.demonstrations(game, "train")} if data else set()
    if real.isdisjoint(scenario.id for scenario in game.scenarios("train")):
        what = "those of this data option belong to no scenario" if data else "scripts play matches of their own"
        raise ConfigError(
            f"objective.credit pairs what the model says with the demonstration of the same scenario, and {what}: use "
            f"a game "
            "whose scenarios have real replies (game=prompts data=replies, or game=tales data=replies)"
        )


@contextmanager
def running(config: DictConfig, out: Path) -> Iterator[Loop]:
    """A loop on the run directory `out`."""
    with begun(config, out) as progress:
        yield Loop(build(config, out), out, progress)


def trackers(config: DictConfig) -> list[Tracker]:
    """`metrics.jsonl`, and the logger node where there is one; rank 0 has them for all."""
    if ranks.rank():
        return []
    return [Jsonl(), *([instantiate(config.logger)] if config.logger else [])]
