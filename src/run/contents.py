"""What a run's directory holds: its config, snapshots (checkpoints), rounds and matches."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..data.episode import Episode
from ..data.seal import MANIFEST, rounds
from ..data.store import EpisodeStore
from ..models import snapshot as snapshots
from ..models.snapshot import Snapshot
from ..report.run import summary, without_aliases
from ..system.files import REFUSED, InputError, read_text, reason
from .config import ONLY, ConfigError, policies
from .stages import finished

SAVED, SUMMARY = "config.yaml", "summary.json"  # first and last file that the loop writes
BELOW = "tasks"  # subfolder of a run for the outputs of tasks on it


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
    """The iterations of `run` whose stage `what` (play, learn) is finished."""
    saved(run)
    return sorted(int(path.parts[-3].removeprefix("iter_")) for path in run.glob(f"iter_*/{what}/{MANIFEST}"))


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


def played_by(run: Path, number: int) -> dict[str, Snapshot]:
    """The snapshots that played the first round of iteration `number` of `run`, by policy: those of the iteration
    before, or after a rollback of an earlier one."""
    found = all_snapshots(run)
    stage = next(name for name in rounds_of(run) if name.startswith(f"iter_{number:03d}/"))
    matches = EpisodeStore(run / stage, shard=None).read()
    seated = {(player, each.policies.get(seat)) for each in matches for seat, player in each.players.items()}
    played = dict(found.get(number - 1, {}))
    for earlier in sorted(at for at in found if at < number):
        played |= {name: made for name, made in found[earlier].items() if (name, made.version) in seated}
    if not played:
        raise ConfigError(
            f"iteration {number} of {run} was played by snapshots that are not there, as those of {named(number - 1)}"
        )
    return played


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
