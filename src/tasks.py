"""What a task builds and runs. Each takes the composed config, the run directory, and the arguments of its own node."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from .config import SAVED, SUMMARY, ConfigError, changed_keys, imitation_learner
from .data.credit import NothingKept
from .data.episode import Episode
from .data.formats import messages, openai_chat
from .data.replay import replay as replayed
from .data.store import EpisodeStore
from .files import InputError, Locked, lock, write_json, write_text
from .games.base import Game
from .loop import Loop, Parts
from .models.backend import Snapshot
from .objectives.filtered_bc import FilteredBC
from .play.arena import TooManyFailures
from .report import choice, html, manifest, transcript
from .report import compare as comparison
from .report.progress import Progress
from .report.run import figure
from .report.table import figures_table, run_table, tournament_table, yardstick_table
from .report.trackers import Jsonl, Tracker, tracking
from .stages import MANIFEST, StageChanged

EXPECTED = (InputError, FileNotFoundError, Locked, StageChanged, NothingKept, TooManyFailures)  # told without a traceback


def selfplay(config: DictConfig, out: Path) -> float | None:
    """Imitates, then plays, learns and evaluates, again and again; returns the kept snapshot's figure."""
    with running(config, out) as loop, tracking(trackers(config), out) as logs:
        for tracker in logs:
            tracker.config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        summary = _iterations(loop, logs)
        write_json(out / SUMMARY, summary)
        html.write(out, loop.game.facts.metrics, _views(loop), config.eval.transcripts)
        for tracker in logs:
            tracker.table("transcripts", *_transcripts(loop, summary["best"]), summary["best"])
    _closing(out, summary)
    which, name = config.metric.split(".", 1)
    return float(summary["iterations"][summary["best"]][which][name]["mean"])


def _iterations(loop: Loop, logs: Sequence[Tracker]) -> dict[str, Any]:
    config = loop.config
    rows: list[dict[str, Any]] = []
    snapshots = [start := loop.start()]
    for number in range(config.iterations + 1):
        if number:
            loop.self_play(number, snapshots[-1])
            snapshots.append(loop.learn(number, snapshots[-1]))
        row = {"iteration": number, "snapshot": snapshots[-1].version, **loop.evaluate(number, snapshots[-1], start)}
        if number == 0:
            _merge(row, loop.yardsticks(0, start))
        rows.append(_with_training(loop, row))
        _log(logs, row)
    best = max(range(len(rows)), key=lambda at: _judged(config, rows[at]))
    if best:
        _merge(rows[best], loop.yardsticks(best, snapshots[best]))
    name = config.metric.split(".", 1)[1]
    demonstrators = loop.done.get("iter_000/demonstrations/train")
    return {
        "experiment": config.name,
        "seed": config.seed,
        **loop.cost(),
        "best": best,
        "metric": name,
        "demonstrators": demonstrators.outputs if demonstrators else None,
        "improvement_greedy": loop.improvement(best, name),
        "iterations": rows,
    }


def _judged(config: DictConfig, row: Mapping[str, Any]) -> float:
    """What the snapshot to keep is chosen by: the metric on the validation split."""
    return float(row["validation"][config.metric.split(".", 1)[1]]["mean"])


def _with_training(loop: Loop, row: dict[str, Any]) -> dict[str, Any]:
    number = row["iteration"]
    folder = f"iter_{number:03d}"
    if number:
        learned = loop.outputs(f"{folder}/learn")
        row["play"] = {key: value for key, value in loop.outputs(f"{folder}/play").items() if key != "figures"} | learned["credit"]
        row["learn"] = learned["learn"]
    elif "iter_000/start" in loop.done:
        row["learn"] = loop.outputs("iter_000/start")["learn"]
    row["seconds"] = loop.seconds(folder)
    return row


def _merge(row: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        row[key] = {**row.get(key, {}), **value}


def _log(logs: Sequence[Tracker], row: Mapping[str, Any]) -> None:
    flat = dict(_flat(row, ""))
    for tracker in logs:
        tracker.log(flat, int(row["iteration"]))


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        if "mean" in value and "low" in value:
            yield key, value["mean"]
            return
        for name, part in value.items():
            yield from _flat(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (int, float)) and key != "iteration":
        yield key, value


def _views(loop: Loop) -> Callable[[Episode], transcript.Views]:
    return lambda episode: replayed(loop.game, episode).views


def _transcripts(loop: Loop, best: int) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
    """A table of the kept snapshot's matches, for trackers: (columns, rows)."""
    metric, views = _metric(loop.config), _views(loop)
    chosen = choice.choose(loop.out, best, metric, loop.config.eval.transcripts, loop.seed)
    return choice.COLUMNS, choice.rows(chosen, views, metric)


def _closing(out: Path, summary: Mapping[str, Any]) -> None:
    console = Console()
    console.print(run_table(summary))
    if (against := yardstick_table(summary)) is not None:
        console.print(against)
    gain = summary["improvement_greedy"]
    if summary["best"]:
        console.print(f"greedy {summary['metric']}, kept less start, paired over {gain['n']} held-out scenarios: {figure(gain)}")
    console.print(f"report: {out / 'report' / 'index.html'}", soft_wrap=True)


# --- the parts alone, and looking at runs ------------------------------------------------------------------------------


def imitate(config: DictConfig, out: Path) -> float | None:
    """Imitation alone: makes snapshot 0."""
    with running(config, out) as loop:
        made = loop.start()
    Console().print(f"snapshot {made.version}: {made.path}", soft_wrap=True)
    return None


def play(config: DictConfig, out: Path, run: str | None) -> float | None:
    """One round of self-play: of the kept snapshot of `run`, or of a start that is made here."""
    with running(config, out) as loop:
        snapshot = kept(Path(run)) if run else loop.start()
        figures = loop.self_play(1, snapshot)["figures"]
    Console().print(figures_table(f"self-play of {snapshot.version}", figures))
    return float(figures[_metric(config)]["mean"]) if _metric(config) in figures else None


def learn(config: DictConfig, out: Path, run: str) -> float | None:
    """One round of learning, from the newest round that is stored in `run`."""
    number = max(history(Path(run), "play"), default=0)
    if not number:
        raise ConfigError(f"{run} has no finished round of self-play: make one with task=play")
    with running(config, out) as loop:
        source = Loop(loop.parts, Path(run), loop.progress)
        made = loop.learn(number, player_of(Path(run), number), source)
    Console().print(f"snapshot {made.version}: {made.path}", soft_wrap=True)
    return None


def evaluate(config: DictConfig, out: Path, run: str) -> float | None:
    """A tournament between all snapshots of `run` and the game's scripts, on the test split, in the game of that run."""
    old = saved(Path(run))
    for node in ("game", "backend", "model"):
        config[node] = old[node]
    with running(config, out) as loop:
        table = loop.tournament(all_snapshots(Path(run)))
        write_json(out / "tournament.json", table)
    Console().print(tournament_table(table, _metric(config)))
    return None


def show(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Prints one match of a run: both private views, retries, the result."""
    game, episode = _found(Path(run), match)
    Console().print(transcript.text(episode, replayed(game, episode).views, game.facts.metrics))
    return None


def replay(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Plays the stored replies of a match again and checks that the result is the same."""
    game, episode = _found(Path(run), match)
    replayed(game, episode)
    Console().print(f"{match}: {len(episode.turns)} turns replayed, the same requests and the same result ({episode.result.outcome})")
    return None


def export(config: DictConfig, out: Path, run: str) -> float | None:
    """Writes the self-play of `run` as chats: `messages.jsonl` (with meta) and `openai.jsonl` (for a fine-tuning service)."""
    game = instantiate(saved(Path(run)).game)
    logs = [
        messages.log(episode, seat, view)
        for number in history(Path(run), "play")
        for episode in EpisodeStore(Path(run) / f"iter_{number:03d}/play", shard=None).read(ordered=True)
        for seat, view in replayed(game, episode).views.items()
    ]
    if not logs:
        raise ConfigError(f"{run} has no finished round of self-play to export")
    count = messages.write(out / "messages.jsonl", logs), openai_chat.write(out / "openai.jsonl", logs)
    Console().print(f"{count[0]} logs in {out}/messages.jsonl, {count[1]} in {out}/openai.jsonl", soft_wrap=True)
    return None


def compare(config: DictConfig, out: Path, runs: list[str]) -> float | None:
    """Paired differences between runs, as a table here and as CSV and LaTeX in the run directory."""
    try:
        rows = comparison.compare(runs)
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(f"runs: {error}") from error
    write_text(out / "comparison.csv", comparison.as_csv(rows))
    write_text(out / "comparison.tex", comparison.as_latex(rows))
    Console().print(comparison.as_table(rows))
    return None


def _metric(config: DictConfig) -> str:
    return str(config.metric).split(".", 1)[1]


def _found(run: Path, match: str) -> tuple[Game, Episode]:
    """A match of a run, and the game it was played in. ConfigError names a few ids where there is none.

    Evaluation plays matches of the same id in every iteration: iter_003/eval/… is that of iteration 3, eval/… the first.
    """
    game = instantiate(saved(run).game)
    seen: list[str] = []
    for folder in sorted({path.parent for path in run.rglob("*.jsonl") if path.stem.isdecimal()}):
        iteration = folder.relative_to(run).parts[0]
        for episode in EpisodeStore(folder, shard=None).read():
            if match in (episode.id, f"{iteration}/{episode.id}"):
                return game, episode
            seen += [episode.id] if len(seen) < 3 else []
    raise ConfigError(f"match={match}: {run} has no such match; ids look like {', '.join(seen) or '(none is stored)'}")


# --- building and guarding a run ---------------------------------------------------------------------------------------


def build(config: DictConfig) -> Parts:
    """The parts of the experiment. Nodes are built here and nowhere else."""
    objective, hardware = config.objective, config.hardware
    loss, node = instantiate(objective.loss), imitation_learner(config)
    device = {"cpu": "cpu", "gpu": "cuda"}[hardware.accelerator]
    dtype = "bfloat16" if hardware.precision.startswith("bf16") else "float32"
    backend = instantiate(config.backend)
    return Parts(
        config=config,
        game=instantiate(config.game),
        model=instantiate(config.model),
        backend=lambda: backend(device=device, dtype=dtype),
        credit=instantiate(objective.credit),
        learner=instantiate(config.learner)(loss=loss, hardware=hardware),
        imitator=instantiate(node)(loss=FilteredBC(), hardware=hardware),
        data=instantiate(config.data) if config.data else None,
    )


@contextmanager
def running(config: DictConfig, out: Path) -> Iterator[Loop]:
    """A loop on the run directory `out`, which is locked, and refused where another run's files are in it."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        with lock(out):
            _claim(config, out)
            with Progress() as progress:
                yield Loop(build(config), out, progress)
    except EXPECTED as error:
        raise ConfigError(str(error)) from error


def _claim(config: DictConfig, out: Path) -> None:
    """Writes config and manifest into a new run directory, or checks that this config may continue the run in it."""
    saved = out / SAVED
    if saved.exists():
        if config.resume == "none":
            raise ConfigError(f"{out} already holds a run: resume={out} goes on with it; or name another directory (hydra.run.dir=…)")
        changed = changed_keys(OmegaConf.load(saved), config)  # type: ignore[arg-type]
        if changed:
            raise ConfigError(f"{out} was begun with other values of {', '.join(changed)}: give the old ones, or begin a new run")
        return
    if foreign := sorted(path.name for path in out.iterdir() if path.name not in (".hydra", ".lock", "parley.log")):
        raise ConfigError(f"{out} is not empty (it holds {', '.join(foreign[:3])}): choose another directory")
    write_json(out / "manifest.json", manifest.manifest(sys.argv, config.seed, dict(config.hardware)))
    write_text(saved, OmegaConf.to_yaml(config, resolve=True))


def saved(run: Path) -> DictConfig:
    """The config that a run was begun with."""
    if not (run / SAVED).exists():
        raise ConfigError(f"{run} is no run directory: it has no {SAVED}")
    return OmegaConf.load(run / SAVED)  # type: ignore[return-value]


def history(run: Path, what: str) -> list[int]:
    """The numbers of the iterations whose stage `what` (play, learn, start) is finished in `run`."""
    saved(run)
    return sorted(int(path.parts[-3].removeprefix("iter_")) for path in run.glob(f"iter_*/{what}/{MANIFEST}"))


def all_snapshots(run: Path) -> dict[str, Snapshot]:
    """The snapshots of a run by name: start, iter_001, …"""
    found = {"start": "start", **{f"iter_{number:03d}": "learn" for number in history(run, "learn")}}
    paths = {name: run / (name if what == "learn" else "iter_000") / what / MANIFEST for name, what in found.items()}
    paths |= {} if paths["start"].exists() else {"start": run / "iter_000/base" / MANIFEST}
    outputs = {name: json.loads(path.read_text())["outputs"] for name, path in paths.items() if path.exists()}
    return {name: Snapshot(**each.get("snapshot", each)) for name, each in outputs.items()}


def kept(run: Path) -> Snapshot:
    """The snapshot that a finished run kept; of an unfinished one the newest."""
    found = list(all_snapshots(run).values())
    if not found:
        raise ConfigError(f"{run} has no snapshot yet")
    return found[json.loads((run / SUMMARY).read_text())["best"]] if (run / SUMMARY).exists() else found[-1]


def player_of(run: Path, number: int) -> Snapshot:
    """The snapshot that played round `number` of `run`."""
    episode = next(iter(EpisodeStore(run / f"iter_{number:03d}/play", shard=None).read()))
    versions = set(episode.policies.values())
    match = [snapshot for snapshot in all_snapshots(run).values() if snapshot.version in versions]
    if not match:
        raise ConfigError(f"round {number} of {run} was played by {', '.join(sorted(versions))}, of which {run} has no snapshot")
    return match[0]


def trackers(config: DictConfig) -> list[Tracker]:
    """`metrics.jsonl`, and the logger node where there is one."""
    return [Jsonl(), *([instantiate(config.logger)] if config.logger else [])]
