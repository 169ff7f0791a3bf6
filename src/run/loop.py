"""The loop: imitate, then play -> score -> credit -> learn -> evaluate, again and again, in resumable stages.

No algorithm lives here: credit (advantage estimation) decides who is trained on what, objective and learner decide how.
All ranks run it: all of them play and learn; files are read and figures are made on rank 0, for all.

    iter_000/  demonstrations/ base/ start/ (after imitation) adapter/<policy>/ (a fresh one, if any) eval/
    iter_001/  play/ (or play/r001/, play/r002/ … for several rounds per iteration)
               learn/<policy>/ (samples and the next snapshot) eval/ benchmark/<policy>/ (if chosen)

With a scorer, the stages of play and eval each contain a stage score/.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, replace
from functools import partial
from statistics import fmean as mean
from typing import Any

from ..credit import NothingKept
from ..data.store import Matches
from ..games.base import Scenario
from ..learners.curve import pooled
from ..learners.reference import foreign
from ..models.snapshot import Snapshot
from ..play.pairing import Seating, Seatings, at_own, branches, in_turn
from ..play.player import Sampling
from ..play.seats import Sitting
from ..report.estimates import Language, Tally, to_json
from ..report.forks import Forks
from ..report.line import line
from ..report.rows import Measured, Row, Summary
from ..report.trackers import Tracker
from ..system import ranks
from ..system.seeds import rng
from . import rounds
from .cast import History, Snapshots, names
from .config import judge, metric_name
from .contents import prune, restored
from .evaluation import Evaluation
from .league import Standings
from .learning import Learning, remove_checkpoints
from .lessons import Crediting, Given, Round
from .lineage import Lineage
from .matchmaking import Plan
from .parts import Recipe, plain
from .reporting import Reporting
from .run import Run
from .sharing import write_cards
from .stages import part
from .start import Start
from .tracking import track


def iterations(run: Run, logs: Sequence[Tracker], report: Reporting | None = None) -> Summary:
    """A whole run: its iterations with a row each, and the kept one. `report` is updated after each."""
    config, loop, evaluation = run.config, Loop(run), Evaluation(run)
    if (bench := run.parts.benchmark) is not None:
        ranks.shared(bench.check)  # reports missing parts now, not after the first iteration
    history, steps = [loop.start()], 0
    rows: list[Row] = []
    for number in range(config.iterations + 1):
        if number:
            history.append(loop.iteration(number, history))
        measured = evaluation.measure(number, history)
        if number == 0:
            measured = evaluation.against_scripts(number, history, measured)
        if bench is not None:
            measured = evaluation.benchmark(number, history, measured, bench)
        rows.append(loop.row(number, measured))
        stay = set(run.cast.frozen())
        if loop.standings is not None:
            loop.standings.measure(number, history)
            stay |= loop.standings.frozen(number)
        best = _best(run, rows, range(len(rows)))
        rows[-1] = replace(rows[-1], alarms=loop.alarms(rows))
        sound = _best(run, rows, [at for at, row in enumerate(rows) if not row.alarms])
        ranks.shared(partial(write_cards, run.out, number, history[-1], rows[-1].policies))
        steps = ranks.shared(partial(track, logs, run, rows[-1], steps))
        run.progress.note(line(rows, config.iterations, *judge(config), metric_name(config)))
        if report is not None:
            report.iteration(_summary(run, rows, best), partial(_gained, run, evaluation, best))
        goes_on = not rows[-1].alarms or number == config.iterations or loop.acted(number, sound)
        if config.keep is not None:
            ahead = range(len(rows), config.iterations + 1)  # a resumed run has finished some of them
            kept = {best, sound, *loop.magnets(len(rows)), *range(len(rows))[-config.keep :], *ahead}
            ranks.shared(partial(prune, run.out, kept, stay))
        if not goes_on:
            break
    if best:
        measured = evaluation.against_scripts(best, history[: best + 1], rows[best].policies)
        rows[best] = replace(rows[best], policies=measured)
        ranks.shared(partial(write_cards, run.out, best, history[best], measured))
    return replace(_summary(run, rows, best), **_gained(run, evaluation, best))


def _summary(run: Run, rows: Sequence[Row], best: int) -> Summary:
    """The summary after the last of `rows`, without the gain over the start."""
    demonstrators = run.done.get("iter_000/demonstrations/train")
    return Summary(
        experiment=run.config.name,
        seed=run.config.seed,
        **run.cost(),
        best=best,
        policy=judge(run.config)[0],
        metric=metric_name(run.config),
        start=run.config.eval.start_name,
        demonstrators=demonstrators.outputs if demonstrators else {},
        improvement_greedy={},
        gains={},
        iterations=tuple(rows),
    )


def _gained(run: Run, evaluation: Evaluation, best: int) -> dict[str, Any]:
    """The paired gain of the snapshot of iteration `best` over the start."""
    return {
        "improvement_greedy": evaluation.improvement(best, metric_name(run.config)),
        "gains": evaluation.gains(best) if evaluation.against_start else {},
    }


def _best(run: Run, rows: Sequence[Row], among: Iterable[int]) -> int:
    """The best iteration among some; of equals the first."""
    return max(among, key=lambda at: _judged(run, rows[at]))


def _judged(run: Run, row: Row) -> float:
    """The criterion for the best iteration: the metric on the validation split."""
    return float(row.policies[judge(run.config)[0]].validation[metric_name(run.config)]["mean"])


class Loop:
    """The stages that make the snapshots of a run."""

    def __init__(self, run: Run) -> None:
        self.run, self.config, self.parts, self.seed = run, run.config, run.parts, run.seed
        self.start = Start(run)
        self.crediting = Crediting(run, self.start.demonstrations)
        self.scoring, self.rounds = self.crediting.scoring, int(run.config.rounds)
        self.standings = Standings(run, self.parts.league) if self.parts.league is not None else None
        self.lineage = Lineage()

    def iteration(self, number: int, history: History, source: Run | None = None) -> dict[str, Snapshot]:
        """The snapshots after iteration `number`, with rounds played here, or in the run `source`."""
        slower = 0.5 ** sum(each <= number for each in self.lineage.rolled)
        recipes = {name: each.recipe(number).slowed(slower) for name, each in self.parts.policies.items()}
        history = self._begun(number, history)
        inputs = {
            "players": self.run.versions(self._names(number), self._who(number, history)),
            **self._league(number),
            "seed": self.seed,
            "recipes": {name: each.nodes for name, each in recipes.items()},
            "play": None if source else self._play(),
            **{name: self.config[name] for name in ("start", "replay", "rounds")},
            "scorer": plain(self.config.scorer),
        }
        magnet = int(self.config.magnet)
        references = {
            name: self.start.reference(name, recipe.learner, self.lineage.magnet(name, number, magnet), history)
            for name, recipe in recipes.items()
        }
        others = {"old": foreign(self.config.old), **{f"reference/{name}": each for name, each in references.items()}}
        inputs |= {name: each.version for name, each in others.items() if each is not None}
        work = partial(self._learn, number, history, recipes, references, source or self.run)
        outputs = self.run.stage(f"iter_{number:03d}/learn", inputs, work)
        remove_checkpoints(self.run, number)
        return {name: restored(each["snapshot"], self.run.out) for name, each in outputs.items()}

    def _learn(
        self,
        number: int,
        history: History,
        recipes: Mapping[str, Recipe],
        references: Mapping[str, Snapshot | None],
        source: Run,
    ) -> dict[str, dict[str, Any]]:
        """For each round: play, score, then credit and learning of each policy; the last round writes the snapshots."""
        if any(each.credit.mix != 0 for each in recipes.values()):
            self.start.demonstrations.play("train")
        begins = self._begins(number, history)
        parents = {name: self.lineage.parent(name, number) for name in recipes}
        with (
            Learning(self.run, number, begins, recipes, references, parents) as learning,
            ExitStack() as seated,
        ):
            sitting = seated.enter_context(self.seated(history, number))
            for each in self.of(number)[learning.done :]:
                if source is self.run:
                    with learning.kept():
                        self.self_play(each, history, sitting, learning)
                if learning.last:
                    seated.close()  # with one round the backend is freed before any learner loads
                for name, recipe in recipes.items():
                    for earlier in (window := self.window(name, number, each)):
                        self.scoring.score(earlier.stage, source)
                    state = learning.learned[name].state
                    credit = partial(self.crediting, window, name, recipe, history[-1][name], source, state)
                    with part("credit"):
                        credited = ranks.shared(partial(_credited, credit))
                    learning.learn(name, credited)
                learning.next()
        return learning.outputs()

    # --- a round of play ---------------------------------------------------------------------------------------------

    def of(self, number: int) -> list[Round]:
        """The rounds of iteration `number`."""
        stage, before = f"iter_{number:03d}/play", (number - 1) * self.rounds
        if self.rounds == 1:
            return [Round(number, stage)]
        return [Round(before + each, f"{stage}/r{each:03d}") for each in range(1, self.rounds + 1)]

    def seated(self, history: History, number: int = 1) -> AbstractContextManager[Sitting]:
        """The sitting for the rounds of iteration `number`, with policies at their newest snapshots."""
        return self.run.seated(Sampling(**plain(self.config.play.sampling)), self._who(number, history))

    def self_play(
        self, each: Round, history: History, sitting: Sitting, learning: Learning | None = None
    ) -> dict[str, Any]:
        """Plays the matches of a round (rollout batch); returns their figures. First updates the backend to the weights
        learned in this iteration."""
        at = self._iteration(each)
        versions = self.run.versions(self._names(at), self._who(at, history))
        live = {name: session.version for name, session in learning.moved().items()} if learning is not None else {}
        inputs = {"players": {**versions, **live, **self.run.served()}, **self._league(at), **self._play()}
        outputs: dict[str, Any] = self.run.stage(each.stage, inputs, partial(self._played, each, sitting, learning))
        return outputs

    def _played(self, each: Round, sitting: Sitting, learning: Learning | None) -> dict[str, Any]:
        if learning is not None and (moved := learning.moved()):
            with part("handover"):
                for name, session in moved.items():
                    sitting.update(name, session.version, session.weights())
        matches = self.run.sit(sitting, each.stage, self._seatings(each))
        if self.config.play.branches:
            matches = self.run.sit(sitting, each.stage, self._branches(each, matches))
        return ranks.shared(partial(_told, matches, list(self.parts.policies), self._forked(each.stage)))

    def _forked(self, stage: str) -> Callable[[str, str], None]:
        """A callback that reports forks of a policy's token streams in a stage of play."""
        return lambda name, text: self.run.progress.note(f"{stage}: {name}: {text}")

    def _seatings(self, each: Round) -> Seatings:
        """A round's matches: newly drawn scenarios at the tables of `players`; in a league per policy, at the tables of
        its shares."""
        game, group = self.run.game, self.config.play.group
        if (plan := self._plan(self._iteration(each))) is None:
            return in_turn(game, self._drawn(each.number), self.run.cast.round, self.seed, each.stage, group)
        own = {policy: self._drawn(each.number, policy) for policy in plan.shares}
        tables = {policy: plan.tables(self.run.cast, policy, len(drawn)) for policy, drawn in own.items()}
        pairs = [pair for policy in own for pair in zip(own[policy], tables[policy], strict=True)]
        return at_own(game, pairs, self.seed, each.stage, group)

    def _branches(self, each: Round, matches: Matches) -> Seatings:
        """Branches of the round's matches, each from a random turn of a policy: that reply and everything after it are
        resampled."""

        def make() -> Iterator[Seating]:
            for episode in (episode for episode in matches if episode.parent is None):
                own = [at for at, turn in enumerate(episode.turns) if episode.players[turn.seat] in self.parts.policies]
                if own:
                    turns = rng(self.seed, "branch", episode.id).choice(own)
                    k = self.config.play.branches
                    yield from branches(episode, turns, episode.players, self.seed, each.stage, k)

        return Seatings(make)

    def _drawn(self, *names: int | str) -> list[Scenario]:
        """Scenarios of a round."""
        every, drawn = self.run.game.scenarios("train"), rng(self.seed, "scenarios", *names)
        count = int(self.config.play.scenarios)
        return drawn.sample(every, count) if count <= len(every) else drawn.choices(every, k=count)

    def _iteration(self, each: Round) -> int:
        return (each.number - 1) // self.rounds + 1

    def _plan(self, number: int) -> Plan | None:
        """The league's plan of iteration `number`, if there is a league."""
        return None if self.standings is None else self.standings.plan(number - 1)

    def _league(self, number: int) -> dict[str, Any]:
        """The plan as a stage input."""
        return {} if (plan := self._plan(number)) is None else {"league": asdict(plan)}

    def _begun(self, number: int, history: History) -> History:
        """The history, and the snapshots at which the policies begin iteration `number`, exploiters perhaps anew."""
        for name in plan.anew if (plan := self._plan(number)) else ():
            self.lineage.begin(name, number, 0)
        last = len(history) - 1  # `history` may hold a single snapshot of a later iteration
        begins = {name: history[min(self.lineage.parent(name, number), last)][name] for name in history[-1]}
        return [*history, begins]

    def magnets(self, number: int) -> set[int]:
        """The iterations whose snapshots `reference=previous` means in iteration `number`."""
        return {self.lineage.magnet(name, number, int(self.config.magnet)) for name in self.parts.policies}

    def _names(self, number: int) -> list[str]:
        """All players of iteration `number`."""
        return names(self.run.cast.round) if (plan := self._plan(number)) is None else plan.names

    def _who(self, number: int, history: History) -> dict[str, Snapshot]:
        return self.run.cast.snapshots(self._names(number), history)

    def _play(self) -> dict[str, Any]:
        """The inputs of a round of play besides its players."""
        return {"play": plain(self.config.play), "game": self.run.node("game"), "seed": self.seed}

    # --- learning ----------------------------------------------------------------------------------------------------

    def _begins(self, number: int, history: History) -> Snapshots:
        """The snapshot from which each policy's learner starts."""
        if self.config.start != "previous":
            return self.start()
        return {name: self.start.adapted(name, each, number) for name, each in history[-1].items()}

    def window(self, policy: str, number: int, each: Round | None = None) -> list[Round]:
        """The training rounds of a policy at the round `each` of iteration `number` (None: the last one): that round,
        and with `replay` those of the iterations that led to this one."""
        replay = int(self.config.replay)
        earlier = self.lineage.ancestors(policy, number)[1:-1][-replay:] if replay else []
        return [*(before for at in earlier for before in self.of(at)), each or self.of(number)[-1]]

    # --- the row -----------------------------------------------------------------------------------------------------

    def row(self, number: int, measured: Mapping[str, Measured]) -> Row:
        """The row of an evaluated iteration."""
        folder = f"iter_{number:03d}"
        told = {name: replace(each, **self._training(number, name)) for name, each in measured.items()}
        return Row(number, number * self.rounds, told, self.run.seconds(folder))

    def alarms(self, rows: Sequence[Row]) -> tuple[str, ...]:
        """The guards' alarms for each policy after the last of `rows`. Also writes the figures of all rounds so far."""
        iterations = range(1, len(rows))
        known = {
            name: [rounds.rows(self.run, each, self.of(each), name) for each in iterations]
            for name in self.parts.policies
        }
        ranks.shared(
            partial(rounds.write, self.run, [row for every in known.values() for each in every for row in each])
        )
        if (guards := self.parts.guards) is None:
            return ()
        zero_sum, metric, start = self.run.game.facts.zero_sum, metric_name(self.config), self.config.eval.start_name
        found = []
        for name, each in known.items():
            line = self.lineage.ancestors(name, len(rows) - 1)
            scores = [rows[at].policies[name].versus.get(start, {}).get(metric) for at in line]
            found += [f"{name}: {text}" for text in guards.alarms(each, scores, zero_sum)]
        for text in found:
            self.run.progress.note(f"guard ({guards.action}), iteration {len(rows) - 1}: {text}")
        return tuple(found)

    def acted(self, number: int, sound: int) -> bool:
        """Applies the guards' action after alarms in iteration `number`; returns whether the run continues. `sound` is
        the best iteration without an alarm."""
        action = self.parts.guards.action if self.parts.guards else "warn"
        if action == "rollback":
            self.lineage.rolled.append(number + 1)
            for name in self.parts.policies:
                self.lineage.begin(name, number + 1, sound)
            self.run.progress.note(f"iteration {number + 1} begins where {sound} ended, at half the learning rate")
        return action != "stop"

    def _training(self, number: int, policy: str) -> dict[str, Any]:
        """Training figures of a policy's snapshot."""
        if not number:
            imitated = self.run.recall("iter_000/start")
            return {"learn": imitated["learn"]} if imitated else {}
        learned = self.run.outputs(f"iter_{number:03d}/learn")[policy]
        played_in = self.of(number)
        told = [self.run.told(each.stage) for each in played_in]
        words = [_without(each["policies"][policy], "figures") for each in told]
        played = {"matches": sum(each["matches"] for each in told), **pooled(words, "replies")}
        scores = self.run.recall(f"{played_in[-1].stage}/score") or {}
        return {"learn": learned["learn"], "play": played | learned["credit"], "scores": scores.get(policy, {})}


def _without(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != name}


def _credited(credit: Callable[[], Given]) -> Given | NothingKept:
    try:
        return credit()
    except NothingKept as error:
        return error


def _told(matches: Matches, policies: Sequence[str], forked: Callable[[str, str], None]) -> dict[str, Any]:
    """Counts and figures of a round, overall and by policy, and each policy's language figures."""
    said = {name: (Language([name]), Forks([name]), Tally([name])) for name in policies}
    everybody = Tally()
    payoffs: dict[str, array[float]] = defaultdict(lambda: array("d"))
    for episode in matches:
        if episode.parent is None:
            everybody.add(episode)
            for seat, payoff in episode.result.returns.items():
                payoffs[seat].append(payoff)
        for each in (counter for counters in said.values() for counter in counters):
            each.add(episode)
    for name, (_, forks, _) in said.items():
        if text := forks.text():
            forked(name, text)
    policy = {
        name: {**words.figures(), **forks.figures(), "figures": to_json(tally.figures())}
        for name, (words, forks, tally) in said.items()
    }
    paid = {seat: mean(values) for seat, values in payoffs.items()}
    return {"matches": len(matches), "figures": to_json(everybody.figures()), "returns": paid, "policies": policy}
