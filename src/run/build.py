"""A run directory: how it is begun, guarded and resumed, what it is built from, and what lies in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from shutil import rmtree
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from . import preempt, ranks
from .config import LAUNCH, SAVED, SUMMARY, ConfigError, changed_keys, imitation_learner, scheduled
from .data.credit import NothingKept
from .data.episode import Episode
from .data.store import EpisodeStore
from .experiment import LEARNER, PREVIOUS, Parts, Recipe, restored
from .files import InputError, Locked, lock, write_json, write_text
from .games.base import Game
from .loop import Loop
from .models import snapshot as snapshots
from .models.backend import Backend, Snapshot
from .models.openai import served
from .play.arena import TooManyFailures
from .play.table import HUMAN, Opponent
from .report import manifest
from .report.progress import Progress
from .report.trackers import Jsonl, Tracker
from .stages import MANIFEST, StageChanged
from .validation import locate, nearest

SPENDING = "spending"  # folder of the ledgers
EXPECTED = (InputError, FileNotFoundError, Locked, StageChanged, NothingKept, TooManyFailures)  # told without a traceback


def build(config: DictConfig, out: Path) -> Parts:
    """The parts of the experiment. Nodes are built here and nowhere else."""
    objective, hardware = config.objective, config.hardware
    node, credit = imitation_learner(config), instantiate(objective.credit)
    if credit.mix != 0 and not config.data and not config.imitate.matches:
        raise ConfigError("objective.credit wants demonstrations, and there are none: choose a data option, or say imitate.matches=…")
    game, data = instantiate(config.game), instantiate(config.data) if config.data else None
    if credit.mix is None:
        _check_pairs(game, data)
    taught = {"hardware": hardware, "reference": config.reference, "ledger": out / SPENDING / "learner.jsonl"}

    def learner(objective: Any, node: Any) -> Any:
        return _made(node, loss=instantiate(objective["loss"]), **taught)

    parts = Parts(
        config=config,
        game=game,
        model=instantiate(config.model),
        backend=_backend(config.backend, config, out / SPENDING / "backend.jsonl"),
        credit=credit,
        learner=learner(objective, config.learner),
        imitator=_made(node, loss=instantiate(config.imitate.loss), **taught | {"reference": "pass"}),
        adapter=instantiate(config.adapter, _convert_="all") if config.adapter else None,
        data=data,
        scorer=instantiate(config.scorer) if config.scorer else None,
        opponents={str(name): _opponent(str(name), config, out) for name in config.opponents},
        benchmark=instantiate(config.benchmark, _convert_="all") if config.benchmark else None,
        changes={
            number: Recipe(nodes, instantiate(nodes["objective"]["credit"]), learner(nodes["objective"], nodes["learner"]))
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
    return Opponent(kept(folder) if (folder / SAVED).exists() else on_disk(folder, base, f"opponents.{name}.base"), backend)


def on_disk(folder: Path, base: str | None, key: str) -> Snapshot:
    """The snapshot in a model folder, or in that of an adapter on `base`; ConfigError names the `key` of a base that lacks."""
    if (folder / "adapter_config.json").exists() and base is None:
        raise ConfigError(f"{folder} is an adapter: say the folder of its base with {key}=…")
    return snapshots.of(folder, base=base)


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
    """Models whose backend or learner is of the wrong kind: what a server holds cannot be played or trained here, nor the reverse."""
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
            f"objective.credit pairs what the model says with the demonstration of the same scenario, and {what}: use a game "
            "whose scenarios have real replies (game=prompts data=replies, or game=tales data=replies)"
        )


@contextmanager
def running(config: DictConfig, out: Path) -> Iterator[Loop]:
    """A loop on the run directory `out`."""
    with begun(config, out) as progress:
        yield Loop(build(config, out), out, progress)


@contextmanager
def begun(config: DictConfig, out: Path) -> Iterator[Progress]:
    """The run directory `out`, which is locked, and refused where another run's files are in it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as held, preempt.listening():
            ranks.shared(lambda: _begin(config, out, held))
            with Progress(Console(stderr=True, quiet=ranks.rank() > 0)) as progress:
                yield progress
    except EXPECTED as error:
        raise ConfigError(str(error)) from error


def _begin(config: DictConfig, out: Path, held: ExitStack) -> None:
    held.enter_context(lock(out))
    _claim(config, out)


def _claim(config: DictConfig, out: Path) -> None:
    """Writes config and manifest into a new run directory, or checks that this config may continue the run in it."""
    saved = out / SAVED
    if saved.exists():
        if config.resume == "none":
            raise ConfigError(f"{out} already holds a run: resume={out} goes on with it; or name another directory (hydra.run.dir=…)")
        changed = changed_keys(OmegaConf.load(saved), config)  # type: ignore[arg-type]
        if changed:
            raise ConfigError(f"{out} was begun with other values of {', '.join(changed)}: give the old ones, or begin a new run")
        return
    if foreign := sorted(path.name for path in out.iterdir() if not _ours(path.name)):
        raise ConfigError(f"{out} is not empty (it holds {', '.join(foreign[:3])}): choose another directory")
    write_json(out / "manifest.json", manifest.manifest(sys.argv, config.seed, dict(config.hardware)))
    write_text(saved, OmegaConf.to_yaml(config))  # unresolved: what comes from the environment stays there


def _ours(name: str) -> bool:
    """Whether a new run may find a file of this name in its directory."""
    return name in (".hydra", ".lock", "parley.log") or name.startswith(LAUNCH)


def saved(run: Path) -> DictConfig:
    """The config that a run was begun with."""
    if not (run / SAVED).exists():
        raise ConfigError(f"{run} is no run directory: it has no {SAVED}")
    return OmegaConf.load(run / SAVED)  # type: ignore[return-value]


def history(run: Path, what: str) -> list[int]:
    """The numbers of the iterations whose stage `what` (play, learn, start) is finished in `run`."""
    saved(run)
    return sorted(int(path.parts[-3].removeprefix("iter_")) for path in run.glob(f"iter_*/{what}/{MANIFEST}"))


def all_snapshots(run: Path) -> dict[str, Snapshot]:
    """The snapshots of a run that are still there, by name: start, iter_001, …"""
    found = {"start": "start", **{f"iter_{number:03d}": "learn" for number in history(run, "learn")}}
    paths = {name: run / (name if what == "learn" else "iter_000") / what / MANIFEST for name, what in found.items()}
    first = (run / "iter_000" / what / MANIFEST for what in ("adapter", "start", "base"))  # the last of these that was made
    paths["start"] = next((path for path in first if path.exists()), paths["start"])
    outputs = {name: json.loads(path.read_text())["outputs"] for name, path in paths.items() if path.exists()}
    made = {name: restored(each.get("snapshot", each), run) for name, each in outputs.items()}
    return {name: each for name, each in made.items() if not Path(each.path).is_relative_to(run) or Path(each.path).exists()}


def prune(run: Path, stay: Container[int]) -> None:
    """Removes the snapshots of all iterations but those that `stay`; the start always does."""
    for number in history(run, "learn"):
        if number not in stay:
            rmtree(run / f"iter_{number:03d}/learn/snapshot", ignore_errors=True)


def kept(run: Path) -> Snapshot:
    """The snapshot that a finished run kept; of an unfinished one the newest."""
    found = all_snapshots(run)
    if not found:
        raise ConfigError(f"{run} has no snapshot yet")
    if not (run / SUMMARY).exists():
        return list(found.values())[-1]
    best = json.loads((run / SUMMARY).read_text())["best"]
    return found[f"iter_{best:03d}" if best else "start"]


def measured(config: DictConfig, run: str | None, base: str | None, which: str) -> dict[str, Snapshot]:
    """Whom task=benchmark looks at, by name: the snapshot that `run` kept (or all that it has), or the model in `model.path`."""
    if run is not None:
        every, chosen = all_snapshots(Path(run)), kept(Path(run))
        return {name: each for name, each in every.items() if which == "all" or each.version == chosen.version}
    if "path" not in config.model or OmegaConf.is_missing(config.model, "path"):
        raise ConfigError("which model? Name a run (run=outputs/…) or a folder (model=hf model.path=…): a server scores no text")
    folder = Path(config.model.path).expanduser()
    return {"model": on_disk(folder, base, "task.base")}


def player_of(run: Path, number: int) -> Snapshot:
    """The snapshot that played round `number` of `run`."""
    episode = next(iter(EpisodeStore(run / f"iter_{number:03d}/play", shard=None).read()))
    versions = set(episode.policies.values())
    match = [snapshot for snapshot in all_snapshots(run).values() if snapshot.version in versions]
    if not match:
        raise ConfigError(f"round {number} of {run} was played by {', '.join(sorted(versions))}, of which {run} has no snapshot")
    return match[0]


def trackers(config: DictConfig) -> list[Tracker]:
    """`metrics.jsonl`, and the logger node where there is one; rank 0 has them for all."""
    if ranks.rank():
        return []
    return [Jsonl(), *([instantiate(config.logger)] if config.logger else [])]


def find_match(run: Path, match: str) -> tuple[Game, Episode]:
    """A match of a run, and the game it was played in. ConfigError names a few ids where there is none.

    Evaluation plays matches of the same id in every iteration: iter_003/eval/… is that of iteration 3, eval/… the first.
    """
    game = instantiate(saved(run).game)
    seen: list[str] = []
    for folder in sorted({path.parent for path in run.rglob("*.jsonl") if path.stem.isdecimal()}):
        iteration = folder.relative_to(run).parts[0]
        for episode in EpisodeStore(folder, shard=None).read():
            if match in (episode.id, f"{iteration}/{episode.id}"):
                return game, episode
            seen += [episode.id] if len(seen) < 3 else []
    raise ConfigError(f"match={match}: {run} has no such match; ids look like {', '.join(seen) or '(none is stored)'}")
