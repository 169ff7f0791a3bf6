"""Applies credit (advantage estimation): turns played rounds into a policy's training samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..credit import Credit, Verdict
from ..data.replay import replay
from ..data.sample import Demonstration, chosen
from ..data.sources.base import Imported, Recorded, Rewarded
from ..data.store import Matches
from ..games.base import Game, Message
from ..learners.base import Lessons
from ..models.demonstrated import Demonstrated
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..system.files import InputError
from ..system.seeds import rng
from .demonstrations import Demonstrations, rendered
from .parts import Recipe
from .run import Run
from .scoring import Scoring


@dataclass(frozen=True, slots=True)
class Round:
    """A round of self-play (rollout batch): its number over the whole run, from 1, and the stage of its matches."""

    number: int
    stage: str


@dataclass(frozen=True, slots=True)
class Given:
    """A learner's input: its lessons, credit's counts of the last round, and credit's state after it."""

    lessons: Lessons
    kept: dict[str, int]
    state: Any = None


class Crediting:
    """Turns rounds of play into lessons. It reads files, so run it on rank 0."""

    def __init__(self, run: Run, demonstrations: Demonstrations) -> None:
        self.run, self.demonstrations, self.scoring = run, demonstrations, Scoring(run)

    def __call__(
        self, rounds: Sequence[Round], policy: str, recipe: Recipe, snapshot: Snapshot, source: Run, state: Any = None
    ) -> Given:
        """The lessons of `policy` from `rounds`, played in the run `source`. `state` is credit's state before the last
        round. NothingKept if no log is left to train on."""
        *earlier, last = rounds
        before = [self._credited(each, policy, recipe, snapshot, source, None).lessons for each in earlier]
        given = self._credited(last, policy, recipe, snapshot, source, state)
        lessons: list[Any] = [each for lessons in (*before, given.lessons) for each in lessons]
        return Given(lessons, given.kept, given.state)

    def _credited(self, each: Round, policy: str, recipe: Recipe, snapshot: Snapshot, source: Run, state: Any) -> Given:
        matches, mixed = self.scoring.matches(each.stage, source), self.mixed(each, recipe.credit)
        lessons: Lessons
        if recipe.learner.reads == "chats":
            given = recipe.credit(matches, policy, state=state)
            lessons = [*chats(self.run.game, matches, given.table), *mixed]
            replies = sum(len(verdict.good) for verdict in given.table)
        else:
            given = recipe.credit(matches, policy, rendered(mixed, snapshot), state)
            lessons = given.on_policy()
            replies = sum(len(sample.utterances) for sample in given.samples)
        kept = {"logs": len(given.table), "kept": given.kept, "utterances": replies}
        return Given(lessons, kept, given.state)

    def mixed(self, each: Round, credit: Credit) -> list[Demonstration]:
        """The demonstrations to mix into a round, redrawn for each."""
        if (wanted := credit.mix) == 0:
            return []
        begins = self.run.config.imitate.mixed
        demos = [demo for demo in self.demonstrations("train") if demo.id.startswith(begins)]
        if begins and not demos:
            raise InputError(f"imitate.mixed={begins}: no demonstration has an id that begins so")
        if wanted is not None and wanted < len(demos):
            demos = rng(self.run.seed, "mix", each.number).sample(demos, wanted)
        return demos


def chats(game: Game, matches: Matches, table: Iterable[Verdict]) -> list[Demonstration]:
    """The logs that credit kept, as whole chats with weight 1 on the replies worth imitating and 0 on the rest."""
    kept = (verdict for verdict in table if verdict.good)
    return [_chosen(each, replay(game, matches[each.match]).views[each.seat]) for each in kept]


def _chosen(verdict: Verdict, view: Sequence[Message]) -> Demonstration:
    return chosen(f"{verdict.match}/{verdict.seat}", view, set(verdict.good))


def imported(game: Game, source: Any, policy: str, recipe: Recipe, begin: Snapshot) -> tuple[Lessons, dict[str, int]]:
    """(lessons, credit's counts) from a data source: foreign matches go through credit, samples with rewards or pairs
    do not. InputError for a source with neither."""
    if isinstance(source, Recorded | Imported) and recipe.credit.mix is not None:
        demos, kept = _elsewhere(game, source, policy, recipe.credit)
        return demos if recipe.learner.reads == "chats" else rendered(demos, begin), kept
    if isinstance(source, Rewarded) and recipe.learner.reads != "chats":
        return source.samples(Demonstrated(Renderer.load(begin.base or begin.path)).sample), {}
    raise InputError(
        "this data option has nothing to learn from: choose one with rewards, pairs or logs, as data=spag, "
        "data=conversations with data.path=… or data=matches with data.runs=[…]"
    )


def _elsewhere(
    game: Game, source: Recorded | Imported, policy: str, credit: Credit
) -> tuple[list[Demonstration], dict[str, int]]:
    """The chats that credit keeps of foreign matches, and its counts."""
    if isinstance(source, Recorded):
        matches = source.recorded(game, policy)
        table = credit(matches, policy).table
        demos = chats(game, matches, table)
    else:
        found = list(source.matches(policy))
        views = {(episode.id, seat): view for episode, each in found for seat, view in each.items()}
        table = credit([episode for episode, _ in found], policy).table
        demos = [_chosen(each, views[each.match, each.seat]) for each in table if each.good]
    return demos, {"logs": len(table), "kept": sum(each.kept for each in table)}
