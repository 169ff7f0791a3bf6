"""Learning within an iteration: a session for each policy, and one checkpoint for all of them.

    iter_N/learn/<policy>/    the learner's files, finally its snapshot
    iter_N/learn/position/    the newest checkpoint (see `parley.learners.checkpoint`); its position is the round

An iteration of one round is one call of each learner, which saves and resumes by itself, unless a learner carries its
optimiser over. Training after the checkpoint is repeated from the stored matches.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ..credit import NothingKept
from ..learners.curve import pooled
from ..models.snapshot import Snapshot
from ..system import preempt, ranks
from ..system.files import digest
from ..system.seeds import derive
from .contents import stored
from .lessons import Given
from .parts import Recipe
from .run import Run
from .start import step

if TYPE_CHECKING:
    from ..learners.session import Session, Span

POSITION = "position"


@dataclass(slots=True)
class Learned:
    """The results of one policy in an iteration so far."""

    learn: list[dict[str, Any]] = field(default_factory=list)  # the learner's figures, by round
    credit: list[dict[str, int]] = field(default_factory=list)  # counts of kept logs, by round
    state: Any = None  # credit's state before the current round
    snapshot: dict[str, Any] | None = None  # set when the session is closed


class Learning:
    """The learning of all policies in iteration `number`, from the snapshots `begins`, which the iterations `parents`
    made; a context manager."""

    def __init__(
        self,
        run: Run,
        number: int,
        begins: Mapping[str, Snapshot],
        recipes: Mapping[str, Recipe],
        references: Mapping[str, Snapshot | None],
        parents: Mapping[str, int],
    ) -> None:
        self.references = references
        self.run, self.begins, self.recipes, self.rounds = run, begins, recipes, int(run.config.rounds)
        self.version = f"iter_{number:03d}"
        self.name = f"{self.version}/learn"
        self.folder, self.seed = run.out / self.name, derive(run.seed, "learn", self.name)
        self.learned = {policy: Learned(state=_state(run, policy, parents[policy])) for policy in begins}
        self.number, self.parents, self.done = number, parents, 0  # parents: where each began; done: rounds so far
        self.lasting = self.rounds > 1 or any(_carries(each) for each in recipes.values())  # in sessions
        self.sessions: dict[str, Session] = {}
        self._open = ExitStack()

    def __enter__(self) -> Learning:
        if self.lasting:
            self._resume()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def last(self) -> bool:
        """Whether the current round is the iteration's last."""
        return self.done + 1 == self.rounds

    def moved(self) -> dict[str, Session]:
        """The sessions with at least one step, by policy."""
        return {name: session for name, session in self.sessions.items() if session.past}

    def learn(self, policy: str, credited: Given | NothingKept) -> None:
        """Trains on credit's result for the current round. The last round of the iteration writes the snapshot.

        NothingKept if credit kept nothing in any round.
        """
        learned = self.learned[policy]
        if not isinstance(credited, NothingKept):
            learned.credit.append({**credited.kept, "dead_rounds": 0})
            learned.learn.append(self._step(policy, credited.lessons))
            learned.state = credited.state
        elif self.last and not learned.learn:
            raise credited
        else:
            learned.credit.append({"dead_rounds": 1})
        if self.last and self.lasting:
            learned.snapshot = stored(self.sessions[policy].close(), self.run.out)

    def next(self) -> None:
        """Advances to the next round."""
        self.done += 1
        self._note()

    def outputs(self) -> dict[str, dict[str, Any]]:
        """For each policy its snapshot, the learner's figures and credit's counts, over all rounds."""
        return {
            name: {
                "snapshot": each.snapshot,
                "learn": pooled(each.learn, "steps"),
                "credit": pooled(each.credit, "utterances"),
                "state": each.state,
                "rounds": _by_round(each),
            }
            for name, each in self.learned.items()
        }

    def _step(self, policy: str, samples: Any) -> dict[str, Any]:
        learner, folder = self.recipes[policy].learner, self.folder / policy
        with self.run.progress.stage(f"{self.name}/{policy}", None, "steps") as bar:
            if self.lasting:
                metrics = self.sessions[policy].step(samples, self.done, partial(step, bar))
            else:
                made, metrics = learner.learn(
                    samples, self.begins[policy], folder, seed=self.seed, name=self.version,
                    reference=self.references[policy], progress=partial(step, bar),
                )  # fmt: skip
                self.learned[policy].snapshot = stored(made, self.run.out)
        return {key: value for key, value in metrics.items() if key != "curve"}

    # --- the checkpoint ----------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Opens the sessions, and restores the newest checkpoint if there is one."""
        from ..learners.checkpoint import Saving

        nodes = {name: each.nodes for name, each in self.recipes.items()}
        fixed = {name: each.version for name, each in self.references.items() if each is not None}
        inputs = digest([{name: each.version for name, each in self.begins.items()}, self.seed, nodes, fixed])
        every: list[Any] = [each.learner for each in self.recipes.values()]
        saving = Saving(self.folder / POSITION, inputs, min(each.checkpoint_s for each in every))
        self.saving = self._open.enter_context(saving)
        for name, recipe in self.recipes.items():
            learner: Any = recipe.learner
            self.sessions[name] = learner.session(
                self.begins[name], self.folder / name, seed=self.seed, name=self.version, saving=saving,
                rounds=self.rounds, policy=name, reference=self.references[name], span=self._span(name, recipe),
            )  # fmt: skip
        if saving.position is not None:
            self.done = saving.position["round"]
            for name, each in saving.position["learned"].items():
                self.learned[name] = Learned(each["learn"], each["credit"], each["state"])
        self._note()

    def _span(self, policy: str, recipe: Recipe) -> Span | None:
        """The place of a policy's session in the run, if its optimiser is carried over."""
        from ..learners.session import CARRIED, Span

        if not _carries(recipe):
            return None
        parent, iterations = self.parents[policy], int(self.run.config.iterations)
        before = self.run.out / f"iter_{parent:03d}/learn" / policy / CARRIED
        goes_on = 0 < parent == self.number - 1  # from an earlier snapshot it has a new optimiser
        return Span((self.number - 1) * self.rounds, iterations * self.rounds, before if goes_on else None)

    def _note(self) -> None:
        """Sets the position of later checkpoints to the state at the start of the current round."""
        if self.lasting:
            learned = {
                name: {"learn": [*each.learn], "credit": [*each.credit], "state": each.state}
                for name, each in self.learned.items()
            }
            self.saving.position = {"round": self.done, "learned": learned}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Wraps play: on a stop signal the process saves the learned state."""
        if not self.moved():
            yield
            return
        try:
            self.saving.stop.holding = False
            if self.saving.stop.asked:
                sys.exit(preempt.CODE)
            yield
        except SystemExit:
            self.saving.save()
            raise


def remove_checkpoints(run: Run, number: int) -> None:
    """Removes the checkpoints of a finished iteration, and the carried optimisers that it used."""
    if ranks.rank() == 0:
        shutil.rmtree(run.out / f"iter_{number:03d}/learn" / POSITION, ignore_errors=True)
        for before in (run.out / f"iter_{number - 1:03d}/learn").glob("*/carried"):
            shutil.rmtree(before, ignore_errors=True)


def _by_round(learned: Learned) -> list[dict[str, float]]:
    """Credit's counts of each round, with the learner's figures of rounds with training."""
    learns = iter(learned.learn)
    return [{**credit, **({} if credit["dead_rounds"] else next(learns))} for credit in learned.credit]


def _state(run: Run, policy: str, number: int) -> Any:
    """Credit's state at the end of iteration `number`; None after the start."""
    learned = run.recall(f"iter_{number:03d}/learn") or {}
    return learned.get(policy, {}).get("state")


def _carries(recipe: Recipe) -> bool:
    return bool(getattr(recipe.learner, "carry", False))
