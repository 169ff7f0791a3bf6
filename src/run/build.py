"""Builds the parts of a run from its config, and finds incompatible ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ..backends.openai import served
from ..data.consent import HUMAN
from ..data.scorer import Judge
from ..data.sources.base import Imported, Recorded
from ..games.base import Game, services
from ..games.suite import UNSEEN
from ..models.folders import architecture, unequal
from ..play.player import Backend
from ..play.seats import Opponent
from ..report.rows import MODES
from ..report.trackers import Jsonl, Tracker
from ..system import ranks
from ..system.naming import locate, nearest
from .config import SCHEDULED, ConfigError, imitation_learner, judge, metric_name, overlaid, policies, scheduled
from .contents import load_snapshot
from .directory import SPENDING, begun
from .parts import PREVIOUS, Parts, Policy, Recipe, plain
from .run import Run, cast_of

MEASURING = ("exploit", "exploiter", "table", "tournament")
"""Tasks without a start: no demonstrations needed."""


def build(config: DictConfig, out: Path) -> Parts:
    """Builds the parts of the experiment. Nodes are built only here. ConfigError lists incompatible parts.

    `_convert_="all"` because Hydra would turn a dataclass inside a list or mapping (a tool of one's own) into a config
    without its methods.
    """
    given = {"hardware": config.hardware, "old": config.old, "ledger": out / SPENDING / "learner.jsonl"}
    loss = instantiate(config.imitate.loss)
    parts = Parts(
        config=config,
        game=instantiate(config.game, _convert_="all"),
        model=instantiate(config.model, _convert_="all"),
        backend=_backend(config.backend, config, out / SPENDING / "backend.jsonl"),
        policies={name: _policy(own, config, given) for name, own in policies(config).items()},
        imitator=_made(imitation_learner(config), **given | {"loss": loss, "old": "pass"}),
        data=instantiate(config.data, _convert_="all") if config.data else None,
        scorer=instantiate(config.scorer, _convert_="all") if config.scorer else None,
        opponents={str(name): _opponent(str(name), config, out) for name in config.opponents},
        benchmark=instantiate(config.benchmark, _convert_="all") if config.benchmark else None,
        guards=instantiate(config.guards, _convert_="all") if config.guards else None,
        league=instantiate(config.league, _convert_="all") if config.get("league") else None,
    )
    _check_mixes(parts)
    faults = [*_strangers(parts), *_misplaced(parts), *_several(parts), *_league(parts)]
    faults += [*_off_policy(parts), *_unchosen(parts), *_unbranched(parts), *_unshared(parts)]
    if faults:
        raise ConfigError("\n  - ".join(["the parts do not go together", *faults]))
    _one_judge(parts)
    return parts


def _one_judge(parts: Parts) -> None:
    """Warns if one judge both selects the training data and evaluates the run: the policy may learn to flatter it."""
    config, scorer = parts.config, parts.scorer
    name = scorer.player if isinstance(scorer, Judge) else config.players.get("judge")
    scores = {
        getattr(recipe.credit, "score", None) for each in parts.policies.values() for recipe in each.recipes.values()
    }
    if name in parts.opponents and (metric := judge(config)[1].rpartition(".")[2]) in scores:
        warnings.warn(
            f"{name} both chooses the training data and evaluates the run by {metric}, and may be flattered: "
            "have the snapshots judged by another model as well (task=judge)",
            stacklevel=2,
        )


def _policy(own: Mapping[str, Any], config: DictConfig, given: Mapping[str, Any]) -> Policy:
    """A policy whose `own` nodes override the root's, by iteration."""
    node = overlaid(plain(config.adapter), own["adapter"]) if "adapter" in own else plain(config.adapter)
    recipes = {}
    for number, nodes in scheduled(config).items():
        laid = {name: overlaid(nodes[name], own.get(name, {})) for name in SCHEDULED}
        loss, credit = (instantiate(laid["objective"][name], _convert_="all") for name in ("loss", "credit"))
        recipes[number] = Recipe(laid, credit, _made(laid["learner"], **given, loss=loss))
    return Policy(instantiate(node, _convert_="all") if node else None, node, recipes)


def _made(node: Any, **offered: Any) -> Any:
    """Builds `node`, with those of the offered arguments that its target accepts."""
    target = instantiate(node, _convert_="all")
    return target(**{name: value for name, value in offered.items() if name in signature(target).parameters})


def _backend(node: DictConfig, config: DictConfig, ledger: Path) -> Callable[[], Backend]:
    """Builds the backend of `node` when it is called."""
    device = {"cpu": "cpu", "gpu": "cuda"}[config.hardware.accelerator]
    dtype = "bfloat16" if config.hardware.precision.startswith("bf16") else "float32"
    return partial(_made, node, device=device, dtype=dtype, ledger=ledger)


def _opponent(name: str, config: DictConfig, out: Path) -> Opponent:
    """The language model that `opponents.<name>` names."""
    node = config.opponents[name]
    backend = _backend(node.backend, config, out / SPENDING / f"{name}.jsonl") if node.get("backend") else None
    if node.get("model") is not None:
        return Opponent(served(node.model), backend)
    return Opponent(load_snapshot(node.path, node.get("base"), node.get("policy")), backend)


def _strangers(parts: Parts) -> Iterator[str]:
    """Unknown names of players, and unknown seats."""
    config, game, task = parts.config, parts.game, _task(parts.config)
    copies = {name for name in config.players.values() if _copies(name, parts)}
    start = str(config.eval.start_name)
    models = {*parts.policies, *copies, start, HUMAN, *parts.opponents}
    taken = {PREVIOUS, start, HUMAN, *game.scripts(), *services(game)}
    if clash := sorted(parts.opponents.keys() & {*taken, *parts.policies}):
        yield f"opponents: {', '.join(clash)} is taken: by a policy, its start, a person or a script of {game.name}"
    if clash := sorted(parts.policies.keys() & {*taken, "default", "opponent"}):
        yield f"policies: {', '.join(clash)} is taken: by the start, a person or a script of {game.name}"
    serving, players = services(game), config.players
    for seat in players.keys() - {*(seats := [*game.roles, *serving]), "default", "opponent"}:
        yield f"players.{seat}: {game.name} has no such seat{nearest(seat, seats)}"
    for seat in [each for each in serving if players.get(each) in parts.policies]:
        yield f"players.{seat}: it serves the match, so a policy, which plays for a payoff, does not sit there"
    if "opponent" in players and players.keys() & {"default", *game.roles}:
        yield "players.opponent: the first policy takes every role in turn, so no role can be given to somebody else"
    asked = [
        (f"players.{seat}", name, models | ({seat} if seat in serving else set())) for seat, name in players.items()
    ]
    yield from _unknown_metric(parts)
    if len(game.roles) == 1 and judge(config)[1].startswith("versus."):
        yield f"metric: nobody meets anybody in {game.name}, a game for one: say metric=sampled.…"
    if task in ("selfplay", "tournament"):
        asked += [("eval.opponents", name, {PREVIOUS, *parts.opponents}) for name in config.eval.opponents]
    if config.imitate.matches and task not in MEASURING:
        asked += [("imitate.players", name, set()) for name in config.imitate.players]
    if isinstance(parts.scorer, Judge):
        judges = {*parts.scorer.game([]).scripts(), *parts.opponents}
        if (name := parts.scorer.player) not in judges:
            yield f"scorer.player: there is no judge {name} (opponents.{name}.model=…){nearest(name, judges)}"
    for key, name, others in asked:
        if name not in (named := {*game.scripts(), *others}):
            yield f"{key}: there is no player {name}{nearest(name, named)}"


def _unknown_metric(parts: Parts) -> Iterator[str]:
    """An unknown metric: the game's facts list all except a scorer's."""
    path, known = judge(parts.config)[1], parts.game.facts.metrics
    part, name = path.partition(".")[0], metric_name(parts.config)
    if _task(parts.config) not in ("selfplay", "tournament"):
        return
    if part not in MODES:
        yield f"metric: {path} is taken from no evaluation; say one of {', '.join(f'{each}.…' for each in MODES)}"
    elif name.startswith(UNSEEN):
        yield f"metric: {path} is of a game that validation does not have, on which snapshots are chosen; say another"
    elif known and parts.scorer is None and name not in known:
        yield f"metric: {parts.game.name} has no metric {name or path}{nearest(name, known)}"


def _copies(name: str, parts: Parts) -> bool:
    """Whether `name` is a policy's frozen copy, such as learner@3."""
    policy, _, number = str(name).partition("@")
    return policy in parts.policies and number.isdecimal()


def _learns(parts: Parts) -> bool:
    """Whether this task trains: self-play with no iterations and no imitation only evaluates."""
    config, imitates = parts.config, parts.config.imitate.first and parts.data is not None
    alone = not (config.iterations or config.imitate.matches or imitates)
    return _task(config) in ("imitate", "learn") or (_task(config) == "selfplay" and not alone)


def _misplaced(parts: Parts) -> Iterator[str]:
    """Models with the wrong kind of backend or learner: a served model cannot be played or trained here, nor a local
    one on a server. InputError for a model folder that the backend cannot decode."""
    config, hosted = parts.config, _hosted(parts.config.model)
    if hosted != _hosted(config.backend):
        yield "backend: a served model (model=served) is played by backend=openai, and it plays no other"
    recipes = [recipe for each in parts.policies.values() for recipe in each.recipes.values()]
    learners = {_hosted(recipe.nodes["learner"]) for recipe in recipes}
    if learners != {hosted} and _learns(parts):
        yield "learner: a served model (model=served) is trained by learner=openai, and it trains no other"
    target, policies = locate(config.backend._target_), parts.policies.values()
    if getattr(target, "adapters_only", False) and _learns(parts) and any(each.adapter is None for each in policies):
        yield "backend: its servers take adapters and no whole weights; say adapter=lora, or play with backend=vllm"
    looks, folder = getattr(locate(config.backend._target_), "check", None), config.model.get("path")
    if looks and folder and (Path(folder).expanduser() / "config.json").is_file():
        looks(Path(folder).expanduser())
    for name, each in parts.opponents.items():
        if (each.snapshot.served is not None) != _hosted(config.opponents[name].get("backend") or config.backend):
            wanted = "openai" if each.snapshot.served else "hf"
            yield f"opponents.{name}: its backend is of the wrong kind; say +backend@opponents.{name}.backend={wanted}"


def _unshared(parts: Parts) -> Iterator[str]:
    """Faults of ranks that share an engine. They play the same matches, so each of them would ask an external player or
    service; and each holds an equal part of every weight, so these must divide evenly."""
    config = parts.config
    if (together := int(config.backend.get("tensor_parallel", 1))) == 1:
        return
    others = [f"opponents.{name}" for name, each in parts.opponents.items() if each.backend or each.snapshot.served]
    for who in [*others, *(f"{parts.game.name}'s {name}" for name in services(parts.game))]:
        yield f"backend.tensor_parallel: each of the {together} ranks of an engine would ask {who}; say 1"
    folder = Path(str(config.model.get("path"))).expanduser()
    if (folder / "config.json").is_file() and (uneven := unequal(architecture(folder), together)) is not None:
        yield uneven


def _several(parts: Parts) -> Iterator[str]:
    """Settings that conflict with several policies, or several rounds per iteration."""
    config = parts.config
    if _task(config) not in ("selfplay", "learn"):
        return
    cast = cast_of(parts)
    for name in parts.policies:
        if not cast.roles(name):
            yield f"policies.{name}: it plays no role, so it cannot learn; say players.ROLE={name}"
    carries = [
        getattr(recipe.learner, "carry", False) for each in parts.policies.values() for recipe in each.recipes.values()
    ]
    if any(carries) and config.start != "previous":
        yield "learner.carry: iterations begin at the base again, with no optimiser to go on with; say start=previous"
    if config.rounds == 1:
        return
    if config.replay:
        yield f"replay: with rounds={config.rounds} samples of earlier iterations are not kept; say replay=0"
    if config.start != "previous":
        yield f"start: with rounds={config.rounds} an iteration goes on from the one before; say start=previous"
    learners = {name: recipe.learner for name, each in parts.policies.items() for recipe in each.recipes.values()}
    for name in sorted(name for name, learner in learners.items() if not learner.sessions):
        yield f"learner: that of {name} trains a whole model per call, so it cannot learn in rounds; say rounds=1"


def _off_policy(parts: Parts) -> Iterator[str]:
    """Settings that break a policy gradient: play that does not sample from the policy itself, and a penalty without
    the replies that it needs."""
    if _task(parts.config) not in ("selfplay", "learn"):
        return
    recipes = [recipe for each in parts.policies.values() for recipe in each.recipes.values()]
    losses = [recipe.learner.loss for recipe in recipes]
    sampling, as_it_is = parts.config.play.sampling, {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    if any(getattr(loss, "on_policy", False) for loss in losses):
        for name in (name for name, value in as_it_is.items() if sampling[name] != value):
            yield (
                f"play.sampling.{name}: is {sampling[name]}, and a policy gradient needs replies drawn from the policy "
                f"as it is, whose log-probs its ratio is taken to; say play.sampling.{name}={as_it_is[name]:g}"
            )
    if any(
        getattr(each.learner.loss, "penalised", False) and not getattr(each.credit, "zeros", True) for each in recipes
    ):
        yield (
            "objective.credit.zeros: the loss has a penalty (kl_coef or entropy_coef), which replies without an "
            "advantage are needed for; say objective.credit.zeros=true"
        )


def _unbranched(parts: Parts) -> Iterator[str]:
    """A credit that compares branches, if no match branches."""
    credits = [recipe.credit for each in parts.policies.values() for recipe in each.recipes.values()]
    whole = _task(parts.config) == "selfplay" and not parts.config.play.branches
    if whole and any(getattr(credit, "within", None) == "turn" for credit in credits):
        yield (
            "objective.credit.within: turns are compared with their other continuations, and no match has any; say "
            "play.branches=3"
        )


def _unchosen(parts: Parts) -> Iterator[str]:
    """A credit that is unfit for stored matches and foreign logs, whose replies are not the policy's own."""
    credit = next(each.recipe(0).credit for each in parts.policies.values())
    logs = isinstance(parts.data, Recorded) or (isinstance(parts.data, Imported) and credit.mix is not None)
    if _from_data(parts.config) and logs and not getattr(credit, "imitates", False):
        yield (
            "objective.credit: replies of stored matches and logs are imitated where they were good, for they are not "
            "this policy's own, and this credit keeps the bad ones too; say objective=filtered_bc, or for pairs "
            "objective=spin"
        )


def _league(parts: Parts) -> Iterator[str]:
    """Settings that conflict with a league."""
    if (league := parts.league) is None:
        return
    config, start = parts.config, str(parts.config.eval.start_name)
    if _task(config) in ("play", "learn"):
        yield f"league: its rounds follow from the iterations before, so task={_task(config)} has none; say league=none"
    if config.players:
        yield f"players: the league decides who meets whom; leave out {', '.join(config.players)}"
    if PREVIOUS in config.eval.opponents:
        yield "eval.opponents: in a league the members meet, so previous is none of them"
    yield from league.faults(list(parts.policies), [start, *parts.game.scripts(), *parts.opponents], parts.game)


def _task(config: DictConfig) -> str:
    return str(config.task._target_).rpartition(".")[2]


def _from_data(config: DictConfig) -> bool:
    """Whether the task learns only from the data option, without matches."""
    return _task(config) == "offline" or (_task(config) == "learn" and config.run is None)


def _hosted(node: Mapping[str, Any] | DictConfig) -> bool:
    """Whether a node's target is for served models."""
    return bool(getattr(locate(node["_target_"]), "hosted", False))


def _check_mixes(parts: Parts) -> None:
    """ConfigError if credit needs demonstrations, but there are none of its kind."""
    mixes = {recipe.credit.mix for each in parts.policies.values() for recipe in each.recipes.values()}
    if mixes != {0} and parts.data is None and not parts.config.imitate.matches:
        raise ConfigError(
            "objective.credit wants demonstrations, and there are none: choose a data option, or say imitate.matches=…"
        )
    if None in mixes and not _from_data(parts.config):
        _check_pairs(parts.game, parts.data)


def _check_pairs(game: Game, data: Any) -> None:
    """ConfigError unless some demonstration belongs to a scenario: otherwise credit that pairs them would keep
    nothing."""
    real = {demo.id for demo in data.demonstrations(game, "train")} if data else set()
    if real.isdisjoint(scenario.id for scenario in game.scenarios("train")):
        what = "those of this data option belong to no scenario" if data else "scripts play matches of their own"
        raise ConfigError(
            f"objective.credit pairs what the model says with the demonstration of the same scenario, and {what}: use "
            f"a game "
            "whose scenarios have real replies (game=prompts data=replies, or game=tales data=replies)"
        )


@contextmanager
def running(config: DictConfig, out: Path, typed: DictConfig | None = None) -> Iterator[Run]:
    """A run in the directory `out`, as a context manager. A task that changed its config hands over the one that was
    `typed`, too, which is kept in `out`, so that the same words resume it."""
    with begun(config if typed is None else typed, out) as progress:
        yield Run(build(config, out), out, progress)


def trackers(config: DictConfig) -> list[Tracker]:
    """`metrics.jsonl`, and the logger node if there is one; on rank 0 only."""
    if ranks.rank():
        return []
    return [Jsonl(), *([instantiate(config.logger)] if config.logger else [])]
