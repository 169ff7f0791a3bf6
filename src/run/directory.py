"""Run directories: names, locks, resuming, and contents."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
import traceback
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..credit import NothingKept
from ..data.episode import Episode
from ..data.replay import ReplayError
from ..data.seal import MANIFEST, rounds
from ..data.store import EpisodeStore
from ..models import snapshot as snapshots
from ..models.snapshot import Snapshot
from ..play.arena import TooManyFailures
from ..report import manifest
from ..report.progress import Progress, terminal
from ..report.run import summary, without_aliases
from ..system import preempt, ranks
from ..system.files import REFUSED, InputError, Locked, lock, read_text, reason, write_json, write_text
from .config import ONLY, ConfigError, leaves, policies
from .stages import StageChanged, finished

SAVED, SUMMARY = "config.yaml", "summary.json"  # first and last file that the loop writes
LOG = "log.txt"  # terminal output by stage, and the error that ended the run
SPENDING = "spending"  # folder of the ledgers
FOLDER_NAME = r"\w[\w.+-]*"  # what a run may be called


LAUNCH = ".launch-"  # prefix of the folders by which the processes of a job find it
LAUNCHED = "PARLEY_LAUNCH"  # environment variable with that folder's name


BELOW = "tasks"  # subfolder of a run for the outputs of tasks on it


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
    sweeps = (
        sorted({run.parent.parent for run in Path(root, name).glob(f"*/*/{SAVED}")}, reverse=True)
        if resume == "auto"
        else []
    )
    mine = (sweep for sweep in sweeps if any(not (run.parent / SUMMARY).exists() for run in sweep.glob(f"*/{SAVED}")))
    return str(next(mine, Path(root, name, _stamp())))


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


def stored(snapshot: Snapshot, run: Path) -> dict[str, Any]:
    """A snapshot as JSON, with paths relative to the run's directory if inside, so that a run may be moved."""
    folders = (snapshot.path, snapshot.base)
    path, base = (
        str(Path(each).relative_to(run)) if each and Path(each).is_relative_to(run) else each for each in folders
    )
    return {"version": snapshot.version, "path": path, "base": base} | (
        {"served": snapshot.served} if snapshot.served else {}
    )


def restored(data: Mapping[str, Any], run: Path) -> Snapshot:
    """Restores the result of `stored`. InputError for invalid data, or if the snapshot's files have changed."""
    try:
        path, base = data["path"], data["base"]  # relative to the run, absolute, or none
        snapshot = Snapshot(
            data["version"], str(run / path) if path else path, str(run / base) if base else base, data.get("served")
        )
    except REFUSED as error:
        raise InputError(f"{run}: a stage's outputs hold no snapshot ({reason(error)})") from None
    return snapshots.verify(snapshot)


EXPECTED = (
    InputError,
    FileNotFoundError,
    Locked,
    StageChanged,
    NothingKept,
    TooManyFailures,
    ReplayError,
)
TOLD = (*EXPECTED, ConfigError, InstantiationException)
"""Errors that the command line shows in one line, without a traceback."""


def in_words(error: BaseException) -> str:
    """An error's message; for a node that cannot be built its key, the reason and the line of code, without Hydra's
    text."""
    cause = error.__cause__
    if not isinstance(error, InstantiationException) or cause is None:
        return str(error)
    if isinstance(cause, EXPECTED):
        return str(cause)
    key = str(error).rpartition("full_key: ")[2]
    at = traceback.extract_tb(cause.__traceback__)[-1]
    return f"{key} cannot be built: {type(cause).__name__}: {cause} ({Path(at.filename).name}, line {at.lineno})"


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
        if not _full(error):
            raise
        raise ConfigError(f"{out}: the disk is full. Finished work is stored: make room, then resume={out}") from error


def _full(error: BaseException | None) -> bool:
    """Whether a full disk (or a quota) caused an error, possibly wrapped by libraries."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error) or "disk is full" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


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


def load_snapshot(path: str | Path, base: str | None = None, policy: str | None = None) -> Snapshot:
    """The kept snapshot of the run at `path` (of `policy`; None: its first one), or the model at `path`.

    A model is a value of `model.path`: a folder, a .gguf file, ORG/NAME in the Hugging Face cache, or a LoRA adapter,
    on `base` or on the base that it names. No request is made. ConfigError for a run without the policy, InputError or
    FileNotFoundError if there is no such model.
    """
    if (Path(path).expanduser() / SAVED).exists():
        return kept_of(Path(path).expanduser(), policy)
    from ..models.hub import opened

    return opened(str(path), base)


def _ours(name: str) -> bool:
    """Whether a file of this name may be in a new run's directory."""
    draft = name.startswith(".") and name.endswith(".tmp")  # of a file whose writing was killed
    return name in (".hydra", ".lock", "parley.log", "manifest.json") or name.startswith(LAUNCH) or draft


def saved(run: Path) -> DictConfig:
    """The config that a run was begun with. ConfigError if it is missing or unreadable."""
    if not (run / SAVED).exists():
        raise ConfigError(f"{run} is no run directory: it has no {SAVED}")
    try:
        config = OmegaConf.create(without_aliases(read_text(run / SAVED)))
        assert isinstance(config, DictConfig) and config
    except (YAMLError, OmegaConfBaseException, AssertionError, *REFUSED):
        raise ConfigError(f"{run / SAVED} is torn, or no config of parley: nothing of this run can be used") from None
    return config


def history(run: Path, what: str) -> list[int]:
    """The iterations of `run` whose stage `what` (play, learn, start) is finished."""
    saved(run)
    return sorted(int(path.parts[-3].removeprefix("iter_")) for path in run.glob(f"iter_*/{what}/{MANIFEST}"))


def stage_outputs(run: Path, stage: str) -> Any:
    """The outputs of a stage of `run`; None if it is not finished."""
    return None if (done := finished(run / stage)) is None else done.outputs


def rounds_of(run: Path) -> list[str]:
    """The finished rounds of self-play in `run`, as stage names in order."""
    saved(run)
    return rounds(run)


def evaluations(run: Path) -> list[str]:
    """The stages of play of the newest evaluation in `run`, in order."""
    found = sorted(path.parent for path in run.glob(f"iter_*/eval/**/{MANIFEST}") if path.parent.name != "score")
    names = [str(path.relative_to(run)) for path in found]
    return [name for name in names if name.startswith(names[-1].split("/")[0])]


def all_snapshots(run: Path) -> dict[int, dict[str, Snapshot]]:
    """The existing snapshots of a run: iteration (0 is the start) -> policy -> snapshot."""
    names = list(policies(saved(run)))
    found = {0: {name: made for name in names if (made := _start(run, name)) is not None}}
    for number in history(run, "learn"):
        learned = _learned(run / f"iter_{number:03d}/learn", run)
        found[number] = {name: made for name, made in learned.items() if _there(made, run)}
    return {number: each for number, each in found.items() if each}


def named(number: int) -> str:
    """The name of an iteration's snapshots: start, iter_001, …"""
    return f"iter_{number:03d}" if number else "start"


def _start(run: Path, policy: str) -> Snapshot | None:
    """A policy's start: the last finished one of these stages. (In 0.1.0 an adapter's folder had no policy.)"""
    for what in (f"adapter/{policy}", "adapter", "start", "base"):
        if (done := finished(run / "iter_000" / what)) is not None:
            found = done.outputs.get("snapshot", done.outputs) if isinstance(done.outputs, dict) else done.outputs
            made = restored(found, run)
            return made if _there(made, run) else None
    return None


def _learned(folder: Path, run: Path) -> dict[str, Snapshot]:
    """The snapshots of a learn stage, by policy."""
    outputs = done.outputs if (done := finished(folder)) is not None else {}
    try:
        by_policy = {ONLY: outputs} if "snapshot" in outputs else outputs  # as 0.1.0 wrote it
        return {name: restored(each["snapshot"], run) for name, each in by_policy.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: the stage's outputs hold no snapshot ({reason(error)})") from None


def _there(snapshot: Snapshot, run: Path) -> bool:
    """Whether a snapshot is outside the run, or not pruned."""
    return not Path(snapshot.path).is_relative_to(run) or Path(snapshot.path).exists()


def prune(run: Path, stay: Container[int], frozen: Container[tuple[str, int]] = ()) -> None:
    """Removes the snapshots of all iterations except those in `stay` and the `frozen` (policy, iteration) still in use;
    the start always stays."""
    for number in history(run, "learn"):
        for folder in (run / f"iter_{number:03d}/learn").glob("*/snapshot"):
            if number not in stay and (folder.parent.name, number) not in frozen:
                rmtree(folder, ignore_errors=True)


def kept(run: Path) -> dict[str, Snapshot]:
    """The kept snapshots of a finished run, by policy; the newest of an unfinished one."""
    found = all_snapshots(run)
    if not found:
        raise ConfigError(f"{run} has no snapshot yet")
    if not (run / SUMMARY).exists():
        return list(found.values())[-1]
    if (best := summary(run).best) not in found:
        raise InputError(f"{run}: the snapshot of {named(best)}, which the run kept, is not there")
    return found[best]


def kept_of(run: Path, policy: str | None) -> Snapshot:
    """The kept snapshot of a policy of `run` (None: the first policy)."""
    found = kept(run)
    if policy is not None and policy not in found:
        raise ConfigError(f"{run} has no policy {policy}, only {', '.join(found)}")
    return found[policy or next(iter(found))]


def measured(config: DictConfig, run: str | None, base: str | None, which: str) -> dict[str, Snapshot]:
    """The snapshots that task=benchmark looks at, by name: those that `run` kept (or all that it has), or the model in
    `model.path` or in a package."""
    if run is not None:
        every, chosen = all_snapshots(Path(run)), kept(Path(run))
        shown = {number: each for number, each in every.items() if which == "all" or each == chosen}
        several = max(len(each) for each in shown.values()) > 1
        return {
            named(number) + (f"/{policy}" if several else ""): snapshot
            for number, each in shown.items()
            for policy, snapshot in each.items()
        }
    if "package" in config.model:
        return {"model": instantiate(config.model).create(Path(), (), 0)}
    if "path" not in config.model or OmegaConf.is_missing(config.model, "path"):
        raise ConfigError(
            "which model? Name a run (run=outputs/…) or a folder (model=hf model.path=…): a server scores no text"
        )
    return {"model": load_snapshot(config.model.path, base or config.model.get("base"))}


def played_by(run: Path, number: int) -> dict[str, Snapshot]:
    """The snapshots that played the round of iteration `number` of `run`, by policy."""
    found = all_snapshots(run)
    if number - 1 not in found:
        raise ConfigError(
            f"iteration {number} of {run} was played by the snapshots of {named(number - 1)}, which are not there"
        )
    return found[number - 1]


def find_match(run: Path, match: str) -> tuple[Episode, bool]:
    """A match of a run, and whether it is a judge's verdict. ConfigError names a few ids if there is no such match, and
    all candidates if the id is ambiguous: in a run of 0.1.0 matches of evaluations have the same id in every iteration,
    so say iter_003/eval/… for iteration 3."""
    saved(run)
    found: dict[str, tuple[Episode, bool]] = {}
    seen: list[str] = []
    stages = [*run.rglob(MANIFEST), *(path for path in run.rglob("*.jsonl") if path.stem.isdecimal())]
    for folder in sorted({path.parent for path in stages}):
        iteration = folder.relative_to(run).parts[0]
        if iteration == BELOW:  # other runs' matches, with their own ids
            continue
        for episode in EpisodeStore(folder, shard=None).read():
            whole = episode.id if episode.id.startswith(f"{iteration}/") else f"{iteration}/{episode.id}"
            if match in (episode.id, whole):
                found[whole] = episode, folder.name == "score"
            seen += [whole] if len(seen) < 3 else []
    if len(found) > 1:
        raise ConfigError(f"match={match} is one of several: say {', '.join(found)}")
    if not found:
        raise ConfigError(
            f"match={match}: {run} has no such match; ids look like {', '.join(seen) or '(none is stored)'}"
        )
    return next(iter(found.values()))


OmegaConf.register_new_resolver("parley.run", run_directory, replace=True, use_cache=True)
OmegaConf.register_new_resolver("parley.sweep", sweep_directory, replace=True, use_cache=True)
