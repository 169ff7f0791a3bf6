"""The task that has new social tasks written, and stores those that hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ...data.episode import Episode
from ...data.store import Matches
from ...games.social import Social, invent, records
from ...play.pairing import self_play
from ...play.player import Sampling
from ...report.progress import terminal
from ...run.build import running
from ...run.config import ConfigError
from ...system import ranks
from ...system.files import InputError, read_jsonl, read_lines, replacing, write_json
from ...system.seeds import rng

STAGE = "invented"
ENVIRONMENTS, PAIRS, LEFT_OUT = "environment_profiles.jsonl", "env_agent_combo_storages.jsonl", "left_out.json"


@ranks.collective
def generate(
    config: DictConfig, out: Path, prompts: str, writer: str, limit: int | None, pairs: int, retries: int, sampling: Any
) -> float | None:
    """Has the opponent `writer` make a social task of each of `prompts`, and writes those that hold into the folder
    `tasks`, each with `pairs` pairs of characters, as game.generated reads them; what was left out is counted by
    reason."""
    typed = deepcopy(config)
    config.imitate.matches, config.eval.opponents = 0, []
    with running(config, out, typed) as run:
        if not isinstance(run.game, Social):
            raise ConfigError("task=generate makes tasks for Sotopia's characters: say game=social game.path=…")
        if writer not in run.parts.opponents:
            raise ConfigError(f"task.writer: there is no model {writer}: say opponents.{writer}.path=… or .model=…")
        folder = Path(run.game.files["path"])
        known = list(read_jsonl(folder / records.ENVIRONMENTS, records.environment))
        people = records.people(folder / records.AGENTS)
        names = [word for person in people.values() for word in person.name.split()]
        game = invent.Invention(asked(Path(prompts))[:limit], known, names, retries)
        seatings = self_play(game, game.scenarios("train"), writer, run.seed, STAGE)
        version = run.versions([writer], {})[writer]
        told = run.play(
            STAGE, seatings, lambda played: _store(out / "tasks", played, folder, pairs, version, run.seed),
            Sampling(**sampling), game=game,
        )  # fmt: skip
    terminal().print(f"{told['kept']} of {told['asked']} tasks in {out / 'tasks'}", soft_wrap=True)
    for why, count in told["left out"].items():
        terminal().print(f"  {count:6d} {why}")
    return None


def asked(path: Path) -> list[dict[str, str]]:
    """The prompts of a file, each once: {"prompt", "source"} rows (JSON lines), Sotopia-π's `model|source|pk|prompt`,
    or a text in each line. InputError where there is none."""
    lines = [line.strip() for _, line in read_lines(path) if line.strip()]
    if path.suffix == ".jsonl":
        rows = [{"prompt": str(row["prompt"]), "source": str(row.get("source", ""))} for row in read_jsonl(path)]
    elif lines and lines[0] == "model|source|pk|prompt":
        parts = [line.split("|", 3) for line in lines[1:]]
        rows = [{"prompt": each[3], "source": each[1]} for each in parts if len(each) == 4]
    else:
        rows = [{"prompt": line, "source": ""} for line in lines]
    if not rows:
        raise InputError(f"{path} holds no prompt, expected one in each line")
    return list({row["prompt"]: row for row in rows}.values())


def _store(folder: Path, played: Matches, source: Path, pairs: int, version: str, seed: int) -> dict[str, Any]:
    """Writes the accepted tasks that are not like an earlier one and for which there are characters."""
    relations = list(read_jsonl(source / "relationship_profiles.jsonl"))
    left_out: Counter[str] = Counter()
    seen: list[frozenset[str]] = []
    rows: list[dict[str, Any]] = []
    combos: list[dict[str, Any]] = []
    for episode in played:
        found = invent.invented(episode.result)
        own = invent.words(str(found["scenario"])) if found else frozenset[str]()
        casts = _casts(relations, int(found["relationship"]) if found else -1)
        if found is None:
            left_out[_why(episode)] += 1
        elif any(invent.alike(own, other) for other in seen):
            left_out["like an earlier one"] += 1
        elif len(casts) < pairs:
            left_out["too few characters with this relationship"] += 1
        else:
            seen.append(own)
            name = f"{episode.scenario.id}-{seed}"
            rows.append(_row(name, found, episode, version))
            chosen = rng(seed, "cast", name).sample(casts, pairs)
            combos += [{"combo_id": f"{name}-{n}", "env_id": name, "agent_ids": cast} for n, cast in enumerate(chosen)]
    for file, written in ((ENVIRONMENTS, rows), (PAIRS, combos)):
        with replacing(folder / file) as text:
            text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in written)
    told = {"asked": len(played), "kept": len(rows), "left out": dict(left_out.most_common())}
    write_json(folder / LEFT_OUT, told)
    return told


def _row(name: str, found: Mapping[str, Any], episode: Episode, version: str) -> dict[str, Any]:
    """An environment's record, with where it comes from."""
    data = episode.scenario.data
    origin = {"source": data["source"], "inspiration": data["prompt"], "model": version, "match": episode.id}
    return {"env_id": name, "codename": name, **found, "age_constraint": "[(18, 70), (18, 70)]", **origin}


def _casts(relations: Sequence[Mapping[str, Any]], relationship: int) -> list[list[str]]:
    """The pairs of characters who have this relationship."""
    return [[row["agent1_id"], row["agent2_id"]] for row in relations if str(row["relationship"]) == str(relationship)]


def _why(episode: Episode) -> str:
    """Why the last reply was refused."""
    reasons = list(_reasons(episode))
    return reasons[-1] if reasons else episode.result.outcome


def _reasons(episode: Episode) -> Iterator[str]:
    return (str(mark["retry"]) for mark in episode.result.marks.values() if "retry" in mark)
