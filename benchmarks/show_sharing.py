"""Measures what is promised of watching, going on and sharing, as a new user would try it: docs/results/sharing.json.

A small run with W&B offline, a sweep of 2 x 2, a page that compares two of its jobs, the worst match shown and
replayed by the printed command, an export that `datasets` loads, and a finished run that goes on to more iterations,
compared with one that had them from the start.

python benchmarks/show_sharing.py FOLDER [only=student|going_on] [fast]; what lies in FOLDER already is not done again.
With `fast`, as the tests call it, replies are short and little is imitated.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from results import ROOT, record

SMALL = [
    "debug=fast", "play.scenarios=4", "play.group=2", "objective.credit.keep=all", "eval.scenarios=3", "eval.greedy=3",
    "eval.validation=2", "eval.opponents=[fair]", "eval.transcripts=3", "imitate.matches=300",
]  # fmt: skip
FAST = [
    "play.sampling.max_tokens=12", "eval.sampling.max_tokens=12", "game.max_actions=3", "game.retries=1",
    "imitate.limit=100", "imitate.learner.epochs=1", "eval.opponents=[]",
]  # fmt: skip
TIMES = {"seconds", "cpu_seconds", "tokens_per_second", "reference_seconds"}


def parley(place: Path, *words: str) -> str:
    """What a command says, on both streams. It runs in this process, which imports once for all of them."""
    from parley.cli.main import main

    mine, sys.argv, said = sys.argv, ["parley", *words], io.StringIO()
    try:
        with chdir(place), redirect_stdout(said), redirect_stderr(said):
            main()
    except SystemExit as end:
        if end.code:
            raise SystemExit(f"parley {shlex.join(words)} failed:\n{said.getvalue()[-3000:]}") from end
    finally:
        sys.argv = mine
    return said.getvalue()


def run_of(place: Path, name: str, *words: str) -> str:
    """What the run `name` said, which is made if it is not finished."""
    run, log = place / name, place / f"{name}.out"
    if not (run / "summary.json").exists():
        where = f"resume={name}" if (run / "config.yaml").exists() else f"hydra.run.dir={name}"
        log.write_text(parley(place, *SMALL, *words, where))
    return log.read_text()


def student(place: Path) -> dict[str, Any]:
    """A run, its worst match, a sweep, an export."""
    said = run_of(place, "run", "iterations=1", "logger=wandb", "seed=1")
    copied = next(line.partition("parley ")[2] for line in said.splitlines() if line.startswith("the worst match"))
    show = shlex.split(copied)  # as it stands there
    shown = parley(place, *show)
    replayed = parley(place, *(word.replace("task=show", "task=replay") for word in show))
    exported = parley(place, "task=export", "run=run", "hydra.run.dir=export")
    swept = parley(place, "-m", *SMALL, "iterations=1", "seed=1,2", "play.group=2,3", "hydra.sweep.dir=sweep")
    jobs = ",".join(f"sweep/{path.parent.name}" for path in sorted((place / "sweep").glob("*/summary.json")))
    compared = parley(place, "task=compare", f"runs=[{jobs}]", "hydra.run.dir=both")
    pages = [place / "sweep/sweep.html", place / "both/comparison.html"]
    return {
        "lines of the run": len(said.splitlines()),
        "the worst match is shown": show[-1].partition("=")[2] in shown.replace("\n", ""),
        "and replayed to the same result": "the same result" in " ".join(replayed.split()),
        "jobs of the sweep": len([*(place / "sweep").glob("*/summary.json")]),
        "stages that a job took from an earlier one": swept.count("shared with job"),
        "lines of the sweep": len(swept.splitlines()),
        "the comparison names what differs": "sweep/2, unlike sweep/0" in compared,
        "pages": [str(page.relative_to(place)) for page in pages if page.exists()],
        "rows of the export": loaded(place / "export"),
        "files of the export": sum(" rows in " in line for line in exported.splitlines()),
        "weights and biases": offline(place / "run"),
    }


def loaded(folder: Path) -> dict[str, int] | str:
    """Rows of each file of an export, as `datasets` loads it."""
    try:
        import datasets
    except ModuleNotFoundError:
        return "datasets is not installed"
    names = datasets.get_dataset_config_names(str(folder))
    cache = str(folder.parent / "cache")
    return {name: len(datasets.load_dataset(str(folder), name, split="train", cache_dir=cache)) for name in names}


def records(data: bytes) -> Iterator[Any]:
    """The records of an offline file: a header of 7 bytes, then LevelDB's log format (blocks of 32 KiB; checksum,
    length, kind, data)."""
    from wandb.proto import wandb_internal_pb2

    at, partial = 7, b""
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:  # a block's tail is too short for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        partial += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(partial)
            partial = b""


def offline(run: Path) -> dict[str, Any]:
    """What Weights & Biases wrote offline, read back."""
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    found = list(records(path.read_bytes()))
    begun = next(each.run for each in found if each.WhichOneof("record_type") == "run")
    rows = [each.history for each in found if each.WhichOneof("record_type") == "history"]
    named = {"/".join(item.nested_key) or item.key for row in rows for item in row.item}
    summary = {item.key or "/".join(item.nested_key) for each in found for item in each.summary.update}
    return {
        "name": begun.display_name.rpartition("-")[0], "group": begun.run_group, "job type": begun.job_type,
        "sections": sorted({name.partition("/")[0] for name in named if "/" in name}),
        "of a step": sorted(name for name in named if name.startswith("steps/")),
        "panels of the dashboard without a figure": empty_panels(named),
        "tables": sorted({name.partition("/")[0] for name in named if name.startswith("transcripts")}),
        "in the summary": sorted({"best", "gain", "kept", "cpu_seconds"} & {key.partition("/")[0] for key in summary}),
    }  # fmt: skip


def empty_panels(named: set[str]) -> list[str]:
    """The panels of `task=dashboard` that show none of the figures `named`."""
    sections = OmegaConf.load(ROOT / "conf" / "task" / "dashboard.yaml").task.sections
    patterns = {f"{section}: {panel}": text for section, each in sections.items() for panel, text in each.items()}
    return [panel for panel, text in patterns.items() if not any(re.search(text, name) for name in named)]


def going_on(place: Path, first: int = 5, last: int = 7) -> dict[str, Any]:
    """A finished run of `first` iterations that goes on to `last`, against a run of `last` from the start."""
    whole = place / "whole"
    run_of(place, "whole", f"iterations={last}", "seed=2")
    going = place / "going"
    if not going.exists():
        run_of(place, "going", f"iterations={first}", "seed=2")
    if json.loads((going / "summary.json").read_text())["iterations"][-1]["iteration"] < last:
        parley(place, *SMALL, f"iterations={last}", "seed=2", "resume=going")
    one, other = (figures(json.loads((run / "summary.json").read_text())) for run in (whole, going))
    return {"from": first, "to": last, "the same summary": one == other}


def figures(value: Any) -> Any:
    """A summary without what depends on the machine's speed."""
    if isinstance(value, Mapping):
        return {key: figures(each) for key, each in value.items() if key not in TIMES}
    return [figures(each) for each in value] if isinstance(value, list) else value


def kept(place: Path, part: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What a part found, which is kept in `place`."""
    file = place / f"{part.__name__}.json"
    if not file.exists():
        file.write_text(json.dumps(part(place)))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    SMALL += FAST if "fast" in sys.argv[2:] else []
    folder, only = (
        Path(sys.argv[1]).absolute(),
        dict(word.split("=") for word in sys.argv[2:] if "=" in word).get("only"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    found = {part.__name__: kept(folder, part) for part in (going_on, student) if only in (None, part.__name__)}
    if only is None:
        record("sharing", {"settings": shlex.join(SMALL), **found})
