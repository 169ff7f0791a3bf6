"""The task that imports another program's records, as matches or as chats to imitate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from ...data.formats import clembench, messages, sotopia
from ...data.store import EpisodeStore
from ...games.social import Social
from ...report.progress import terminal
from ...run.config import ConfigError
from ...run.directory import begun
from ...run.stages import stage
from ...system import ranks
from ...system.files import InputError, digest, replacing

STAGE = "iter_001/play"


@ranks.collective
def bring(config: DictConfig, out: Path, path: str) -> float | None:
    """Imports Sotopia's episodes (`path`) into a run directory as a round of play, with their judge's scores if any, so
    that they can be shown, judged, exported and learned from like any round; or a results folder of clembench as
    `rows.jsonl`, a chat for each model's seat."""
    if Path(path).is_dir():
        count = ranks.shared(lambda: _rows(Path(path), out / "rows.jsonl"))
        terminal().print(f"{count} chats: {out / 'rows.jsonl'}", soft_wrap=True)
        return None
    if not Path(path).is_file():
        raise ConfigError(f"task.path: there is no file or folder {path}")
    with begun(config, out):
        game = instantiate(config.game, _convert_="all")
        if not isinstance(game, Social):
            raise ConfigError("task=import reads Sotopia's episodes: say game=social game.path=…")
        inputs = {"file": digest(Path(path)), "records": digest(Path(game.files["path"]))}
        done = ranks.shared(lambda: stage(out / STAGE, inputs, lambda: _store(game, out, Path(path))).outputs)
    terminal().print(f"{done['matches']} matches in {out / STAGE}, {done['judged']} with scores", soft_wrap=True)
    return None


def _rows(folder: Path, file: Path) -> int:
    try:
        return messages.write(file, (log for _, log in clembench.read(folder)))
    except InputError as error:
        raise ConfigError(f"task.path: {error}") from error


def _store(game: Social, out: Path, path: Path) -> dict[str, Any]:
    records = {each.name: each for each in sotopia.read(path, game.everything)}
    if not records:
        raise InputError(f"{path} is empty, expected an episode in each line")
    scores: list[dict[str, Any]] = []
    with EpisodeStore(out / STAGE, 0) as store:
        stored = store.ids()
        for record in records.values():
            episode = sotopia.match(record, game, STAGE)
            if episode.id not in stored:
                store.append(episode)
            scores.append({"id": episode.id, "scores": sotopia.scores(record)})
    judged = sum(bool(row["scores"]) for row in scores)
    if judged:
        _write(out, scores)
    return {"matches": len(records), "judged": judged}


def _write(out: Path, scores: Sequence[dict[str, Any]]) -> None:
    with replacing(out / STAGE / "score/scores.jsonl") as file:
        for row in sorted(scores, key=lambda row: str(row["id"])):
            file.write(json.dumps(row) + "\n")
