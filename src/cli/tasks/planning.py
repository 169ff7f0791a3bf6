"""The task that explains a round of learning before it is paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from ...learners.lightning import LightningLearner
from ...report.progress import Progress, terminal
from ...run.build import build
from ...run.config import ConfigError
from ...run.directory import (
    EXPECTED,
    history,
    played_by,
    saved,
)
from ...run.forecast import Forecast, architecture, forecast, real, refusal, stated, words
from ...run.forecast import table as memory_table
from ...run.loop import Loop
from ...run.run import Run
from ..stored import stored


def plan(config: DictConfig, out: Path, run: str | None) -> float | None:
    """Explains one round of learning in words and figures: of the newest round of `run`, else of what the experiment
    states.

    ConfigError, after the explanation, when a device has too little memory for it.
    """
    try:
        learner, forecast = _forecast(config, run)
    except EXPECTED as error:
        raise ConfigError(str(error)) from error
    console = terminal()
    for paragraph in words(forecast, learner, config):
        console.print(paragraph, highlight=False)
    console.print(memory_table(forecast, learner))
    if (why := refusal(forecast, learner)) is not None:
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
        taken = ("game", "backend", "model", "data", "imitate")
        nodes = stored(Path(run), config, *taken)
        for node in taken:
            OmegaConf.update(config, node, nodes.get(node), merge=node == "imitate")
        config.seed = saved(Path(run)).seed
        number = max(history(Path(run), "play"), default=0)
        if not number:
            raise ConfigError(f"{run} has no finished round of self-play to plan with")
        loop = Loop(Run(build(config, Path(run)), Path(run), Progress(terminal(quiet=True))))
        policy, recipe = next((name, each.recipe(number)) for name, each in loop.parts.policies.items())
        snapshot, learner = played_by(Path(run), number)[policy], recipe.learner
        samples = loop.crediting(loop.window(number), policy, recipe, snapshot, loop.run).lessons
        data = real(samples, f"round {number} of {run}")  # type: ignore[arg-type]
    else:
        loss = instantiate(config.objective.loss)
        learner = instantiate(config.learner)(loss=loss, hardware=config.hardware, old=config.old)
        data = stated(config.stated, learner.batch_utterances)
    adapter = instantiate(config.adapter, _convert_="all") if config.adapter else None
    return learner, forecast(learner, adapter, *architecture(config, snapshot), data, config.seed)
