"""The end of a sweep (Hydra multirun): one table over its jobs, and a page with a figure and numbers."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class SweepTable(Callback):
    """Prints the sweep's table, and writes it and the page `sweep.html` (with its figure and numbers) beside the jobs.
    Does nothing if no job has a summary."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:

        from ..system.files import write_text
        from .overview import write
        from .progress import terminal
        from .settings import settings
        from .table import sweep_table

        folder = Path(config.hydra.sweep.dir)
        jobs = [path.parent for path in folder.glob("*/config.yaml")]
        if not any((job / "summary.json").exists() for job in jobs):
            return
        table = sweep_table(jobs)
        terminal().print(table)
        paper = terminal(file=StringIO(), width=120)
        paper.print(table)
        write_text(folder / "table.txt", paper.file.getvalue())  # type: ignore[attr-defined]
        lost = [job for job in jobs if not (job / "summary.json").exists()]
        try:
            page = write(folder, "sweep", f"Sweep {folder.name}", settings(set(jobs) - set(lost)), sorted(lost))
        except ValueError as error:
            terminal().print(f"sweep: {folder} ({error})", soft_wrap=True)
        else:
            terminal().print(f"sweep: {page}", soft_wrap=True)
