"""Evaluation of snapshots on held-out scenarios: self-play, opponents, the start, and gains over the start.

Matches are played sampled and greedily, in self-play and from all seats against others; every figure has an interval
clustered by scenario (`estimates`). Scenarios, seats and seeds are the same in every iteration, so that differences can
be paired.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations, islice
from typing import Any, TypeAlias

from ..credit.base import logs
from ..data.episode import Episode
from ..data.sample import Demonstration, Sample
from ..data.scorer import judged
from ..games.base import Scenario, seats
from ..learners.likelihood import logprobs, mean_logprob
from ..play.pairing import in_turn
from ..play.player import Sampling
from ..report.estimates import estimate, language, paired, summarise
from ..report.ratings import Meeting, meetings
from ..report.rows import Figures, Measured
from ..system import ranks
from .cast import History, Snapshots, Tables, names
from .config import judge
from .demonstrations import Demonstrations, rendered_each
from .harness import Benchmark, measure
from .parts import PREVIOUS, plain
from .run import Run, of_each
from .scoring import Scoring

ALONE = "alone"  # a player in scenarios with one role
DRIFT_SAMPLES = 256  # number of matches whose texts are scored under the start

Met: TypeAlias = dict[str, Mapping[str, Figures]]  # opponent -> policy -> figures


class Evaluation:
    """Evaluates the snapshots of a run, in stages of that run, for each policy separately."""

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.game, self.seed, self.cast = run, run.config, run.game, run.seed, run.cast
        self.policies = list(run.parts.policies)
        self.demonstrations, self.scoring = Demonstrations(run), Scoring(run)
        self.sampling = Sampling(**plain(self.config.eval.sampling))
        self.greedy = replace(self.sampling, temperature=0.0)

    @property
    def against_start(self) -> bool:
        """Whether the run's metric comes from matches against the start."""
        return judge(self.config)[1].startswith("versus.")

    def measure(self, number: int, history: History) -> dict[str, Measured]:
        """The figures of iteration `number`, the last of `history`, by policy: self-play on validation and test, and
        each policy in its roles against the start, and against the others' snapshots of the previous iteration.

        If the run's metric is of `versus`, validation is played against the start, and the start plays itself for
        comparison.
        """
        first, evaluated = self.config.eval.start_name, self.config.eval
        often = evaluated.validation_group or evaluated.group
        validation = self._held_out("validation", evaluated.validation)
        fields: dict[str, Any] = {
            "validation": self._versus(number, "validation", first, validation, self.sampling, history, often)
            if self.against_start
            else self._together(number, "validation", validation, self.sampling, history),
            "sampled": self._together(number, "sampled", self._test, self.sampling, history, evaluated.group),
            "greedy": self._together(number, "greedy", self._held_out("test", evaluated.greedy), self.greedy, history),
        }
        met: dict[str, Met] = {"versus": {}, "versus_greedy": {}}
        moved = any(history[-1][name].version != history[0][name].version for name in self.policies)
        if self._met(self._test) and (self.against_start or moved):
            met = self._both(number, first, history, evaluated.group)
        if number and self._met(self._test) and PREVIOUS in evaluated.opponents:
            met["versus"][PREVIOUS] = self._versus(
                number, "versus", PREVIOUS, self._test, self.sampling, history, evaluated.group
            )
        fields["language"] = self._language(number, history)
        fields["demonstrations"] = self._held_out_demonstrations(number, history)
        return {
            name: Measured(
                history[-1][name].version,
                **{field: found.get(name, {}) for field, found in fields.items()},
                versus=_of(name, met["versus"]),
                versus_greedy=_of(name, met["versus_greedy"]),
            )
            for name in self.policies
        }

    def against_scripts(self, number: int, history: History, measured: Mapping[str, Measured]) -> dict[str, Measured]:
        """Adds to `measured` what only the start and the kept iteration play: matches against the scripts in
        `eval.opponents`, and `eval.final` new matches per scenario and seat against the start. For scenarios with one
        role, the figures of each script in that role."""
        met: dict[str, Met] = {"versus": {}, "versus_greedy": {}}
        for name in self._scripts() if self._met(self._test) else []:
            for field, found in self._both(number, name, history).items():
                met[field] |= found
        alone = {name: self._alone(name) for name in self._scripts() if self._single(self._test)}
        if self._confirms:
            first, final = self.config.eval.start_name, self.config.eval.final
            met["versus"][first] = self._versus(number, "final", first, self._test, self.sampling, history, final)
        return {
            name: replace(
                each,
                versus={**each.versus, **_of(name, met["versus"])},
                versus_greedy={**each.versus_greedy, **_of(name, met["versus_greedy"])},
                alone=alone,
            )
            for name, each in measured.items()
        }

    @property
    def _confirms(self) -> bool:
        return self.against_start and self.config.eval.final is not None

    def benchmark(
        self, number: int, history: History, measured: Mapping[str, Measured], bench: Benchmark
    ) -> dict[str, Measured]:
        """Adds to `measured` the figures of each snapshot on `bench`, by task and metric."""
        found = {}
        for policy, each in measured.items():
            name = f"iter_{number:03d}/benchmark/{policy}"
            done = measure(bench, history[-1][policy], self.run.out / name, self.config, self.run.progress)
            self.run.done[name] = done
            found[policy] = replace(each, benchmark=done.outputs)
        return found

    def improvement(self, number: int, metric: str) -> dict[str, Any]:
        """The paired difference in greedy self-play between each policy and its start, over every held-out scenario."""
        found = self._gained("greedy", number)
        return {name: gains[metric] for name, gains in found.items() if metric in gains}

    def gains(self, number: int) -> dict[str, Any]:
        """Each policy's gain against the start, by metric: its figures minus those of the start against itself, in
        matches with the same scenarios, seats and seeds."""
        return self._gained(f"{'final' if self._confirms else 'versus'}/{self.config.eval.start_name}", number)

    def _gained(self, what: str, number: int) -> dict[str, dict[str, Any]]:
        """Policy -> metric -> the paired difference between the matches `what` of iteration `number` and the
        start's."""
        return ranks.shared(partial(self._paired, what, number))

    def _paired(self, what: str, number: int) -> dict[str, dict[str, Any]]:
        before, after = (list(self._judged(f"iter_{each:03d}/eval/{what}")) for each in (0, number))
        found: dict[str, dict[str, Any]] = {}
        for name in self.policies:
            both = summarise(before, [name]).keys() & summarise(after, [name]).keys()
            found[name] = {each: paired(before, after, each, [name]).to_json() for each in sorted(both)}
        return found

    def tournament(self, snapshots: Snapshots) -> tuple[dict[str, dict[str, Any]], list[Meeting]]:
        """Plays all pairs of `snapshots` (by name, as policy@iteration), opponents and scripts that can play the roles;
        returns the table [player][opponent] -> figures, and the meetings to rate.

        For scenarios with one role, [player]["alone"] holds each player's figures in that role.
        """
        members = [*snapshots, *self._scripts()]
        table: dict[str, dict[str, Any]] = {name: {} for name in members}
        met, single = self._met(self._test), self._single(self._test)
        found: list[Meeting] = []
        for one, other in combinations(members, 2) if met else []:
            if tables := self.cast.meeting(one, other):
                name = f"tournament/{one}/{other}"
                both = self._entered(name, tables, met, snapshots, (one, other))
                table[one][other], table[other][one] = both[one], both[other]
                found += ranks.shared(partial(self._meetings, name, one, other))
        for name in table if single else []:
            tables = [(role, self.cast.all(name)) for role in self.game.roles]
            table[name][ALONE] = self._entered(f"tournament/{name}/{ALONE}", tables, single, snapshots, (name,))[name]
        return table, found

    def _meetings(self, name: str, one: str, other: str) -> list[Meeting]:
        return meetings(one, other, self.run.episodes(name))

    def _entered(
        self,
        name: str,
        tables: Tables,
        scenarios: Sequence[Scenario],
        snapshots: Snapshots,
        players: tuple[str, ...],
    ) -> dict[str, Any]:
        """The figures of each of `players` in one pairing of a tournament."""
        who = {key: snapshots[key] for key in players if key in snapshots}
        seatings = in_turn(self.game, scenarios, tables, self.seed, name)
        versions = self.run.versions(players, who) | self.run.served()
        inputs = {"players": versions, "sampling": asdict(self.sampling)}
        look = partial(of_each, players=players)
        found: dict[str, Any] = self.run.stage(
            name, inputs, partial(self.run.play, name, seatings, look, self.sampling, who)
        )
        return found

    # --- matches -----------------------------------------------------------------------------------------------------

    def _scripts(self) -> list[str]:
        """The opponents that are scripts of the game."""
        return [name for name in self.config.eval.opponents if name != PREVIOUS]

    @property
    def _test(self) -> Sequence[Scenario]:
        return self._held_out("test", self.config.eval.scenarios)

    def _held_out(self, split: str, count: int | None) -> Sequence[Scenario]:
        """The first `count` scenarios of a split (None: all), equal for every iteration and seed, so that differences
        can be paired."""
        return self.game.scenarios(split)[:count]

    def _met(self, scenarios: Sequence[Scenario]) -> list[Scenario]:
        """Those of `scenarios` with several roles."""
        return [each for each in scenarios if len(seats(self.game, each)) > 1]

    def _single(self, scenarios: Sequence[Scenario]) -> list[Scenario]:
        """Those of `scenarios` with one role."""
        return [each for each in scenarios if len(seats(self.game, each)) == 1]

    def _alone(self, name: str) -> dict[str, Any]:
        """The figures of an opponent in scenarios with one role, equal in every iteration."""
        tables = [(role, self.cast.all(name)) for role in self.game.roles]
        scenarios = self._single(self._test)
        found: dict[str, Any] = self._played(0, f"{ALONE}/{name}", tables, scenarios, self.sampling, [], 1, [name])[
            name
        ]
        return found

    def _together(
        self, number: int, what: str, scenarios: Sequence[Scenario], sampling: Sampling, history: History, k: int = 1
    ) -> dict[str, Any]:
        """The figures with all players as in `players`."""
        return self._played(number, what, self.cast.tables, scenarios, sampling, history, k)

    def _both(self, number: int, other: str, history: History, k: int = 1) -> dict[str, Met]:
        """Figures against `other` on the test split: sampled `k` times, and greedy."""
        sampled = self._versus(number, "versus", other, self._test, self.sampling, history, k)
        greedy = self._versus(number, "versus_greedy", other, self._test, self.greedy, history)
        return {"versus": {other: sampled}, "versus_greedy": {other: greedy}}

    def _versus(
        self,
        number: int,
        what: str,
        other: str,
        scenarios: Sequence[Scenario],
        sampling: Sampling,
        history: History,
        k: int = 1,
    ) -> dict[str, Any]:
        """Each policy in each of its roles against `other`."""
        tables = self.cast.backwards(number) if other == PREVIOUS else self.cast.every(other)
        return self._played(number, f"{what}/{other}", tables, self._met(scenarios), sampling, history, k)

    def _played(
        self,
        number: int,
        what: str,
        tables: Tables,
        scenarios: Sequence[Scenario],
        sampling: Sampling,
        history: History,
        k: int,
        players: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The figures of each policy (or of `players`) in the matches at `tables`, `k` of each scenario at each."""
        name, who = f"iter_{number:03d}/eval/{what}", self.cast.snapshots(names(tables), history)
        versions = self.run.versions(names(tables), who) | self.run.served()
        inputs = {"players": versions, "sampling": asdict(sampling), "game": self.run.node("game")}
        seatings = in_turn(self.game, scenarios, tables, self.seed, name, k)
        look = partial(of_each, players=players or self.policies)
        played = self.run.stage(name, inputs, partial(self.run.play, name, seatings, look, sampling, who))
        scores = self.scoring.score(name)
        return {policy: scores.get(policy, {}) | found for policy, found in played.items()}

    def _judged(self, name: str) -> Iterator[Episode]:
        """The stored matches of a stage, with the scorer's scores among their metrics."""
        return judged(self.scoring.matches(name))

    # --- texts -------------------------------------------------------------------------------------------------------

    def _language(self, number: int, history: History) -> dict[str, Any]:
        """Language figures of each policy's sampled replies, and their log-likelihood under its start (language
        drift)."""
        start = history[0]
        inputs = {"start": {name: each.version for name, each in start.items()}}
        name = f"iter_{number:03d}/eval/language"
        found: dict[str, Any] = self.run.stage(
            name, inputs, partial(self._drift, start), alone=partial(self._said, number)
        )
        return found

    def _said(self, number: int) -> dict[str, tuple[dict[str, float], list[Sample]]]:
        """For each policy the language figures of its replies, and the replies of the first matches as samples."""
        episodes = self.run.episodes(f"iter_{number:03d}/eval/sampled")
        first = list(islice(episodes, DRIFT_SAMPLES))
        return {name: (language(episodes, [name]), everything_said(first, name)) for name in self.policies}

    def _drift(
        self, start: Snapshots, said: Mapping[str, tuple[dict[str, float], list[Sample]]]
    ) -> dict[str, dict[str, float]]:
        found = {}
        for name, (words, samples) in said.items():
            scored = samples and start[name].served is None  # a server scores no text
            logprob = mean_logprob(samples, start[name], self.config.hardware) if scored else None
            found[name] = words if logprob is None else {**words, "start_logprob": logprob}
        return found

    def _held_out_demonstrations(self, number: int, history: History) -> dict[str, Any]:
        """Each policy's log-likelihood of demonstrations of the validation split, and its KL to their source if that is
        known.

        `logprob`: log p(demonstration) in nats; `kl`: log p under its source minus that, whose mean estimates KL(source
        || model) without bias; `gain`: `logprob` minus the start's, paired, which equals the decrease of `kl`. {}
        without demonstrations, or for served models, which score no text.
        """
        wanted, newest = self.demonstrations.inputs("validation"), history[-1]
        served = any(each.served is not None for each in newest.values())
        if served or (self.run.parts.data is None and not wanted["matches"]):
            return {}
        self.demonstrations.play("validation")
        name = "iter_{:03d}/eval/demonstrations"
        versions = {policy: each.version for policy, each in newest.items()}
        inputs = {"snapshots": versions, "at_most": self.config.eval.validation, **wanted}
        made = self.run.stage(
            name.format(number), inputs, partial(self._likely, newest), alone=partial(self._demonstrated, newest)
        )
        first = self.run.outputs(name.format(0)) if number else {}
        return {policy: _with_gain(each, first.get(policy, {}).get("each", [])) for policy, each in made.items()}

    def _demonstrated(self, newest: Snapshots) -> tuple[list[Demonstration], list[list[Sample]]]:
        """The held-out demonstrations, and their streams of tokens, equal for all policies."""
        demos = self.demonstrations("validation")[: self.config.eval.validation]
        return demos, rendered_each(demos, next(iter(newest.values())))

    def _likely(
        self, newest: Snapshots, held: tuple[list[Demonstration], list[list[Sample]]]
    ) -> dict[str, dict[str, Any]]:
        demos, streams = held
        if not (samples := [sample for each in streams for sample in each]):
            return {}
        found = {name: iter(logprobs(samples, each, self.config.hardware)) for name, each in newest.items()}
        return {
            name: _likelihood(demos, [sum(islice(each, len(own))) for own in streams]) for name, each in found.items()
        }


def _of(policy: str, met: Met) -> dict[str, Figures]:
    """The figures of one policy by opponent."""
    return {other: found[policy] for other, found in met.items() if found.get(policy)}


def _likelihood(demos: Sequence[Demonstration], found: Sequence[float]) -> dict[str, Any]:
    clusters = [demo.cluster or demo.id for demo in demos]
    further = [
        (demo.logprob - mine, cluster)
        for demo, mine, cluster in zip(demos, found, clusters, strict=True)
        if demo.logprob is not None
    ]
    distance = {"kl": estimate(*zip(*further, strict=True)).to_json()} if further else {}
    return {"logprob": estimate(found, clusters).to_json(), **distance, "each": [*zip(clusters, found, strict=True)]}


def _with_gain(made: Mapping[str, Any], first: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Figures without the single values, with the paired difference to the start's values `first`."""
    figures, each = {name: value for name, value in made.items() if name != "each"}, made["each"]
    if first:
        gains = [now - before for (_, before), (_, now) in zip(first, each, strict=True)]
        figures["gain"] = estimate(gains, [cluster for cluster, _ in each]).to_json()
    return figures


def everything_said(episodes: Collection[Episode], player: str) -> list[Sample]:
    """All replies of the language model `player` in `episodes`, legal or not, as samples for scoring only."""
    said = (
        (log, {turn.request: (1.0, 1.0) for turn in log.episode.own if turn.call}) for log in logs(episodes, player)
    )
    return [sample for log, numbers in said for sample in log.samples(numbers)]
