"""The loop: imitate, then play -> credit -> learn -> evaluate, again and again, in resumable stages.

It holds no algorithm's formula: who is trained on what is credit's, how is the objective's and the learner's. Every rank runs
it: all of them play and learn, while files are read and figures are made on rank 0, for all.

    iter_000/  demonstrations/ base/ start/ (after imitation) adapter/ (a fresh one, where wanted) eval/
    iter_001/  play/ learn/ (samples and the next snapshot) eval/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from . import ranks
from .data.credit import Credit, Verdict
from .data.credit.base import logs
from .data.episode import Episode
from .data.replay import replay
from .data.sample import Demonstration, Sample
from .data.store import EpisodeStore
from .evaluate import estimate, language, paired, summarise
from .files import InputError
from .games.base import Game, Scenario
from .learners.base import Learner, Lessons
from .learners.likelihood import logprobs, mean_logprob
from .learners.reference import foreign
from .models.backend import Sampling, Snapshot
from .models.renderer import Renderer
from .play.arena import Report
from .play.pairing import Seating, both_seatings, fixed, self_play
from .play.table import Opponent, Table, Watch, Who
from .report.progress import Progress
from .seeds import derive, rng
from .stages import Clock, Done, stage

LEARNER, PREVIOUS = "learner", "previous"
DRIFT_SAMPLES = 256  # matches whose words are scored under the start


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an iteration learns: the nodes objective and learner as they hold for it, and what they build."""

    nodes: Mapping[str, Any]
    credit: Credit
    learner: Learner


@dataclass(frozen=True, slots=True)
class Parts:
    """What an experiment is composed of, built from its config by `tasks.build`."""

    config: Any  # parley.config.Config, composed
    game: Game
    model: Any  # a model source: create(folder, conversations, seed) -> Snapshot
    backend: Any  # backend() -> Backend
    credit: Credit
    learner: Learner
    imitator: Learner  # the learner as imitation uses it
    adapter: Any  # create(base, folder, seed) -> Snapshot; None: all weights are trained
    data: Any  # demonstrations(game, split) -> Iterable[Demonstration], besides those of the game's scripts; None for none
    opponents: Mapping[str, Opponent] = field(default_factory=dict)  # who else may be seated, by name
    changes: Mapping[int, Recipe] = field(default_factory=dict)  # from which iteration on the schedule has another recipe

    def recipe(self, number: int) -> Recipe:
        """How iteration `number` learns."""
        if begun := [each for each in self.changes if each <= number]:
            return self.changes[max(begun)]
        return Recipe({node: _plain(self.config[node]) for node in ("objective", "learner")}, self.credit, self.learner)


@runtime_checkable
class Rewarded(Protocol):
    """A data source whose texts have rewards."""

    def samples(self, render: Callable[[Demonstration], Sample]) -> list[Sample]:
        """The texts as samples; `render` makes tokens of a chat."""


class Loop:
    """The stages of one run directory. Each may be called again: what is finished is skipped."""

    def __init__(self, parts: Parts, out: Path, progress: Progress) -> None:
        self.parts, self.config, self.game = parts, parts.config, parts.game
        self.out, self.progress = out, progress
        self.seed = int(parts.config.seed)
        self.table = Table(self.game, parts.backend, self.config.play.in_flight, parts.opponents)
        self.done: dict[str, Done] = {}
        self.clock = Clock()

    # --- stages ------------------------------------------------------------------------------------------------------

    def start(self) -> Snapshot:
        """Snapshot 0: the model after imitation, with a fresh adapter on it where one is configured."""
        return self._adapted(self._imitated(), "iter_000/adapter")

    def _adapted(self, snapshot: Snapshot, name: str) -> Snapshot:
        """`snapshot` with a fresh adapter on it, in the stage `name`, unless none is configured or it has one already."""
        if self.parts.adapter is None or snapshot.base is not None:
            return snapshot

        def create() -> dict[str, Any]:
            folder = self.out / name / "snapshot"
            return ranks.shared(lambda: stored(self.parts.adapter.create(snapshot, folder, derive(self.seed, "adapter")), self.out))

        return restored(self._stage(name, {"base": snapshot.version, "adapter": _plain(self.config.adapter)}, create), self.out)

    def _imitated(self) -> Snapshot:
        """The model as it comes, after it has imitated the demonstrations where there are any and it is to."""
        imitate = self.config.imitate
        base = self._base()
        if not imitate.first or (self.parts.data is None and not imitate.matches):
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

        self._demonstrate("validation")
        inputs = {"base": base.version, "imitate": _plain(imitate), "learner": _plain(self.config.learner)}
        return restored(self._stage("iter_000/start", inputs, learn)["snapshot"], self.out)

    def _base(self) -> Snapshot:
        """The model as it comes (a tiny one has its words from the demonstrations)."""
        self._demonstrate("train")

        def make() -> dict[str, Any]:
            chats = (demo.messages for demo in self.demonstrations("train"))
            return stored(self.parts.model.create(self.out / "iter_000/base/model", chats, derive(self.seed, "model")), self.out)

        inputs = {"model": _plain(self.config.model), **self._demonstrated("train")}
        return restored(self._stage("iter_000/base", inputs, lambda: ranks.shared(make)), self.out)

    def offline(self) -> Snapshot:
        """The model as it comes, after it has learned from the samples with rewards that the data node holds."""
        if not isinstance(self.parts.data, Rewarded):
            raise InputError("there is no data with rewards: choose an option that has some, as data=spag data.path=…")
        source, begin = self.parts.data, self._adapted(self._base(), "iter_001/adapter")
        nodes = {node: _plain(self.config[node]) for node in ("objective", "learner", "data")}
        inputs = {"snapshot": begin.version, "seed": self.seed, **nodes}

        def work() -> dict[str, Any]:
            renderer = Renderer.load(begin.base or begin.path)
            samples = ranks.shared(lambda: source.samples(renderer.demonstration))
            return self._learn(self.parts.learner, samples, begin, "iter_001/learn", "iter_001")

        return restored(self._stage("iter_001/learn", inputs, work)["snapshot"], self.out)

    def demonstrations(self, split: str) -> list[Demonstration]:
        """The chats to imitate: the matches that the game's scripts played (see `_demonstrate`), and what the data node gives."""
        weight = self.config.imitate.partner_weight
        played = self.episodes(f"iter_000/demonstrations/{split}") if self._demonstrated(split)["matches"] else []
        given = self.parts.data.demonstrations(self.game, split) if self.parts.data is not None else ()
        return [*(demo for episode in played for demo in demonstrate(self.game, episode, weight)), *given]

    def _demonstrate(self, split: str) -> None:
        """The stage in which the scripts play the demonstrations of a split, where they do."""
        name, inputs = f"iter_000/demonstrations/{split}", self._demonstrated(split)
        if inputs["matches"]:
            self._stage(name, inputs, lambda: self.play(name, self._demonstrators(split, inputs["matches"]), _figures))

    def _demonstrated(self, split: str) -> dict[str, Any]:
        imitate = self.config.imitate
        alone = self.parts.data is None or imitate.matches  # with data of another kind only where they demonstrate at all
        matches = imitate.matches if split == "train" else imitate.validation if alone else 0
        nodes = {"game": _plain(self.config.game), "data": _plain(self.config.data)}
        return {"matches": matches, "players": list(imitate.players), "seed": self.seed, **nodes}

    def self_play(self, number: int, snapshot: Snapshot) -> dict[str, Any]:
        """The matches of round `number`, in which `snapshot` is the learner; returns their figures."""
        name = f"iter_{number:03d}/play"
        inputs = {"snapshot": snapshot.version, "play": _plain(self.config.play), "game": _plain(self.config.game), "seed": self.seed}
        inputs |= {"players": self._versions(map(str, self.config.players.values()))}

        def told(episodes: list[Episode]) -> dict[str, Any]:
            return {"matches": len(episodes), **language(episodes, [LEARNER]), "figures": _figures(episodes, [LEARNER])}

        def work() -> dict[str, Any]:
            sampling = Sampling(**_plain(self.config.play.sampling))
            return self.play(name, self._self_play(number), told, sampling, {LEARNER: snapshot})

        return self._stage(name, inputs, work)

    def learn(self, number: int, snapshot: Snapshot, source: Loop | None = None) -> Snapshot:
        """The next snapshot: credit chooses from the round that `snapshot` played (in the run of `source`), the learner trains."""
        name, recipe = f"iter_{number:03d}/learn", self.parts.recipe(number)
        inputs = {"snapshot": snapshot.version, "seed": self.seed, **recipe.nodes, "start": self.config.start, "replay": self.config.replay}
        if (model := foreign(self.config.reference)) is not None:
            inputs["reference"] = model.version

        def work() -> dict[str, Any]:
            if recipe.credit.mix != 0:
                self._demonstrate("train")
            samples, kept = ranks.shared(lambda: self.samples(number, source or self, snapshot, recipe))
            begin = self._adapted(snapshot, f"iter_{number:03d}/adapter") if self.config.start == "previous" else self.start()
            return {**self._learn(recipe.learner, samples, begin, name, f"iter_{number:03d}"), "credit": kept}

        return restored(self._stage(name, inputs, work)["snapshot"], self.out)

    @property
    def against_start(self) -> bool:
        """Whether the run is judged by its matches against the start."""
        return str(self.config.metric).startswith("versus.")

    def evaluate(self, number: int, snapshot: Snapshot, start: Snapshot, previous: Snapshot | None = None) -> dict[str, Any]:
        """The figures of a snapshot: self-play on validation and test, and matches against the frozen start and its predecessor.

        Where a run is judged by `versus`, validation is played against the start, and the start meets itself for comparison.
        """
        sampling = Sampling(**_plain(self.config.eval.sampling))
        greedy, first, k = replace(sampling, temperature=0.0), self.config.eval.start_name, self.config.eval.group
        who = {LEARNER: snapshot, first: start}
        test = self._held_out("test", self.config.eval.scenarios)
        validation = self._held_out("validation", self.config.eval.validation)
        judged = self._versus(number, "validation", first, validation, sampling, who, k) if self.against_start else None
        figures: dict[str, Any] = {
            "validation": judged or self._self_match(number, "validation", validation, sampling, who),
            "sampled": self._self_match(number, "sampled", test, sampling, who, k),
            "greedy": self._self_match(number, "greedy", self._held_out("test", self.config.eval.greedy), greedy, who),
            "versus": {},
            "versus_greedy": {},
            "language": self._language(number, start),
            "demonstrations": self._held_out_demonstrations(number, snapshot),
        }
        if len(self.game.roles) > 1 and (self.against_start or snapshot.version != start.version):
            figures["versus"][first] = self._versus(number, "versus", first, test, sampling, who, k)
            figures["versus_greedy"][first] = self._versus(number, "versus_greedy", first, test, greedy, who)
        if previous is not None and PREVIOUS in self.config.eval.opponents:
            who = {LEARNER: snapshot, PREVIOUS: previous}
            figures["versus"][PREVIOUS] = self._versus(number, "versus", PREVIOUS, test, sampling, who, k)
        return figures

    def yardsticks(self, number: int, snapshot: Snapshot) -> dict[str, Any]:
        """The figures of a snapshot against the game's scripts that are its opponents."""
        sampling, test = Sampling(**_plain(self.config.eval.sampling)), self._held_out("test", self.config.eval.scenarios)
        greedy, who = replace(sampling, temperature=0.0), {LEARNER: snapshot}
        names = self._scripts()
        return {
            "versus": {name: self._versus(number, "versus", name, test, sampling, who) for name in names},
            "versus_greedy": {name: self._versus(number, "versus_greedy", name, test, greedy, who) for name in names},
        }

    def improvement(self, number: int, metric: str) -> dict[str, float | None]:
        """The paired difference in greedy self-play between a snapshot and the start, over every held-out scenario."""
        name = "iter_{:03d}/eval/greedy"
        return ranks.shared(lambda: paired(self.episodes(name.format(0)), self.episodes(name.format(number)), metric).to_json())

    def gains(self, number: int) -> dict[str, Any]:
        """What a snapshot gained against the start, by metric: its figures less those of the start against itself, in matches
        of the same scenarios, seats and seeds."""
        folder = f"eval/versus/{self.config.eval.start_name}"

        def work() -> dict[str, Any]:
            before, after = (self.episodes(f"iter_{each:03d}/{folder}") for each in (0, number))
            both = summarise(before, [LEARNER]).keys() & summarise(after, [LEARNER]).keys()
            return {name: paired(before, after, name, [LEARNER]).to_json() for name in sorted(both)}

        return ranks.shared(work)

    def tournament(self, snapshots: Mapping[str, Snapshot]) -> dict[str, dict[str, Any]]:
        """Every snapshot against every other and the game's scripts, both seatings: [player][opponent] -> figures."""
        sampling, test = Sampling(**_plain(self.config.eval.sampling)), self._held_out("test", self.config.eval.scenarios)
        versions = {name: snapshot.version for name, snapshot in snapshots.items()}
        table: dict[str, dict[str, Any]] = {name: {} for name in snapshots}
        pairs = [*combinations(snapshots, 2), *product(snapshots, self._scripts())]
        for one, other in pairs:
            name = f"tournament/{one}/{other}"
            seatings = both_seatings(self.game, test, one, other, self.seed, name)
            who = {key: snapshots[key] for key in (one, other) if key in snapshots}

            def work(name: str = name, seatings: Any = seatings, who: Who = who, one: str = one, other: str = other) -> dict[str, Any]:
                return self.play(name, seatings, lambda played: {each: _figures(played, [each]) for each in (one, other)}, sampling, who)

            found = self._stage(name, {"players": versions, "sampling": asdict(sampling)}, work)
            for player, opponent in ((one, other), (other, one)):
                table.setdefault(player, {})[opponent] = found[player]
        return table

    # --- who plays whom ----------------------------------------------------------------------------------------------

    def _demonstrators(self, split: str, matches: int) -> Iterator[Seating]:
        scenarios, scripts = self.game.scenarios(split), list(self.config.imitate.players)
        drawn = rng(self.seed, "demonstrations", split)
        for number in range(matches):
            match = f"demonstrations/{split}/{number:06d}"
            players = {role: scripts[(number + seat) % len(scripts)] for seat, role in enumerate(self.game.roles)}
            yield Seating(match, drawn.choice(scenarios), derive(self.seed, "match", match), players)

    def _self_play(self, number: int) -> Iterator[Seating]:
        """This iteration's matches: each role is played by whom `players` names, by the learner unless it says otherwise; or the
        learner plays each role in turn, against its `opponent`."""
        named = dict(_plain(self.config.players))
        scenarios, stage = self._drawn("train", self.config.play.scenarios, number), f"iter_{number:03d}/play"
        if "opponent" in named:
            return both_seatings(self.game, scenarios, LEARNER, named["opponent"], self.seed, stage, self.config.play.group)
        default = named.pop("default", LEARNER)
        players = {role: str(named.get(role, default)) for role in self.game.roles}
        return fixed(self.game, scenarios, players, self.seed, stage, self.config.play.group)

    def _drawn(self, split: str, count: int, number: int) -> list[Scenario]:
        every = self.game.scenarios(split)
        drawn = rng(self.seed, "scenarios", number)
        return drawn.sample(every, count) if count <= len(every) else drawn.choices(every, k=count)

    def _scripts(self) -> list[str]:
        """The opponents that are scripts of the game."""
        return [name for name in self.config.eval.opponents if name != PREVIOUS]

    def _held_out(self, split: str, count: int | None) -> Sequence[Scenario]:
        """The first scenarios of a split (None: all): the same for every iteration and seed, so that differences can be paired."""
        return self.game.scenarios(split)[:count]

    # --- playing -----------------------------------------------------------------------------------------------------

    def play(
        self,
        name: str,
        seatings: Iterable[Seating],
        look: Callable[[list[Episode]], dict[str, Any]],
        sampling: Sampling | None = None,
        snapshots: Who | None = None,
    ) -> dict[str, Any]:
        """Plays what is owed of `seatings` into the folder `name`; gives back what rank 0 sees when it looks at all its episodes.

        Players are the game's scripts, a person, or the language models of `snapshots`, by name.
        """
        self.table.play(self.out / name, seatings, sampling or Sampling(), snapshots or {}, self._watch(name))
        return ranks.shared(lambda: look(self.episodes(name)))

    def _watch(self, name: str) -> Watch:
        """A progress bar for the stage `name`; a person has the terminal to themselves."""

        @contextmanager
        def watch(matches: int, person: bool) -> Iterator[Callable[[Report], None]]:
            progress = Progress(Console(quiet=True)) if person else self.progress
            with progress.stage(name, matches, "games") as bar:
                yield _advance(bar)

        return watch

    def _self_match(
        self, number: int, what: str, scenarios: Sequence[Scenario], sampling: Sampling, who: Who, k: int = 1
    ) -> dict[str, Any]:
        seatings = self_play(self.game, scenarios, LEARNER, self.seed, f"eval/{what}", k)
        return self._measured(number, what, seatings, sampling, who)

    def _versus(
        self, number: int, what: str, other: str, scenarios: Sequence[Scenario], sampling: Sampling, who: Who, k: int = 1
    ) -> dict[str, Any]:
        seatings = both_seatings(self.game, scenarios, LEARNER, other, self.seed, f"eval/{what}/{other}", k)
        return self._measured(number, f"{what}/{other}", seatings, sampling, who)

    def _measured(self, number: int, what: str, seatings: Iterable[Seating], sampling: Sampling, who: Who) -> dict[str, Any]:
        name = f"iter_{number:03d}/eval/{what}"
        versions = {key: snapshot.version for key, snapshot in who.items()} | self._versions([what.rpartition("/")[2]])
        inputs = {"players": versions, "sampling": asdict(sampling), "game": _plain(self.config.game)}
        return self._stage(name, inputs, lambda: self.play(name, seatings, lambda found: _figures(found, [LEARNER]), sampling, who))

    def _versions(self, names: Iterable[str]) -> dict[str, str]:
        """The versions of those of `names` that are opponents from the config."""
        return {name: self.parts.opponents[name].snapshot.version for name in names if name in self.parts.opponents}

    # --- learning ----------------------------------------------------------------------------------------------------

    def samples(self, number: int, source: Loop, snapshot: Snapshot, recipe: Recipe) -> tuple[Lessons, dict[str, Any]]:
        """What the learner is given of this round and of the `replay` rounds before it, and what credit kept of this one."""
        lessons: list[Any] = []
        kept: dict[str, Any] = {}
        for each in range(max(1, number - self.config.replay), number + 1):
            episodes, mixed = source.episodes(f"iter_{each:03d}/play"), self._mixed(each, recipe.credit)
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
        demos = self.demonstrations("train")
        if wanted is not None and wanted < len(demos):
            demos = rng(self.seed, "mix", number).sample(demos, wanted)
        return demos

    def _learn(self, learner: Learner, samples: Lessons, begin: Snapshot, name: str, version: str) -> dict[str, Any]:
        bar = self.progress.stage(name, None, "steps")
        with bar:
            made, metrics = learner.learn(
                samples, begin, self.out / name, seed=derive(self.seed, "learn", name), name=version,
                progress=lambda row: _step(bar, row),
            )  # fmt: skip
        return {"snapshot": stored(made, self.out), "learn": {key: value for key, value in metrics.items() if key != "curve"}}

    def _language(self, number: int, start: Snapshot) -> dict[str, Any]:
        """How the snapshot's sampled words read, and how likely the start finds them (language drift)."""
        name = f"iter_{number:03d}/eval/language"

        def said() -> tuple[dict[str, Any], list[Sample]]:
            episodes = self.episodes(f"iter_{number:03d}/eval/sampled")
            return language(episodes, [LEARNER]), everything_said(episodes[:DRIFT_SAMPLES])

        def work() -> dict[str, Any]:
            words, samples = ranks.shared(said)
            scored = samples and start.served is None  # a server scores no text
            return words | ({"start_logprob": mean_logprob(samples, start, self.config.hardware)} if scored else {})

        return self._stage(name, {"start": start.version}, work)

    def _held_out_demonstrations(self, number: int, snapshot: Snapshot) -> dict[str, Any]:
        """How likely the snapshot finds demonstrations of the validation split, and how far it is from their source where that is known.

        `logprob`: log p(demonstration) in nats; `kl`: log p of its source less that, whose mean estimates KL(source || model)
        without bias; `gain`: `logprob` less the start's, paired, which is by how much `kl` has fallen. {} where there are none,
        or the model is behind a server, which scores no text.
        """
        if snapshot.served is not None or (self.parts.data is None and not self._demonstrated("validation")["matches"]):
            return {}
        self._demonstrate("validation")

        def held() -> tuple[list[Demonstration], list[Sample]]:
            demos = self.demonstrations("validation")[: self.config.eval.validation]
            return demos, rendered(demos, snapshot)

        def work() -> dict[str, Any]:
            demos, samples = ranks.shared(held)
            if not samples:
                return {}
            found = logprobs(samples, snapshot, self.config.hardware)
            clusters = [demo.cluster or demo.id for demo in demos]
            further = [(demo.logprob - mine, cluster) for demo, mine, cluster in zip(demos, found, clusters) if demo.logprob is not None]
            distance = {"kl": estimate(*zip(*further)).to_json()} if further else {}
            return {"logprob": estimate(found, clusters).to_json(), **distance, "each": [*zip(clusters, found)]}

        name = "iter_{:03d}/eval/demonstrations"
        inputs = {"snapshot": snapshot.version, "at_most": self.config.eval.validation, **self._demonstrated("validation")}
        figures = dict(self._stage(name.format(number), inputs, work))
        each, first = figures.pop("each", []), self.outputs(name.format(0)).get("each", [])
        if number and each:
            gains = [now - before for (_, before), (_, now) in zip(first, each, strict=True)]
            figures["gain"] = estimate(gains, [cluster for cluster, _ in each]).to_json()
        return figures

    # --- bookkeeping -------------------------------------------------------------------------------------------------

    def _stage(self, name: str, inputs: Mapping[str, Any], work: Any) -> Any:
        done = stage(self.out / name, inputs, work)
        self.done.setdefault(name, done)
        return done.outputs

    def episodes(self, name: str) -> list[Episode]:
        """The stored matches of the stage `name`, by id."""
        return list(EpisodeStore(self.out / name, shard=None).read(ordered=True))

    def outputs(self, name: str) -> Any:
        """What the finished stage `name` gave."""
        return self.done[name].outputs

    def cost(self) -> dict[str, float]:
        """Wall and CPU seconds of the run so far: of these processes, and of the stages that earlier ones finished."""
        wall, cpu = self.clock.spent()
        cpu = sum(ranks.gathered(cpu))
        earlier = [done for done in self.done.values() if done.skipped]
        wall, cpu = wall + sum(done.seconds for done in earlier), cpu + sum(done.cpu_seconds for done in earlier)
        return {"seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}

    def seconds(self, prefix: str) -> dict[str, float]:
        """Wall seconds of the finished stages below the folder `prefix`, by the stage's name."""
        mine = {name: done for name, done in self.done.items() if name.startswith(f"{prefix}/")}
        return {name.removeprefix(f"{prefix}/"): round(done.seconds, 2) for name, done in mine.items()}


def stored(snapshot: Snapshot, run: Path) -> dict[str, Any]:
    """A snapshot as JSON; what lies in the run's directory is named from there, so that a run may be moved."""
    folders = (snapshot.path, snapshot.base)
    path, base = (str(Path(each).relative_to(run)) if each and Path(each).is_relative_to(run) else each for each in folders)
    return {"version": snapshot.version, "path": path, "base": base} | ({"served": snapshot.served} if snapshot.served else {})


def restored(data: Mapping[str, Any], run: Path) -> Snapshot:
    """What `stored` wrote."""
    path, base = (str(run / data[each]) if data[each] else data[each] for each in ("path", "base"))
    return Snapshot(data["version"], path, base, data.get("served"))


def demonstrate(game: Game, episode: Episode, partner_weight: float) -> list[Demonstration]:
    """Every seat's whole chat of a match, to imitate: its legal replies at weight 1, what it was told at `partner_weight`."""
    illegal = {request for request, mark in episode.result.marks.items() if "retry" in mark}
    weight = {"system": 0.0, "user": partner_weight, "assistant": 1.0}
    return [
        Demonstration(
            f"{episode.id}/{seat}", messages, tuple(0.0 if each.request in illegal else weight[each.role] for each in messages),
            cluster=episode.scenario.cluster,
        )
        for seat, messages in replay(game, episode).views.items()
    ]  # fmt: skip


def rendered(demos: Sequence[Demonstration], snapshot: Snapshot) -> list[Sample]:
    """Demonstrations in the tokens of `snapshot`."""
    if not demos:
        return []
    renderer = Renderer.load(snapshot.base or snapshot.path)
    return [renderer.demonstration(demo) for demo in demos]


def chats(game: Game, episodes: Iterable[Episode], table: Iterable[Verdict]) -> list[Demonstration]:
    """The logs that credit kept as whole chats, in which the replies that it chose weigh 1 and everything else 0."""
    by_id = {episode.id: episode for episode in episodes}
    found = []
    for verdict in table:
        if verdict.replies:
            view, chosen = replay(game, by_id[verdict.match]).views[verdict.seat], set(verdict.replies)
            found.append(Demonstration(f"{verdict.match}/{verdict.seat}", view, tuple(float(each.request in chosen) for each in view)))
    return found


def everything_said(episodes: Sequence[Episode]) -> list[Sample]:
    """All that language models said in `episodes`, legal or not, for scoring only."""
    said = ((log, {turn.request: (1.0, 1.0) for turn in log.episode.turns if turn.call}) for log in logs(episodes))
    return [sample for log, numbers in said for sample in log.samples(numbers)]


def _figures(episodes: Iterable[Episode], players: Iterable[str] | None = None) -> dict[str, Any]:
    return {name: found.to_json() for name, found in summarise(episodes, players).items()}


def _plain(node: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def _advance(bar: Any) -> Any:
    """Turns the arena's running totals into a progress bar's increments."""
    last = [0, 0]

    def advance(report: Report) -> None:
        if report.matches > last[0] or report.tokens > last[1]:
            bar.advance(report.matches - last[0], tokens=report.tokens - last[1])
            last[:] = [report.matches, report.tokens]

    return advance


def _step(bar: Any, row: Mapping[str, float]) -> None:
    bar.total = int(row["steps"])
    bar.found(max(int(row["step"]) - bar.done, 0))
    bar.advance(1, loss=float(row["loss"]), tokens=int(row["tokens"]))
