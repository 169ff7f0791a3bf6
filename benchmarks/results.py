"""Where measured figures go: docs/results/<name>.json, with the revision, the command and the machine's processor."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from parley.report.run import summary
from parley.system.files import write_json

ROOT = Path(__file__).resolve().parent.parent


def record(name: str, figures: dict[str, Any]) -> Path:
    """Writes `figures` and what they were measured on; returns the file."""
    path = ROOT / "docs" / "results" / f"{name}.json"
    words = [str(Path(sys.argv[0]).resolve().relative_to(ROOT)), *map(_placeless, sys.argv[1:])]
    command = " ".join(["python", *words])
    write_json(
        path,
        {
            "revision": revision(),
            "date": date.today().isoformat(),
            "command": command,
            "processor": processor(),
            **figures,
        },
    )
    print(f"written: {path.relative_to(ROOT)}")
    return path


def _placeless(word: str) -> str:
    """A word of the command line without where things lie on this machine."""
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}PATH" if Path(value).is_absolute() else word


def summary_of(run: Path) -> dict[str, Any]:
    """A run's summary, in whose rows the figures of its only policy stand beside the iteration."""
    data = summary(run)
    own = {name: getattr(data, name).get(data.policy) for name in ("improvement_greedy", "gains")}
    rows = [row.to_json() | row.to_json()["policies"][data.policy] for row in data.iterations]
    return data.to_json() | own | {"iterations": rows}


def revision() -> str:
    """The git revision of the checkout, with + where tracked files differ from it."""
    return (_git("rev-parse", "--short", "HEAD") or "unknown") + (
        "+" if _git("status", "--porcelain", "-uno", "--", "src", "conf") else ""
    )


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def processor() -> str:
    """Processor and cores, without the machine's name."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores"
