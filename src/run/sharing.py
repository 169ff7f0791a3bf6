"""Writes model cards beside the snapshots of a run and beside merged models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..models.snapshot import Snapshot
from ..report.cards import CARD, Made, model_card
from ..report.rows import Measured
from ..report.run import summary
from ..system.files import write_text
from .contents import SUMMARY, all_snapshots
from .stages import finished


def write_cards(run: Path, number: int, snapshots: Mapping[str, Snapshot], measured: Mapping[str, Measured]) -> None:
    """Writes a card for each policy's snapshot of iteration `number`, if it is in the folder of `run`. A card is not
    part of a snapshot's version."""
    for policy, snapshot in snapshots.items():
        folder = Path(snapshot.path)
        if snapshot.served is None and folder.is_relative_to(run) and folder.is_dir():
            write_text(folder / CARD, model_card(run, _made(run, number, policy, snapshot, measured.get(policy))))


def write_merged_card(run: Path, source: Snapshot, merged: Snapshot) -> None:
    """Writes the card of `merged`, the merged model of the snapshot `source` of `run`."""
    every = all_snapshots(run).items()
    number, policy = next((at, name) for at, each in every for name, made in each.items() if made == source)
    row = summary(run).row(number).policies.get(policy) if (run / SUMMARY).exists() else None
    made = _made(run, number, policy, Snapshot(merged.version, merged.path), row)
    text = model_card(run, Made(made.version, policy, number, made.base or _outside(source.base, run), False, row))
    write_text(Path(merged.path) / CARD, text)


def _made(run: Path, number: int, policy: str, snapshot: Snapshot, measured: Measured | None) -> Made:
    adapter = snapshot.base is not None
    base = _outside(snapshot.base, run) if adapter else _outside(_begun(run), run)
    return Made(snapshot.version, policy, number, base, adapter, measured)


def _begun(run: Path) -> str | None:
    """The folder of the model that a run began with."""
    outputs = done.outputs if (done := finished(run / "iter_000/base")) is not None else None
    path = outputs.get("base") or outputs.get("path") if isinstance(outputs, dict) else None
    return str(run / path) if isinstance(path, str) and path else None


def _outside(path: str | None, run: Path) -> str | None:
    """A base from outside the run; None for one that the run made."""
    return None if path is None or Path(path).is_relative_to(run) else path
