"""What a task builds and runs. Each takes the composed config, the run directory, and the arguments of its own node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from . import ranks
from .benchmark import measure
from .config import SUMMARY, ConfigError
from .data.episode import Episode
from .data.formats import messages, openai_chat, spag, spin_rows
from .data.replay import replay as replayed
from .data.store import EpisodeStore
from .evaluation import Evaluation
from .files import write_json, write_text
from .forecast import Forecast, architecture, forecast, real, refusal, stated, words
from .forecast import table as memory_table
from .learners.lightning import LightningLearner
from .loop import Loop
from .models.adapter import merge as merged
from .report import choice, html, transcript
from .report import compare as comparison
from .report.progress import Progress
from .report.run import figure
from .report.table import benchmark_table, figures_table, run_table, tournament_table, yardstick_table
from .report.trackers import Tracker, tracking
from .runs import EXPECTED, all_snapshots, begun, build, find_match, history, kept, measured, player_of, prune, running, saved, trackers


@ranks.collective
def selfplay(config: DictConfig, out: Path) -> float | None:
    """Imitates, then plays, learns and evaluates, again and again; returns the kept snapshot's figure."""
    with running(config, out) as loop, tracking(trackers(config), out) as logs:
        for tracker in logs:
            tracker.config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
        summary = _iterations(loop, logs)
        ranks.shared(lambda: _conclude(loop, logs, summary))
    _closing(out, summary)
    return _figure(summary["iterations"][summary["best"]], config.metric)


def _conclude(loop: Loop, logs: Sequence[Tracker], summary: Mapping[str, Any]) -> None:
    write_json(loop.out / SUMMARY, summary)
    html.write(loop.out, loop.game.facts.metrics, _views(loop), loop.config.eval.transcripts)
    for tracker in logs:
        tracker.table("transcripts", *_transcripts(loop, summary["best"]), summary["best"])


def _iterations(loop: Loop, logs: Sequence[Tracker]) -> dict[str, Any]:
    config, evaluation = loop.config, Evaluation(loop)
    if (bench := loop.parts.benchmark) is not None:
        ranks.shared(bench.check)  # what it lacks is told now, not after the first iteration
    rows: list[dict[str, Any]] = []
    snapshots = [start := loop.start()]
    for number in range(config.iterations + 1):
        if number:
            loop.self_play(number, snapshots[-1])
            snapshots.append(loop.learn(number, snapshots[-1]))
        previous = snapshots[-2] if number else None
        row = {"iteration": number, "snapshot": snapshots[-1].version, **evaluation.measure(number, snapshots[-1], start, previous)}
        if number == 0:
            _merge(row, evaluation.yardsticks(0, start))
            _merge(row, evaluation.confirmed(0, start, start))
        if bench is not None:
            row["benchmark"] = evaluation.benchmark(number, snapshots[-1], bench)
        rows.append(_with_training(loop, row))
        _log(logs, row)
        best = max(range(len(rows)), key=lambda at: _judged(config, rows[at]))
        if config.keep is not None:
            ranks.shared(partial(prune, loop.out, {best, *range(len(rows))[-config.keep :]}))
    if best:
        _merge(rows[best], evaluation.yardsticks(best, snapshots[best]))
        _merge(rows[best], evaluation.confirmed(best, snapshots[best], start))
    name = _metric(config)
    demonstrators = loop.done.get("iter_000/demonstrations/train")
    return {
        "experiment": config.name,
        "seed": config.seed,
        **loop.cost(),
        "best": best,
        "metric": name,
        "start": config.eval.start_name,
        "demonstrators": demonstrators.outputs if demonstrators else None,
        "improvement_greedy": evaluation.improvement(best, name),
        **({"gains": evaluation.gains(best)} if evaluation.against_start else {}),
        "iterations": rows,
    }


def _judged(config: DictConfig, row: Mapping[str, Any]) -> float:
    """What the snapshot to keep is chosen by: the metric on the validation split."""
    return float(row["validation"][_metric(config)]["mean"])


def _figure(row: Mapping[str, Any], path: str) -> float:
    """The figure at `path` (sampled.score, versus.start.win_rate) of an iteration."""
    found: Any = row
    for name in path.split("."):
        found = found[name]
    return float(found["mean"])


def _with_training(loop: Loop, row: dict[str, Any]) -> dict[str, Any]:
    number = row["iteration"]
    folder = f"iter_{number:03d}"
    if number:
        learned = loop.outputs(f"{folder}/learn")
        row["play"] = {key: value for key, value in loop.outputs(f"{folder}/play").items() if key != "figures"} | learned["credit"]
        row["learn"] = learned["learn"]
        if (scores := loop.done.get(f"{folder}/score")) is not None:
            row["scores"] = scores.outputs
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
    if asked := {f"iteration {row['iteration']}": row["benchmark"] for row in summary["iterations"] if "benchmark" in row}:
        console.print(benchmark_table("benchmark", asked))
    gain = summary["improvement_greedy"]
    if summary["best"]:
        console.print(f"greedy {summary['metric']}, kept less start, paired over {gain['n']} held-out scenarios: {figure(gain)}")
    console.print(f"report: {out / 'report' / 'index.html'}", soft_wrap=True)


# --- the parts alone, and looking at runs ------------------------------------------------------------------------------


@ranks.collective
def imitate(config: DictConfig, out: Path) -> float | None:
    """Imitation alone: makes snapshot 0."""
    with running(config, out) as loop:
        made = loop.start()
    Console().print(f"snapshot {made.version}: {made.path}", soft_wrap=True)
    return None


@ranks.collective
def play(config: DictConfig, out: Path, run: str | None) -> float | None:
    """One round of self-play: of the kept snapshot of `run`, or of a start that is made here."""
    with running(config, out) as loop:
        snapshot = kept(Path(run)) if run else loop.start()
        figures = loop.self_play(1, snapshot)["figures"]
    Console().print(figures_table(f"self-play of {snapshot.version}", figures))
    return float(figures[_metric(config)]["mean"]) if _metric(config) in figures else None


@ranks.collective
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


@ranks.collective
def offline(config: DictConfig, out: Path) -> float | None:
    """Learning from the rewards of stored data, without a match: the model as it comes, and the data option's samples."""
    with running(config, out) as loop:
        made = loop.offline()
    Console().print(f"snapshot {made.version}: {made.path}", soft_wrap=True)
    return None


@ranks.collective
def evaluate(config: DictConfig, out: Path, run: str) -> float | None:
    """A tournament between all snapshots of `run` and the game's scripts, on the test split, in the game of that run."""
    old = saved(Path(run))
    for node in ("game", "backend", "model"):
        config[node] = old[node]
    with running(config, out) as loop:
        table = Evaluation(loop).tournament(all_snapshots(Path(run)))
        ranks.shared(lambda: write_json(out / "tournament.json", table))
    Console().print(tournament_table(table, _metric(config)))
    return None


@ranks.collective
def benchmark(config: DictConfig, out: Path, run: str | None, base: str | None, which: Literal["kept", "all"]) -> float | None:
    """The configured benchmark, on the snapshot that `run` kept or on all of them; without a run on the folder `model.path`
    (an adapter's, on `base`). Writes `benchmark.json` and `metrics.jsonl`, a row for each snapshot."""
    if not config.benchmark:
        raise ConfigError("task=benchmark needs a benchmark: say benchmark=spag, or benchmark=tasks 'benchmark.tasks=[…]'")
    with begun(config, out) as progress, tracking(trackers(config), out) as logs:
        bench = instantiate(config.benchmark, _convert_="all")
        snapshots = ranks.shared(lambda: measured(config, run, base, which))
        ranks.shared(bench.check)
        rows = {}
        for name, snapshot in snapshots.items():
            rows[name] = measure(bench, snapshot, out / name / "benchmark", config, progress).outputs
            _log(logs, {"benchmark": rows[name], "iteration": int(name.removeprefix("iter_")) if name.startswith("iter_") else 0})
        versions = {name: snapshot.version for name, snapshot in snapshots.items()}
        ranks.shared(lambda: write_json(out / "benchmark.json", {"snapshots": versions, "figures": rows}))
    Console().print(benchmark_table("benchmark", rows))
    return None


def show(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Prints one match of a run: both private views, retries, the result."""
    game, episode = find_match(Path(run), match)
    Console().print(transcript.text(episode, replayed(game, episode).views, game.facts.metrics))
    return None


def replay(config: DictConfig, out: Path, run: str, match: str) -> float | None:
    """Plays the stored replies of a match again and checks that the result is the same."""
    game, episode = find_match(Path(run), match)
    replayed(game, episode)
    Console().print(f"{match}: {len(episode.turns)} turns replayed, the same requests and the same result ({episode.result.outcome})")
    return None


def export(config: DictConfig, out: Path, run: str) -> float | None:
    """Writes the self-play of `run` as chats: `messages.jsonl` (with meta) and `openai.jsonl` (for a fine-tuning service);
    matches of Taboo as SPAG's files, too, and replies whose real counterpart is known as SPIN's (`spin.jsonl`)."""
    game = instantiate(saved(Path(run)).game)
    episodes = [
        episode
        for number in history(Path(run), "play")
        for episode in EpisodeStore(Path(run) / f"iter_{number:03d}/play", shard=None).read(ordered=True)
    ]
    logs = [messages.log(episode, seat, view) for episode in episodes for seat, view in replayed(game, episode).views.items()]
    if not logs:
        raise ConfigError(f"{run} has no finished round of self-play to export")
    count = messages.write(out / "messages.jsonl", logs), openai_chat.write(out / "openai.jsonl", logs)
    Console().print(f"{count[0]} logs in {out}/messages.jsonl, {count[1]} in {out}/openai.jsonl", soft_wrap=True)
    for path in spag.export(out, game, episodes, config.seed):
        Console().print(f"as SPAG's code reads it: {path}", soft_wrap=True)
    if pairs := list(spin_rows.rows(episodes)):
        Console().print(f"{spin_rows.write(out / 'spin.jsonl', pairs)} pairs in {out}/spin.jsonl", soft_wrap=True)
    return None


def merge(config: DictConfig, out: Path, run: str) -> float | None:
    """Writes the kept snapshot of `run` as one Hugging Face folder, its adapter merged into its base."""
    source = kept(Path(run))
    made = merged(source, out / "model", source.version.rpartition("-")[0])
    Console().print(f"snapshot {source.version} as a model of its own: {made.path}", soft_wrap=True)
    return None


def plan(config: DictConfig, out: Path, run: str | None) -> float | None:
    """Explains one round of learning in words and figures: of the newest round of `run`, else of what the experiment states.

    ConfigError, after the explanation, when a device has too little memory for it.
    """
    try:
        learner, forecast = _forecast(config, run)
    except EXPECTED as error:
        raise ConfigError(str(error)) from error
    console = Console()
    for paragraph in words(forecast, learner, config):
        console.print(paragraph, highlight=False)
    console.print(memory_table(forecast, learner))
    if (why := refusal(forecast, learner)) is not None:
        raise ConfigError(why)
    return None


def _forecast(config: DictConfig, run: str | None) -> tuple[LightningLearner, Forecast]:
    if get_class(config.learner._target_) is not LightningLearner:
        raise ConfigError("task=plan explains learning on one's own devices (learner=lightning); another learner says itself what it does")
    learner: Any
    snapshot = None
    if run is not None:
        old = saved(Path(run))
        for node in ("game", "backend", "model", "data", "seed"):
            config[node] = old[node]
        OmegaConf.update(config, "imitate", old.imitate)
        number = max(history(Path(run), "play"), default=0)
        if not number:
            raise ConfigError(f"{run} has no finished round of self-play to plan with")
        loop, snapshot = Loop(build(config, Path(run)), Path(run), Progress(Console(quiet=True))), player_of(Path(run), number)
        recipe = loop.parts.recipe(number)
        learner = recipe.learner
        data = real(loop.samples(number, loop, snapshot, recipe)[0], f"round {number} of {run}")  # type: ignore[arg-type]
    else:
        loss = instantiate(config.objective.loss)
        learner = instantiate(config.learner)(loss=loss, hardware=config.hardware, reference=config.reference)
        data = stated(config.stated, learner.batch_utterances)
    adapter = instantiate(config.adapter, _convert_="all") if config.adapter else None
    return learner, forecast(learner, adapter, *architecture(config, snapshot), data, config.seed)


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
    """The name of the metric, without what it is taken from: win_rate of versus.start.win_rate."""
    return str(config.metric).rpartition(".")[2]
