"""Tasks that measure: benchmarks, comparisons of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ...models.snapshot import Snapshot
from ...report import compare as comparison
from ...report import overview
from ...report.differences import between
from ...report.progress import terminal
from ...report.redact import public
from ...report.settings import settings
from ...report.table import benchmark_table
from ...report.trackers import tracking
from ...run.build import trackers
from ...run.config import ConfigError
from ...run.contents import SAVED, all_snapshots, kept, load_snapshot, named, saved
from ...run.directory import begun
from ...run.harness import measure
from ...run.tracking import flattened
from ...system import ranks
from ...system.files import write_json, write_text


@ranks.collective
def benchmark(
    config: DictConfig, out: Path, run: str | None, base: str | None, which: Literal["kept", "all"]
) -> float | None:
    """The configured benchmark, on the snapshot that `run` kept or on all of them; without a run on the folder
    `model.path` (an adapter's, on `base`) or on the model of a package. Writes
    `benchmark.json` and `metrics.jsonl`, a row for each snapshot."""
    if not config.benchmark:
        raise ConfigError(
            "task=benchmark needs a benchmark: say benchmark=spag, or benchmark=tasks 'benchmark.tasks=[…]'"
        )
    with begun(config, out) as progress, tracking(trackers(config), out) as logs:
        bench = instantiate(config.benchmark, _convert_="all")
        snapshots = ranks.shared(lambda: _measured(config, run, base, which))
        ranks.shared(bench.check)
        rows = {}
        for name, snapshot in snapshots.items():
            rows[name] = measure(bench, snapshot, out / name / "benchmark", config, progress).outputs
            number = int(name[len("iter_") :].partition("/")[0]) if name.startswith("iter_") else 0
            for tracker in logs:
                tracker.log(dict(flattened({"benchmark": rows[name]})), number)
        versions = {name: snapshot.version for name, snapshot in snapshots.items()}
        ranks.shared(lambda: write_json(out / "benchmark.json", {"snapshots": versions, "figures": rows}))
    terminal().print(benchmark_table("benchmark", rows))
    return None


def _measured(config: DictConfig, run: str | None, base: str | None, which: str) -> dict[str, Snapshot]:
    """The snapshots to look at, by name: those that `run` kept (or all that it has), or the model in `model.path` or in
    a package."""
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


def compare(config: DictConfig, out: Path, runs: list[str]) -> float | None:
    """Paired differences between runs, as a table here, and as a page, a figure, CSV and LaTeX in the run directory."""
    try:
        rows = comparison.compare(runs)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"runs: {error}") from error
    paths = [path for path in (comparison.side(run).path for run in runs) if (path / SAVED).exists()]
    for tree in between({str(path): public(OmegaConf.to_container(saved(path))) for path in paths}):
        terminal().print(tree)
    write_text(out / "comparison.csv", comparison.as_csv(rows))
    write_text(out / "comparison.tex", comparison.as_latex(rows))
    for table in comparison.as_tables(rows):
        terminal().print(table)
    differences = [comparison.HEADERS, *map(comparison.cells, rows)]
    try:
        found = settings({comparison.side(run).path for run in runs})
    except ValueError as error:  # different metrics cannot share a chart
        terminal().print(f"comparison: {out} ({error})", soft_wrap=True)
        return None
    page = overview.write(out, "comparison", "Comparison", found, differences=differences)
    terminal().print(f"comparison: {page}", soft_wrap=True)
    return None
