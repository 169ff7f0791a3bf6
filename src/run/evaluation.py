"""Evaluation: what a snapshot is held against, on which scenarios, and by how much it gained.

Matches are played sampled and greedily, in self-play and from both seats against others; every figure has an interval
clustered by scenario (`estimates`). The same scenarios, seats and seeds come in every iteration, so that differences
can be paired.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import combinations, islice, product
from typing import Any

from ..credit.base import logs
from ..data.episode import Episode
from ..data.sample import Demonstration, Sample
from ..data.scorer import judged
from ..games.base import Scenario
from ..learners.likelihood import logprobs, mean_logprob
from ..models.snapshot import Snapshot
from ..play.pairing import Seating, both_seatings, self_play
from ..play.player import Sampling
from ..play.seats import Who
from ..report.estimates import estimate, language, paired, summarise
from ..system import ranks
from .demonstrations import Demonstrations, rendered
from .harness import Benchmark, measure
from .parts import LEARNER, PREVIOUS, plain
from .run import Run, figures
from .scoring import Scoring

DRIFT_SAMPLES = 256  # matches whose words are scored under the start


class Evaluation:
    """The evaluation of the snapshots of a run, in stages of that run."""

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.game, self.seed = run, run.config, run.game, run.seed
        self.demonstrations, self.scoring = Demonstrations(run), Scoring(run)
        self.sampling = Sampling(**plain(self.config.eval.sampling))
        self.greedy = replace(self.sampling, temperature=0.0)

    @property
    def against_start(self) -> bool:
        """Whether the run is judged by its matches against the start."""
        return str(self.config.metric).startswith("versus.")

    def measure(
        self, number: int, snapshot: Snapshot, start: Snapshot, previous: Snapshot | None = None
    ) -> dict[str, Any]:
        """The figures of a snapshot: self-play on validation and test, and matches against the frozen start and its
        predecessor.

        Where a run is judged by `versus`, validation is played against the start, and the start meets itself for
        comparison.
        """
        first, k, sampling = self.config.eval.start_name, self.config.eval.group, self.sampling
        who = {LEARNER: snapshot, first: start}
        test = self._held_out("test", self.config.eval.scenarios)
        validation = self._held_out("validation", self.config.eval.validation)
        often = self.config.eval.validation_group or k
        judged = (
            self._versus(number, "validation", first, validation, sampling, who, often) if self.against_start else None
        )
        found: dict[str, Any] = {
            "validation": judged or self._self_play(number, "validation", validation, sampling, who),
            "sampled": self._self_play(number, "sampled", test, sampling, who, k),
            "greedy": self._self_play(
                number, "greedy", self._held_out("test", self.config.eval.greedy), self.greedy, who
            ),
            "versus": {},
            "versus_greedy": {},
            "language": self._language(number, start),
            "demonstrations": self._held_out_demonstrations(number, snapshot),
        }
        if len(self.game.roles) > 1 and (self.against_start or snapshot.version != start.version):
            found["versus"][first] = self._versus(number, "versus", first, test, sampling, who, k)
            found["versus_greedy"][first] = self._versus(number, "versus_greedy", first, test, self.greedy, who)
        if previous is not None and PREVIOUS in self.config.eval.opponents:
            who = {LEARNER: snapshot, PREVIOUS: previous}
            found["versus"][PREVIOUS] = self._versus(number, "versus", PREVIOUS, test, sampling, who, k)
        return found

    def yardsticks(self, number: int, snapshot: Snapshot) -> dict[str, Any]:
        """The figures of a snapshot against the game's scripts that are its opponents."""
        test, who, names = self._held_out("test", self.config.eval.scenarios), {LEARNER: snapshot}, self._scripts()
        return {
            "versus": {name: self._versus(number, "versus", name, test, self.sampling, who) for name in names},
            "versus_greedy": {
                name: self._versus(number, "versus_greedy", name, test, self.greedy, who) for name in names
            },
        }

    def confirmed(self, number: int, snapshot: Snapshot, start: Snapshot) -> dict[str, Any]:
        """The figures of the start or of the kept snapshot against the start, from `eval.final` new matches of each
        scenario and seat."""
        if not self._confirms:
            return {}
        first, test = self.config.eval.start_name, self._held_out("test", self.config.eval.scenarios)
        who = {LEARNER: snapshot, first: start}
        return {
            "versus": {first: self._versus(number, "final", first, test, self.sampling, who, self.config.eval.final)}
        }

    @property
    def _confirms(self) -> bool:
        return self.against_start and self.config.eval.final is not None

    def benchmark(self, number: int, snapshot: Snapshot, bench: Benchmark) -> dict[str, Any]:
        """The figures of a snapshot on `bench`, by task and metric."""
        name = f"iter_{number:03d}/benchmark"
        self.run.done[name] = done = measure(bench, snapshot, self.run.out / name, self.config, self.run.progress)
        found: dict[str, Any] = done.outputs
        return found

    def improvement(self, number: int, metric: str) -> dict[str, float | None]:
        """The paired difference in greedy self-play between a snapshot and the start, over every held-out scenario."""
        name = "iter_{:03d}/eval/greedy"
        return ranks.shared(
            lambda: paired(self._judged(name.format(0)), self._judged(name.format(number)), metric).to_json()
        )

    def gains(self, number: int) -> dict[str, Any]:
        """What a snapshot gained against the start, by metric: its figures less those of the start against itself, in
        matches of the same scenarios, seats and seeds."""
        folder = f"eval/{'final' if self._confirms else 'versus'}/{self.config.eval.start_name}"

        def work() -> dict[str, Any]:
            before, after = (list(self._judged(f"iter_{each:03d}/{folder}")) for each in (0, number))
            both = summarise(before, [LEARNER]).keys() & summarise(after, [LEARNER]).keys()
            return {name: paired(before, after, name, [LEARNER]).to_json() for name in sorted(both)}

        return ranks.shared(work)

    def tournament(self, snapshots: Mapping[str, Snapshot]) -> dict[str, dict[str, Any]]:
        """Every snapshot against every other and the game's scripts, both seatings: [player][opponent] -> figures."""
        test, sampling = self._held_out("test", self.config.eval.scenarios), self.sampling
        versions = {name: snapshot.version for name, snapshot in snapshots.items()}
        table: dict[str, dict[str, Any]] = {name: {} for name in snapshots}
        pairs = [*combinations(snapshots, 2), *product(snapshots, self._scripts())]
        for one, other in pairs:
            name = f"tournament/{one}/{other}"
            seatings = both_seatings(self.game, test, one, other, self.seed, name)
            who = {key: snapshots[key] for key in (one, other) if key in snapshots}

            def work(
                name: str = name, seatings: Any = seatings, who: Who = who, one: str = one, other: str = other
            ) -> dict[str, Any]:
                return self.run.play(
                    name,
                    seatings,
                    lambda played: {each: figures(played, [each]) for each in (one, other)},
                    sampling,
                    who,
                )

            found = self.run.stage(name, {"players": versions, "sampling": asdict(sampling)}, work)
            for player, opponent in ((one, other), (other, one)):
                table.setdefault(player, {})[opponent] = found[player]
        return table

    # --- matches -----------------------------------------------------------------------------------------------------

    def _scripts(self) -> list[str]:
        """The opponents that are scripts of the game."""
        return [name for name in self.config.eval.opponents if name != PREVIOUS]

    def _held_out(self, split: str, count: int | None) -> Sequence[Scenario]:
        """The first scenarios of a split (None: all): the same for every iteration and seed, so that differences can be
        paired."""
        return self.game.scenarios(split)[:count]

    def _self_play(
        self, number: int, what: str, scenarios: Sequence[Scenario], sampling: Sampling, who: Who, k: int = 1
    ) -> dict[str, Any]:
        seatings = self_play(self.game, scenarios, LEARNER, self.seed, f"iter_{number:03d}/eval/{what}", k)
        return self._played(number, what, seatings, sampling, who)

    def _versus(
        self,
        number: int,
        what: str,
        other: str,
        scenarios: Sequence[Scenario],
        sampling: Sampling,
        who: Who,
        k: int = 1,
    ) -> dict[str, Any]:
        seatings = both_seatings(
            self.game, scenarios, LEARNER, other, self.seed, f"iter_{number:03d}/eval/{what}/{other}", k
        )
        return self._played(number, f"{what}/{other}", seatings, sampling, who)

    def _played(
        self, number: int, what: str, seatings: Iterable[Seating], sampling: Sampling, who: Who
    ) -> dict[str, Any]:
        name = f"iter_{number:03d}/eval/{what}"
        versions = {key: snapshot.version for key, snapshot in who.items()} | self.run.versions(
            [what.rpartition("/")[2]]
        )
        inputs = {"players": versions, "sampling": asdict(sampling), "game": self.run.node("game")}
        played = self.run.stage(
            name, inputs, lambda: self.run.play(name, seatings, lambda found: figures(found, [LEARNER]), sampling, who)
        )
        return self.scoring.score(name) | played

    def _judged(self, name: str) -> Iterator[Episode]:
        """The stored matches of a stage, the scorer's scores among their metrics."""
        return judged(self.scoring.matches(name))

    # --- texts -------------------------------------------------------------------------------------------------------

    def _language(self, number: int, start: Snapshot) -> dict[str, Any]:
        """How the snapshot's sampled words read, and how likely the start finds them (language drift)."""
        name = f"iter_{number:03d}/eval/language"

        def said() -> tuple[dict[str, Any], list[Sample]]:
            episodes = self.run.episodes(f"iter_{number:03d}/eval/sampled")
            return language(episodes, [LEARNER]), everything_said(list(islice(episodes, DRIFT_SAMPLES)))

        def work() -> dict[str, Any]:
            words, samples = ranks.shared(said)
            scored = samples and start.served is None  # a server scores no text
            return words | ({"start_logprob": mean_logprob(samples, start, self.config.hardware)} if scored else {})

        return self.run.stage(name, {"start": start.version}, work)

    def _held_out_demonstrations(self, number: int, snapshot: Snapshot) -> dict[str, Any]:
        """How likely the snapshot finds demonstrations of the validation split, and how far it is from their source
        where that is known.

        `logprob`: log p(demonstration) in nats; `kl`: log p of its source less that, whose mean estimates KL(source ||
        model) without bias; `gain`: `logprob` less the start's, paired, which is by how much `kl` has fallen. {} where
        there are none, or the model is behind a server, which scores no text.
        """
        wanted = self.demonstrations.inputs("validation")
        if snapshot.served is not None or (self.run.parts.data is None and not wanted["matches"]):
            return {}
        self.demonstrations.play("validation")

        def held() -> tuple[list[Demonstration], list[Sample]]:
            demos = self.demonstrations("validation")[: self.config.eval.validation]
            return demos, rendered(demos, snapshot)

        def work() -> dict[str, Any]:
            demos, samples = ranks.shared(held)
            if not samples:
                return {}
            found = logprobs(samples, snapshot, self.config.hardware)
            clusters = [demo.cluster or demo.id for demo in demos]
            further = [
                (demo.logprob - mine, cluster)
                for demo, mine, cluster in zip(demos, found, clusters, strict=True)
                if demo.logprob is not None
            ]
            distance = {"kl": estimate(*zip(*further, strict=True)).to_json()} if further else {}
            return {
                "logprob": estimate(found, clusters).to_json(),
                **distance,
                "each": [*zip(clusters, found, strict=True)],
            }

        name = "iter_{:03d}/eval/demonstrations"
        inputs = {"snapshot": snapshot.version, "at_most": self.config.eval.validation, **wanted}
        made = dict(self.run.stage(name.format(number), inputs, work))
        each, first = made.pop("each", []), self.run.outputs(name.format(0)).get("each", [])
        if number and each:
            gains = [now - before for (_, before), (_, now) in zip(first, each, strict=True)]
            made["gain"] = estimate(gains, [cluster for cluster, _ in each]).to_json()
        return made


def everything_said(episodes: Collection[Episode]) -> list[Sample]:
    """All that language models said in `episodes`, legal or not, for scoring only."""
    said = ((log, {turn.request: (1.0, 1.0) for turn in log.episode.own if turn.call}) for log in logs(episodes))
    return [sample for log, numbers in said for sample in log.samples(numbers)]
