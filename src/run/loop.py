"""The loop: imitate, then play -> credit -> learn -> evaluate, again and again, in resumable stages.

It holds no algorithm's formula: who is trained on what is credit's, how is the objective's and the learner's. Every
rank runs it: all of them play and learn, while files are read and figures are made on rank 0, for all.

    iter_000/  demonstrations/ base/ start/ (after imitation) adapter/ (a fresh one, where wanted) eval/
    iter_001/  play/ score/ (where there is a scorer) learn/ (samples and the next snapshot) eval/ benchmark/ (where one
               is chosen)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..credit import Credit, Verdict
from ..data.replay import replay
from ..data.sample import Demonstration, Sample
from ..data.scorer import ScoredMatches, write_scores
from ..data.sources.base import Rewarded
from ..data.store import Matches
from ..games.base import Game, Scenario
from ..learners.base import Learner, Lessons
from ..learners.likelihood import mean_logprob
from ..learners.reference import foreign
from ..models import snapshot as snapshots
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..play.pairing import Seatings, both_seatings, fixed
from ..play.player import Sampling
from ..report.estimates import Language, Tally, to_json
from ..report.progress import Progress
from ..report.trackers import Tracker
from ..system import ranks
from ..system.files import InputError
from ..system.seeds import derive, rng
from .demonstrations import Demonstrations, rendered
from .directory import prune, restored, stored
from .evaluation import Evaluation
from .parts import LEARNER, Parts, Recipe, plain
from .run import Run


class Loop(Run):
    """The stages of a run in which its snapshots are made."""

    def __init__(self, parts: Parts, out: Path, progress: Progress) -> None:
        super().__init__(parts, out, progress)
        self.demonstrations = Demonstrations(self)

    # --- stages ------------------------------------------------------------------------------------------------------

    def start(self) -> Snapshot:
        """Snapshot 0: the model after imitation, with a fresh adapter on it where one is configured."""
        return self._adapted(self._imitated(), "iter_000/adapter")

    def _adapted(self, snapshot: Snapshot, name: str) -> Snapshot:
        """`snapshot` with a fresh adapter on it, in the stage `name`, unless none is configured or it has one
        already."""
        if self.parts.adapter is None or snapshot.base is not None:
            return snapshot

        def create() -> dict[str, Any]:
            folder = self.out / name / "snapshot"
            return ranks.shared(
                lambda: stored(self.parts.adapter.create(snapshot, folder, derive(self.seed, "adapter")), self.out)
            )

        return restored(
            self.stage(name, {"base": snapshot.version, "adapter": plain(self.config.adapter)}, create), self.out
        )

    def _imitated(self) -> Snapshot:
        """The model as it comes, after it has imitated the demonstrations where there are any and it is to."""
        imitate = self.config.imitate
        taught = imitate.first and (self.parts.data is not None or imitate.matches > 0)
        base = self._base(again=taught)
        if not taught:
            return base

        reads_chats = self.parts.imitator.reads == "chats"

        def lessons() -> Lessons:
            demos = self.demonstrations("train")
            return demos if reads_chats else rendered(demos, base)

        def held() -> list[Sample]:
            return [] if reads_chats else rendered(self.demonstrations("validation"), base)

        def learn() -> dict[str, Any]:
            learned = self._learn(self.parts.imitator, ranks.shared(lessons), base, "iter_000/start", "start")
            if held_out := ranks.shared(held):
                made = restored(learned["snapshot"], self.out)
                learned["learn"]["validation_logprob"] = mean_logprob(held_out, made, self.config.hardware)
            return learned

        self.demonstrations.play("validation")
        inputs = {"base": base.version, "imitate": plain(imitate), "learner": plain(self.config.learner)}
        return restored(self.stage("iter_000/start", inputs, learn)["snapshot"], self.out)

    def _base(self, again: bool = False) -> Snapshot:
        """The model as it comes (a tiny one has its words from the demonstrations, which are held if they are needed
        `again`)."""
        self.demonstrations.play("train")

        def make() -> dict[str, Any]:
            chats = (demo.messages for demo in self.demonstrations("train", again=again))
            return stored(
                self.parts.model.create(self.out / "iter_000/base/model", chats, derive(self.seed, "model")), self.out
            )

        inputs = {"model": plain(self.config.model), **self.demonstrations.inputs("train")}
        return restored(self.stage("iter_000/base", inputs, lambda: ranks.shared(make)), self.out)

    def offline(self) -> Snapshot:
        """The model as it comes, after it has learned from the samples with rewards that the data node holds."""
        if not isinstance(self.parts.data, Rewarded):
            raise InputError("there is no data with rewards: choose an option that has some, as data=spag data.path=…")
        source, begin = self.parts.data, self._adapted(self._base(), "iter_001/adapter")
        nodes = {node: plain(self.config[node]) for node in ("objective", "learner")}
        inputs = {"snapshot": begin.version, "seed": self.seed, **nodes, "data": self.node("data")}

        def work() -> dict[str, Any]:
            renderer = Renderer.load(begin.base or begin.path)
            samples = ranks.shared(lambda: source.samples(renderer.demonstration))
            return self._learn(self.parts.learner, samples, begin, "iter_001/learn", "iter_001")

        return restored(self.stage("iter_001/learn", inputs, work)["snapshot"], self.out)

    def self_play(self, number: int, snapshot: Snapshot) -> dict[str, Any]:
        """The matches of round `number`, in which `snapshot` is the learner; returns their figures."""
        name = f"iter_{number:03d}/play"
        inputs = {
            "snapshot": snapshot.version,
            "play": plain(self.config.play),
            "game": self.node("game"),
            "seed": self.seed,
        }
        inputs |= {"players": self.versions(map(str, self.config.players.values()))}

        def told(episodes: Matches) -> dict[str, Any]:
            said, tally = Language([LEARNER]), Tally([LEARNER])
            for episode in episodes:
                said.add(episode)
                tally.add(episode)
            return {"matches": len(episodes), **said.figures(), "figures": to_json(tally.figures())}

        def work() -> dict[str, Any]:
            sampling = Sampling(**plain(self.config.play.sampling))
            return self.play(name, self._self_play(number), told, sampling, {LEARNER: snapshot})

        return self.stage(name, inputs, work)

    def score(self, number: int, source: Run | None = None) -> dict[str, Any] | None:
        """The scorer's scores of round `number` (in the run of `source`), into a file; returns their figures. None
        without a scorer."""
        name, scorer, matches = f"iter_{number:03d}/score", self.parts.scorer, self.matches(number, source)
        if scorer is None or not isinstance(matches, ScoredMatches):
            return None

        def make() -> dict[str, Any]:
            write_scores(matches.scores, scorer, matches)
            tally = Tally([LEARNER])
            for each in matches.scored():
                tally.add(replace(each.episode, result=replace(each.episode.result, metrics=each.scores)))
            return to_json(tally.figures())

        return self.stage(name, {"scorer": plain(self.config.scorer), "seed": self.seed}, lambda: ranks.shared(make))

    def learn(self, number: int, snapshot: Snapshot, source: Run | None = None) -> Snapshot:
        """The next snapshot: credit chooses from the round that `snapshot` played (in the run of `source`), the learner
        trains."""
        name, recipe = f"iter_{number:03d}/learn", self.parts.recipe(number)
        inputs = {
            "snapshot": snapshot.version,
            "seed": self.seed,
            **recipe.nodes,
            "start": self.config.start,
            "replay": self.config.replay,
        }
        if (model := foreign(self.config.old)) is not None:
            inputs["old"] = model.version
        if self.parts.scorer is not None:
            inputs["scorer"] = plain(self.config.scorer)
            for each in self._rounds(number):
                self.score(each, source)

        def work() -> dict[str, Any]:
            if recipe.credit.mix != 0:
                self.demonstrations.play("train")
            samples, kept = ranks.shared(lambda: self.samples(number, source or self, snapshot, recipe))
            begin = (
                self._adapted(snapshot, f"iter_{number:03d}/adapter")
                if self.config.start == "previous"
                else self.start()
            )
            return {**self._learn(recipe.learner, samples, begin, name, f"iter_{number:03d}"), "credit": kept}

        return restored(self.stage(name, inputs, work)["snapshot"], self.out)

    # --- who plays whom ----------------------------------------------------------------------------------------------

    def _self_play(self, number: int) -> Seatings:
        """This iteration's matches: each role is played by whom `players` names, by the learner unless it says
        otherwise; or the learner plays each role in turn, against its `opponent`."""
        named = dict(plain(self.config.players))
        scenarios, stage = self._drawn("train", self.config.play.scenarios, number), f"iter_{number:03d}/play"
        if "opponent" in named:
            return both_seatings(
                self.game, scenarios, LEARNER, named["opponent"], self.seed, stage, self.config.play.group
            )
        default = named.pop("default", LEARNER)
        players = {role: str(named.get(role, default)) for role in self.game.roles}
        return fixed(self.game, scenarios, players, self.seed, stage, self.config.play.group)

    def _drawn(self, split: str, count: int, number: int) -> list[Scenario]:
        every = self.game.scenarios(split)
        drawn = rng(self.seed, "scenarios", number)
        return drawn.sample(every, count) if count <= len(every) else drawn.choices(every, k=count)

    # --- learning ----------------------------------------------------------------------------------------------------

    def _rounds(self, number: int) -> range:
        """The rounds on which iteration `number` is trained."""
        return range(max(1, number - self.config.replay), number + 1)

    def matches(self, number: int, source: Run | None = None) -> Matches:
        """The matches of a round that the run `source` played, with what the scorer of this run says of them where
        there is one."""
        played = (source or self).episodes(f"iter_{number:03d}/play")
        if self.parts.scorer is None:
            return played
        return ScoredMatches(played.folder, self.out / f"iter_{number:03d}/score/scores.jsonl")

    def samples(self, number: int, source: Run, snapshot: Snapshot, recipe: Recipe) -> tuple[Lessons, dict[str, Any]]:
        """What the learner is given of this round and of the `replay` rounds before it, and what credit kept of this
        one."""
        lessons: list[Any] = []
        kept: dict[str, Any] = {}
        for each in self._rounds(number):
            episodes, mixed = self.matches(each, source), self._mixed(each, recipe.credit)
            if recipe.learner.reads == "chats":
                given = recipe.credit(episodes, LEARNER)
                lessons += [*chats(self.game, episodes, given.table), *mixed]
                replies = sum(len(verdict.replies) for verdict in given.table)
            else:
                given = recipe.credit(episodes, LEARNER, rendered(mixed, snapshot))
                lessons += given.on_policy()
                replies = sum(len(sample.utterances) for sample in given.samples)
            kept = {"logs": len(given.table), "kept": given.kept, "utterances": replies}
        return lessons, kept

    def _mixed(self, number: int, credit: Credit) -> list[Demonstration]:
        """The demonstrations that are mixed into round `number`, drawn anew for each."""
        if (wanted := credit.mix) == 0:
            return []
        begins = self.config.imitate.mixed
        demos = [demo for demo in self.demonstrations("train") if demo.id.startswith(begins)]
        if begins and not demos:
            raise InputError(f"imitate.mixed={begins}: no demonstration has an id that begins so")
        if wanted is not None and wanted < len(demos):
            demos = rng(self.seed, "mix", number).sample(demos, wanted)
        return demos

    def _reference(self, previous: Snapshot) -> Snapshot:
        """The fixed model that a loss compares with."""
        match self.config.reference:
            case "start":
                return self.start()
            case "base":
                return Snapshot(previous.version, previous.base) if previous.base else self._base()
            case "previous":
                return previous
        return snapshots.of(Path(self.config.reference).expanduser())

    def _learn(self, learner: Learner, samples: Lessons, begin: Snapshot, name: str, version: str) -> dict[str, Any]:
        bar = self.progress.stage(name, None, "steps")
        with bar:
            made, metrics = learner.learn(
                samples, begin, self.out / name, seed=derive(self.seed, "learn", name), name=version,
                reference=self._reference(begin) if "reference" in learner.loss.columns else None,
                progress=lambda row: _step(bar, row),
            )  # fmt: skip
        return {
            "snapshot": stored(made, self.out),
            "learn": {key: value for key, value in metrics.items() if key != "curve"},
        }


def chats(game: Game, episodes: Matches, table: Iterable[Verdict]) -> list[Demonstration]:
    """The logs that credit kept as whole chats, in which the replies that it chose weigh 1 and everything else 0."""
    found = []
    for verdict in table:
        if verdict.replies:
            view, chosen = replay(game, episodes[verdict.match]).views[verdict.seat], set(verdict.replies)
            found.append(
                Demonstration(
                    f"{verdict.match}/{verdict.seat}", view, tuple(float(each.request in chosen) for each in view)
                )
            )
    return found


def _step(bar: Any, row: Mapping[str, float]) -> None:
    bar.total = int(row["steps"])
    bar.found(max(int(row["step"]) - bar.done, 0))
    bar.advance(1, loss=float(row["loss"]), tokens=int(row["tokens"]))


# --- the iterations ---


def iterations(loop: Loop, logs: Sequence[Tracker]) -> dict[str, Any]:
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
        row = {
            "iteration": number,
            "snapshot": snapshots[-1].version,
            **evaluation.measure(number, snapshots[-1], start, previous),
        }
        if number == 0:
            _merge(row, evaluation.yardsticks(0, start))
            _merge(row, evaluation.confirmed(0, start, start))
        if bench is not None:
            row["benchmark"] = evaluation.benchmark(number, snapshots[-1], bench)
        rows.append(_with_training(loop, row))
        log(logs, row)
        best = max(range(len(rows)), key=lambda at: _judged(config, rows[at]))
        if config.keep is not None:
            ranks.shared(partial(prune, loop.out, {best, *range(len(rows))[-config.keep :]}))
    if best:
        _merge(rows[best], evaluation.yardsticks(best, snapshots[best]))
        _merge(rows[best], evaluation.confirmed(best, snapshots[best], start))
    name = metric_name(config)
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
    return float(row["validation"][metric_name(config)]["mean"])


def _with_training(loop: Loop, row: dict[str, Any]) -> dict[str, Any]:
    number = row["iteration"]
    folder = f"iter_{number:03d}"
    if number:
        learned = loop.outputs(f"{folder}/learn")
        row["play"] = {
            key: value for key, value in loop.outputs(f"{folder}/play").items() if key != "figures"
        } | learned["credit"]
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


def log(logs: Sequence[Tracker], row: Mapping[str, Any]) -> None:
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


def metric_name(config: DictConfig) -> str:
    """The name of the metric, without what it is taken from: win_rate of versus.start.win_rate."""
    return str(config.metric).rpartition(".")[2]


def figure_of(row: Mapping[str, Any], path: str) -> float:
    """The figure at `path` (sampled.score, versus.start.win_rate) of an iteration."""
    found: Any = row
    for name in path.split("."):
        found = found[name]
    return float(found["mean"])
