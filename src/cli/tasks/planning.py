"""The task that explains a round of learning before it is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from ...data.episode import Episode
from ...data.store import EpisodeStore
from ...learners.lightning import LightningLearner
from ...learners.memory import Model
from ...models.folders import unequal
from ...models.snapshot import Snapshot
from ...report.forks import Forks
from ...report.progress import Progress, terminal
from ...run.build import build
from ...run.config import ConfigError
from ...run.contents import played_by, rounds_of
from ...run.errors import EXPECTED
from ...run.forecast import Data, Forecast, architecture, forecast, real, refusal, stated, trained, words
from ...run.forecast import table as memory_table
from ...run.hours import Speed, Tokens, engine, matches, of_match, streams
from ...run.hours import words as hours_words
from ...run.lessons import Round
from ...run.loop import Loop
from ...run.run import Run
from ..stored import same_game


def plan(config: DictConfig, out: Path, run: str | None, probe: bool) -> float | None:
    """Explains one round of learning, and the run's duration: for the newest round of `run`, else for the lengths
    stated in the experiment. `probe`: measures missing rates (tokens per second) on this machine.

    ConfigError, after the explanation, if a device has too little memory.
    """
    try:
        learner, forecast = _forecast(config, run)
        hours = list(_hours(config, run, learner, forecast, probe))
        played, unplayed = _engine(config, forecast)
    except EXPECTED as error:
        raise ConfigError(str(error)) from error
    console = terminal()
    for paragraph in [*words(forecast, learner, config), *hours, *played]:
        console.print(paragraph, highlight=False)
    console.print(memory_table(forecast, learner))
    if (why := refusal(forecast, learner) or unplayed) is not None:
        raise ConfigError(why)
    return None


def _forecast(config: DictConfig, run: str | None) -> tuple[LightningLearner, Forecast]:
    if get_class(config.learner._target_) is not LightningLearner:
        raise ConfigError(
            "task=plan explains learning on one's own devices (learner=lightning); another learner says itself what "
            "it does"
        )
    learner: Any
    snapshot = None
    if run is not None:
        snapshot, learner, data = _newest(config, Path(run))
    else:
        loss = instantiate(config.objective.loss)
        learner = instantiate(config.learner)(loss=loss, hardware=config.hardware, old=config.old)
        data = stated(config.stated, learner.batch_utterances)
    adapter = instantiate(config.adapter, _convert_="all") if config.adapter else None
    return learner, forecast(learner, adapter, *architecture(config, snapshot), data, config)


def _hours(config: DictConfig, run: str | None, learner: Any, it: Forecast, probe: bool) -> Iterator[str]:
    """The run's duration, at rates that are given, taken from `run` or measured here."""
    given = Speed(**{name: config.stated.speed[name] for name in ("prefill", "decode", "train")})
    if probe and not given.complete:
        from ...run.probe import probe as measured

        batch = min(int(config.play.in_flight), 32)
        given = given.over(measured(it.shaped, it.adapter, config.hardware, config.hardware.memory_gib, batch))
    roles = getattr(get_class(config.game._target_), "roles", ())
    match = (
        of_match(_newest_matches(Path(run))) if run else Tokens(config.stated.match.read, config.stated.match.written)
    )
    count = len(roles) if isinstance(roles, tuple) and roles else 2
    played, evaluated = matches(config, count)
    known = match.read or match.written
    work = {"play": match * played, "evaluation": match * evaluated} if known else {}
    yield from hours_words({**work, "learning": trained(it, learner, config)}, given, it.world, config.iterations)
    width = 2 if config.hardware.precision.startswith("bf16") else 4
    room = config.backend.get("kv_gib") or config.backend.get("keep_gib")
    together = int(config.backend.get("tensor_parallel", 1))
    if (kept := streams(it.shaped, match, count, width, room, together)) is not None:
        yield kept


def _engine(config: DictConfig, it: Forecast) -> tuple[list[str], str | None]:
    """What vLLM in the process needs of a device, and why it does not fit or cannot be shared."""
    if "tensor_parallel" not in config.backend:
        return [], None
    together = int(config.backend.tensor_parallel)
    if uneven := unequal(it.shaped, together):
        return [], uneven
    width = 2 if config.hardware.precision.startswith("bf16") else 4
    weights = float(width * Model(it.shaped).parameters()[0])
    told, why = engine(weights, config.backend.kv_gib, together, config.hardware.memory_gib)
    return [told], why


def _newest_matches(run: Path) -> Iterator[Episode]:
    """The stored matches of the newest round of a run."""
    return EpisodeStore(run / rounds_of(run)[-1], shard=None).read()


def _newest(config: DictConfig, run: Path) -> tuple[Snapshot, Any, Data]:
    """The newest round of `run`: its iteration's first snapshot, the learner of `config`, and the samples."""
    same_game(run, config)
    if missing := sorted(OmegaConf.missing_keys(config.model)):
        told = ", ".join(f"model.{key}" for key in missing)
        raise ConfigError(f"{told}: say a value, or leave out experiment=, so that everything comes from {run}")
    if not (stages := rounds_of(run)):
        raise ConfigError(f"{run} has no finished round of self-play to plan with")
    number = int(stages[-1].partition("/")[0].removeprefix("iter_"))
    loop = Loop(Run(build(config, run), run, Progress(terminal(quiet=True))))
    policy, recipe = next((name, each.recipe(number)) for name, each in loop.parts.policies.items())
    snapshot = played_by(run, number)[policy]
    window = [*loop.window(policy, number)[:-1], Round(len(stages), stages[-1])]
    samples: Any = loop.crediting(window, policy, recipe, snapshot, loop.run).lessons
    forks = Forks([policy])
    for episode in loop.run.episodes(stages[-1]):
        forks.add(episode)
    return snapshot, recipe.learner, real(samples, f"round {len(stages)} of {run}", forks.text())
