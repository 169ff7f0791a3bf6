"""Where a run lives: names, begins, locks and resumes its directory."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..data.seal import MANIFEST
from ..report import manifest
from ..report.progress import Progress, terminal
from ..system import preempt, ranks
from ..system.files import lock, write_json, write_text
from .config import ConfigError, leaves, policies
from .contents import BELOW, SAVED, SUMMARY, saved
from .errors import EXPECTED, disk_full

LOG = "log.txt"  # terminal output by stage, and the error that ended the run
SPENDING = "spending"  # folder of the ledgers
FOLDER_NAME = r"\w[\w.+-]*"  # what a run may be called
LAUNCH = ".launch-"  # prefix of the folders by which the processes of a job find it
LAUNCHED = "PARLEY_LAUNCH"  # environment variable with that folder's name


def run_directory(
    name: str, resume: str = "none", task: str | None = None, run: str | None = None, root: str = "outputs"
) -> str:
    """Where a single run lives: a new directory; where a task looks at `run` below that if it is one's own, else below
    its name; or with `resume` the old one.

    auto selects the newest unfinished run of this experiment and task that has stored results, else a new directory.
    Runs with an unreadable config are ignored.
    """
    if resume not in ("none", "auto"):
        return resume
    place = Path(root, name)
    if run is not None and task is not None:
        place = Path(run, BELOW, task.rpartition(".")[2]) if own(Path(run)) else Path(root, _name(Path(run)) or name)
    runs = sorted(place.glob(f"*/{SAVED}"), reverse=True) if resume == "auto" else []
    mine = (each.parent for each in runs if _worth(each.parent) and _task_of(each.parent) == task)
    return str(next(mine, place / _stamp()))


def own(run: Path) -> bool:
    """Whether `run` is below the working directory: nothing is written into other folders."""
    inside = run.resolve().is_relative_to(Path.cwd())
    return inside and (run / SAVED).is_file() and not (run / BELOW).is_symlink()


def _name(run: Path) -> str | None:
    """What the run `run` is called, if that may be a folder's name."""
    try:
        name = OmegaConf.to_container(saved(run)).get("name")  # type: ignore[union-attr]
    except ConfigError:
        name = None
    return name if isinstance(name, str) and re.fullmatch(FOLDER_NAME, name) else None


def sweep_directory(name: str, resume: str = "none", root: str = "multirun") -> str:
    """The directory of a sweep, like `run_directory`; a sweep is unfinished while one of its jobs is."""
    if resume not in ("none", "auto"):
        return resume
    place = Path(root, name)
    jobs = sorted(place.glob(f"*/*/{SAVED}"), reverse=True) if resume == "auto" else []
    unfinished = (job.parent.parent for job in jobs if not (job.parent / SUMMARY).exists())
    return str(next(unfinished, place / _stamp()))


def _stamp() -> str:
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(3)}"


def _worth(run: Path) -> bool:
    """Whether an unfinished run has matches or training to resume (unlike one whose model could not be loaded)."""
    stages = (stage for stage in run.glob("iter_*/*") if stage.name not in ("base", "adapter"))
    files = (path for stage in stages for path in stage.rglob("*") if not path.name.startswith("."))
    return not (run / SUMMARY).exists() and any(path.is_file() for path in files)


def _task_of(run: Path) -> str | None:
    try:
        target: str | None = OmegaConf.select(saved(run), "task._target_")
    except ConfigError:
        return None
    return target


UNCOUNTED = (
    "resume", "run", "runs", "match", "tags", "logger", "hardware", "keep", "stated", "benchmark", "eval.report",
    "eval.transcripts",
)  # fmt: skip
"""Keys that a resumed run may change, because they affect place and speed, not results. (Precision in hardware does
count.)"""


ALIKE = {"old": ("pass", "recorded")}
"""Values of a key with equal results, between which a resumed run may change."""


def changed_keys(old: Mapping[str, Any] | DictConfig, new: Mapping[str, Any] | DictConfig) -> list[str]:
    """The keys, such as game.payoff, whose values differ so that one config cannot continue the other's run.

    A missing key counts as null, so that a newer version with more keys can continue a run.
    """
    before, after = dict(leaves(_container(old))), dict(leaves(_container(new)))
    keys = sorted(before.keys() | after.keys())
    return [key for key in keys if _counts(key) and _differ(key, before.get(key), after.get(key))]


def grown(old: Mapping[str, Any] | DictConfig, new: Mapping[str, Any] | DictConfig) -> bool:
    """Whether `new` has more iterations than `old`."""
    before, after = (_container(each).get("iterations") for each in (old, new))
    return (
        isinstance(before, int) and isinstance(after, int) and before < after
    )  # a task's folder may have no iterations


def longer(old: Mapping[str, Any] | DictConfig, new: Mapping[str, Any] | DictConfig) -> bool:
    """Whether `new` differs from `old` only by more iterations."""
    return grown(old, new) and changed_keys(old, new) == ["iterations"]


def _counts(key: str) -> bool:
    return key == "hardware.precision" or not {key, key.split(".")[0]} & set(UNCOUNTED)


def _differ(key: str, before: Any, after: Any) -> bool:
    return before != after and not all(value in ALIKE.get(key, ()) for value in (before, after))


def _container(config: Mapping[str, Any] | DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config


@contextmanager
def begun(config: DictConfig, out: Path) -> Iterator[Progress]:
    """Locks and opens the run directory `out`; refuses one with another run's files."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as held, preempt.listening():
            told = ranks.shared(lambda: _begin(config, out, held))
            first = ranks.rank() == 0
            with Progress(terminal(stderr=True, quiet=not first), log=out / LOG if first else None) as progress:
                for line in told:
                    progress.note(line)
                yield progress
    except EXPECTED as error:
        raise ConfigError(str(error)) from error
    except Exception as error:
        if not disk_full(error):
            raise
        raise ConfigError(f"{out}: the disk is full. Finished work is stored: make room, then resume={out}") from error


def _begin(config: DictConfig, out: Path, held: ExitStack) -> list[str]:
    """Locks and claims `out`; returns messages about a resumed run."""
    held.enter_context(lock(out))
    for left in out.glob(f"{LAUNCH}*"):  # left by a killed launcher
        if left.name != os.environ.get(LAUNCHED):
            rmtree(left, ignore_errors=True)
    told = _claim(config, out)
    if not (record := out / "manifest.json").exists():
        write_json(record, manifest.manifest(sys.argv, config.seed, dict(config.hardware)))
    return told


def _claim(config: DictConfig, out: Path) -> list[str]:
    """Writes the config into a new run directory, or checks that this config may continue its run; returns messages.
    With more iterations than before a finished run is unfinished again."""
    if (out / SAVED).exists():
        if config.resume == "none":
            raise ConfigError(
                f"{out} already holds a run: resume={out} goes on with it; or name another directory (hydra.run.dir=…)"
            )
        old = saved(out)
        if longer(old, config):
            return _lengthened(old, config, out)
        if changed := changed_keys(old, config):
            raise ConfigError(
                f"{out} was begun with other values of {', '.join(changed)}: give the old ones, or begin a new run"
            )
        return [f"resume: goes on with {out}, of which {_done(out)}"]
    if foreign := sorted(path.name for path in out.iterdir() if not _ours(path.name)):
        raise ConfigError(f"{out} is not empty (it holds {', '.join(foreign[:3])}): choose another directory")
    write_text(out / SAVED, OmegaConf.to_yaml(config))  # unresolved, so that values from the environment are not stored
    if config.resume == "auto":
        return [f"resume: there is no unfinished run of {config.name} with matches to go on with; {out} is a new one"]
    return []


def _lengthened(old: DictConfig, config: DictConfig, out: Path) -> list[str]:
    """Extends the run in `out` to more iterations."""
    before = old.iterations
    told = [f"resume: {out} goes on to {config.iterations} iterations; {_done(out)}"]
    nodes = [config.learner, *(own.get("learner", {}) for own in policies(config).values())]
    if any(node.get("carry") for node in nodes):
        told.append(
            f"learner.carry: the schedule of iterations 1 to {before} ran over {before}; in a run that had "
            f"{config.iterations} from the start it would have run over all"
        )
    write_text(out / SAVED, OmegaConf.to_yaml(OmegaConf.merge(old, {"iterations": config.iterations})))
    (out / SUMMARY).unlink(missing_ok=True)
    return told


def _done(out: Path) -> str:
    """The progress of the run in `out` as text."""
    count = sum(1 for _ in out.glob(f"iter_*/learn/{MANIFEST}"))
    return f"{count} iteration{'s are' if count != 1 else ' is'} learned; stored work is not repeated"


def _ours(name: str) -> bool:
    """Whether a file of this name may be in a new run's directory."""
    draft = name.startswith(".") and name.endswith(".tmp")  # of a file whose writing was killed
    return name in (".hydra", ".lock", "parley.log", "manifest.json") or name.startswith(LAUNCH) or draft


OmegaConf.register_new_resolver("parley.run", run_directory, replace=True, use_cache=True)
OmegaConf.register_new_resolver("parley.sweep", sweep_directory, replace=True, use_cache=True)
