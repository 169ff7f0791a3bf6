"""Evaluation of snapshots on held-out scenarios: self-play, opponents, the start, and gains over the start.

Matches are played sampled and greedily, in self-play and from all seats against others; every figure has an interval
clustered by scenario (`estimates`). Scenarios, seats and seeds are the same in every iteration, so that differences can
be paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

from ..data.episode import Episode
from ..data.scorer import judged
from ..games.base import Scenario, seats
from ..play.pairing import in_turn
from ..play.player import Sampling
from ..report.estimates import paired, summarise
from ..report.ratings import Meeting, meetings
from ..report.rows import Figures, Measured
from ..system import ranks
from .cast import History, Snapshots, Tables, names
from .config import judge
from .harness import Benchmark, measure
from .parts import PREVIOUS, plain
from .run import Run, of_each
from .scoring import Scoring
from .texts import Texts

ALONE = "alone"  # a player in scenarios with one role

Met: TypeAlias = dict[str, Mapping[str, Figures]]  # opponent -> policy -> figures


class Evaluation:
    """Evaluates the snapshots of a run, in stages of that run, for each policy separately."""

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.game, self.seed, self.cast = run, run.config, run.game, run.seed, run.cast
        self.policies = list(run.parts.policies)
        self.scoring, self.texts = Scoring(run), Texts(run)
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
        fields["language"] = self.texts.language(number, history)
        fields["demonstrations"] = self.texts.likelihood(number, history)
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


def _of(policy: str, met: Met) -> dict[str, Figures]:
    """The figures of one policy by opponent."""
    return {other: found[policy] for other, found in met.items() if found.get(policy)}
