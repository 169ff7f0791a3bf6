"""What a task builds and runs. Each takes the composed config, the run directory, and the arguments of its own node."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from .config import ConfigError


def selfplay(config: DictConfig, out: Path) -> float | None:
    raise ConfigError("task=selfplay is not here yet")


def imitate(config: DictConfig, out: Path) -> float | None:
    raise ConfigError("task=imitate is not here yet")


def play(config: DictConfig, out: Path, run: str | None) -> float | None:
    raise ConfigError("task=play is not here yet")


def learn(config: DictConfig, out: Path, run: str) -> float | None:
    raise ConfigError("task=learn is not here yet")


def evaluate(config: DictConfig, out: Path, run: str) -> float | None:
    raise ConfigError("task=evaluate is not here yet")


def show(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    raise ConfigError("task=show is not here yet")


def replay(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    raise ConfigError("task=replay is not here yet")


def export(config: DictConfig, out: Path, run: str) -> float | None:
    raise ConfigError("task=export is not here yet")


def compare(config: DictConfig, out: Path, runs: list[str]) -> float | None:
    raise ConfigError("task=compare is not here yet")
