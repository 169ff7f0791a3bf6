"""A run directory: where it lies, how it is begun, guarded and resumed, and what is in it."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from shutil import rmtree
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from ..credit import NothingKept
from ..data.episode import Episode
from ..data.store import EpisodeStore
from ..models import snapshot as snapshots
from ..models.snapshot import Snapshot
from ..play.arena import TooManyFailures
from ..report import manifest
from ..report.progress import Progress
from ..system import preempt, ranks
from ..system.files import InputError, Locked, lock, write_json, write_text
from .config import ONLY, ConfigError, leaves, policies
from .stages import MANIFEST, StageChanged

SAVED, SUMMARY = "config.yaml", "summary.json"  # what the loop writes first and last
SPENDING = "spending"  # folder of the ledgers


LAUNCH = ".launch-"  # begins the names of folders in which the processes of a running job find it


def run_directory(name: str, resume: str = "none", task: str | None = None, root: str = "outputs") -> str:
    """Where a single run lives: a new directory, or with `resume` the old one.

    auto takes the newest unfinished run of this experiment and task, and a new directory where there is none.
    """
    if resume not in ("none", "auto"):
        return resume
    runs = sorted(Path(root, name).glob(f"*/{SAVED}"), reverse=True) if resume == "auto" else []
    mine = (run.parent for run in runs if not (run.parent / SUMMARY).exists() and _task_of(run) == task)
    return str(next(mine, Path(root, name, _stamp())))


def sweep_directory(name: str, resume: str = "none", root: str = "multirun") -> str:
    """Where a sweep lives: as `run_directory`, a sweep being unfinished while one of its jobs is."""
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


def _task_of(saved: Path) -> str | None:
    target: str | None = OmegaConf.select(OmegaConf.load(saved), "task._target_")
    return target


UNCOUNTED = ("resume", "run", "runs", "match", "logger", "hardware", "keep", "stated", "benchmark")
"""Keys that a resumed run may change: they decide where and how fast, not what. (Of hardware, precision does count.)"""


ALIKE = {"old": ("pass", "recorded")}
"""Values of a key that give the same figures: one may follow the other in a resumed run."""


def changed_keys(old: Mapping[str, Any] | DictConfig, new: Mapping[str, Any] | DictConfig) -> list[str]:
    """The keys, as game.payoff, in which two composed configs differ so that one run cannot continue the other.

    A key that is not there is null, so that a run may be continued where there are more keys than there were.
    """
    before, after = dict(leaves(_container(old))), dict(leaves(_container(new)))
    keys = sorted(before.keys() | after.keys())
    return [key for key in keys if _counts(key) and _differ(key, before.get(key), after.get(key))]


def _counts(key: str) -> bool:
    return key.split(".")[0] not in UNCOUNTED or key == "hardware.precision"


def _differ(key: str, before: Any, after: Any) -> bool:
    return before != after and not all(value in ALIKE.get(key, ()) for value in (before, after))


def _container(config: Mapping[str, Any] | DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config


def stored(snapshot: Snapshot, run: Path) -> dict[str, Any]:
    """A snapshot as JSON; what lies in the run's directory is named from there, so that a run may be moved."""
    folders = (snapshot.path, snapshot.base)
    path, base = (
        str(Path(each).relative_to(run)) if each and Path(each).is_relative_to(run) else each for each in folders
    )
    return {"version": snapshot.version, "path": path, "base": base} | (
        {"served": snapshot.served} if snapshot.served else {}
    )


def restored(data: Mapping[str, Any], run: Path) -> Snapshot:
    """What `stored` wrote. InputError for a snapshot whose files were changed since."""
    path, base = (str(run / data[each]) if data[each] else data[each] for each in ("path", "base"))
    return snapshots.verify(Snapshot(data["version"], path, base, data.get("served")))


EXPECTED = (
    InputError,
    FileNotFoundError,
    Locked,
    StageChanged,
    NothingKept,
    TooManyFailures,
)  # told without a traceback


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
            raise ConfigError(
                f"{out} already holds a run: resume={out} goes on with it; or name another directory (hydra.run.dir=…)"
            )
        changed = changed_keys(OmegaConf.load(saved), config)  # type: ignore[arg-type]
        if changed:
            raise ConfigError(
                f"{out} was begun with other values of {', '.join(changed)}: give the old ones, or begin a new run"
            )
        return
    if foreign := sorted(path.name for path in out.iterdir() if not _ours(path.name)):
        raise ConfigError(f"{out} is not empty (it holds {', '.join(foreign[:3])}): choose another directory")
    write_json(out / "manifest.json", manifest.manifest(sys.argv, config.seed, dict(config.hardware)))
    write_text(saved, OmegaConf.to_yaml(config))  # unresolved: what comes from the environment stays there


def load_snapshot(path: str | Path, base: str | None = None, policy: str | None = None) -> Snapshot:
    """The snapshot that a run kept (of `policy`; None: of its first one), or the model at `path`.

    A model is what `model.path` takes: a folder, a .gguf file, ORG/NAME in the Hugging Face cache, or a LoRA adapter,
    on `base` or on what it names itself. No request is made. ConfigError for a run without the policy, InputError or
    FileNotFoundError where nothing of the kind is there.
    """
    if (Path(path).expanduser() / SAVED).exists():
        return kept_of(Path(path).expanduser(), policy)
    from ..models.hub import opened

    return opened(str(path), base)


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


def rounds_of(run: Path) -> list[str]:
    """The stages of the rounds of self-play that are finished in `run`, in order."""
    saved(run)
    found = [*run.glob(f"iter_*/play/{MANIFEST}"), *run.glob(f"iter_*/play/r*/{MANIFEST}")]
    return sorted(str(path.parent.relative_to(run)) for path in found)


def all_snapshots(run: Path) -> dict[int, dict[str, Snapshot]]:
    """The snapshots of a run that are still there: iteration (0 is the start) -> policy -> snapshot."""
    names = list(policies(saved(run)))
    found = {0: {name: made for name in names if (made := _start(run, name)) is not None}}
    for number in history(run, "learn"):
        learned = _learned(run / f"iter_{number:03d}/learn", run)
        found[number] = {name: made for name, made in learned.items() if _there(made, run)}
    return {number: each for number, each in found.items() if each}


def named(number: int) -> str:
    """What the snapshots of an iteration are called: start, iter_001, …"""
    return f"iter_{number:03d}" if number else "start"


def _start(run: Path, policy: str) -> Snapshot | None:
    """A policy's start: the last of these stages that was made. (An adapter's folder had no policy in 0.1.0.)"""
    for what in (f"adapter/{policy}", "adapter", "start", "base"):
        if (path := run / "iter_000" / what / MANIFEST).exists():
            outputs = json.loads(path.read_text())["outputs"]
            made = restored(outputs.get("snapshot", outputs), run)
            return made if _there(made, run) else None
    return None


def _learned(folder: Path, run: Path) -> dict[str, Snapshot]:
    """The snapshots that a stage learn made, by policy."""
    outputs = json.loads((folder / MANIFEST).read_text())["outputs"]
    by_policy = {ONLY: outputs} if "snapshot" in outputs else outputs  # as 0.1.0 wrote it
    return {name: restored(each["snapshot"], run) for name, each in by_policy.items()}


def _there(snapshot: Snapshot, run: Path) -> bool:
    """Whether a snapshot lies elsewhere, or has not been pruned."""
    return not Path(snapshot.path).is_relative_to(run) or Path(snapshot.path).exists()


def prune(run: Path, stay: Container[int], frozen: Container[tuple[str, int]] = ()) -> None:
    """Removes the snapshots of all iterations but those that `stay`, and the `frozen` (policy, iteration) that are
    seated; the start always stays."""
    for number in history(run, "learn"):
        for folder in (run / f"iter_{number:03d}/learn").glob("*/snapshot"):
            if number not in stay and (folder.parent.name, number) not in frozen:
                rmtree(folder, ignore_errors=True)


def kept(run: Path) -> dict[str, Snapshot]:
    """The snapshots that a finished run kept, by policy; of an unfinished one the newest."""
    found = all_snapshots(run)
    if not found:
        raise ConfigError(f"{run} has no snapshot yet")
    if not (run / SUMMARY).exists():
        return list(found.values())[-1]
    best: int = json.loads((run / SUMMARY).read_text())["best"]
    return found[best]


def kept_of(run: Path, policy: str | None) -> Snapshot:
    """The snapshot that `run` kept of a policy (None: of the first one)."""
    found = kept(run)
    if policy is not None and policy not in found:
        raise ConfigError(f"{run} has no policy {policy}, only {', '.join(found)}")
    return found[policy or next(iter(found))]


def measured(config: DictConfig, run: str | None, base: str | None, which: str) -> dict[str, Snapshot]:
    """Whom task=benchmark looks at, by name: the snapshots that `run` kept (or all that it has), or the model in
    `model.path`."""
    if run is not None:
        every, chosen = all_snapshots(Path(run)), kept(Path(run))
        shown = {number: each for number, each in every.items() if which == "all" or each == chosen}
        several = max(len(each) for each in shown.values()) > 1
        return {
            named(number) + (f"/{policy}" if several else ""): snapshot
            for number, each in shown.items()
            for policy, snapshot in each.items()
        }
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
    """A match of a run, and whether it is a judge's verdict. ConfigError names a few ids where there is none, and all
    that are meant where an id is not enough: in a run of 0.1.0 evaluation's matches have the same id in every
    iteration, and iter_003/eval/… is that of iteration 3."""
    saved(run)
    found: dict[str, tuple[Episode, bool]] = {}
    seen: list[str] = []
    for folder in sorted({path.parent for path in run.rglob("*.jsonl") if path.stem.isdecimal()}):
        iteration = folder.relative_to(run).parts[0]
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
