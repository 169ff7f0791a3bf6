"""Learning inside an iteration: a session for each policy, and the checkpoint from which a killed iteration goes on.

    iter_N/learn/<policy>/              what the policy's learner writes: its snapshot, and what its session needs
    iter_N/learn/position/<round>/      the checkpoint: a folder for each policy, index.json (written last)

Between two checkpoints learning is repeated from the stored matches.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..credit import NothingKept
from ..learners.base import Learner, Lessons, Report, Session
from ..models.snapshot import Snapshot
from ..system import ranks
from ..system.files import write_json
from ..system.seeds import derive
from .directory import stored
from .parts import Recipe
from .run import Run
from .start import step

POSITION, INDEX = "position", "index.json"
COUNTS = (
    "matches", "replies", "logs", "kept", "utterances", "dead_rounds", "steps", "samples", "tokens", "reference_seconds"
)  # fmt: skip


@dataclass(slots=True)
class Learned:
    """What became of one policy in an iteration so far."""

    learn: list[dict[str, Any]] = field(default_factory=list)  # the learner's figures, by round
    credit: list[dict[str, int]] = field(default_factory=list)  # what credit kept, by round
    snapshot: dict[str, Any] | None = None  # once the session is closed


class Learning:
    """The sessions of all policies in iteration `number`, in which they begin at the snapshots `begins`."""

    def __init__(self, run: Run, number: int, begins: Mapping[str, Snapshot], recipes: Mapping[str, Recipe]) -> None:
        self.run, self.begins, self.recipes, self.rounds = run, begins, recipes, int(run.config.rounds)
        self.version = f"iter_{number:03d}"
        self.name = f"{self.version}/learn"
        self.folder = run.out / self.name
        self.sessions: dict[str, Session] = {}
        self.learned = {policy: Learned() for policy in begins}
        self.done, self._saved = 0, time.monotonic()  # rounds of this iteration; when the last checkpoint was written
        self._resume()

    @property
    def last(self) -> bool:
        """Whether the next round is the iteration's last."""
        return self.done + 1 == self.rounds

    def versions(self) -> dict[str, str]:
        """The versions that play the next round, of the policies that have learned something."""
        return {name: f"{self.begins[name].version}+r{self.done}" for name in self.sessions}

    def learn(self, policy: str, credited: tuple[Lessons, dict[str, int]] | NothingKept) -> None:
        """Learns from what credit gave of the next round. The last round of the iteration ends the session.

        NothingKept where credit kept nothing of any round.
        """
        learned = self.learned[policy]
        if not isinstance(credited, NothingKept):
            samples, kept = credited
            learned.credit.append({**kept, "dead_rounds": 0})
            learned.learn.append(self._step(policy, samples))
        elif self.last and not learned.learn:
            raise credited
        else:
            learned.credit.append({"dead_rounds": 1})
        if self.last:
            learned.snapshot = stored(self.sessions.pop(policy).close(), self.run.out)

    def outputs(self) -> dict[str, dict[str, Any]]:
        """Of each policy its snapshot, the learner's figures and what credit kept, over all rounds."""
        return {
            name: {
                "snapshot": each.snapshot,
                "learn": pooled(each.learn, "steps"),
                "credit": pooled(each.credit, "utterances"),
            }
            for name, each in self.learned.items()
        }

    def _step(self, policy: str, samples: Lessons) -> dict[str, Any]:
        if policy not in self.sessions:
            self.sessions[policy] = self._opened(policy)
        with self.run.progress.stage(f"{self.name}/{policy}", None, "steps") as bar:
            metrics = self.sessions[policy].step(samples, self.done + 1, partial(step, bar))
        return {key: value for key, value in metrics.items() if key != "curve"}

    def _opened(self, policy: str) -> Session:
        learner: Any = self.recipes[policy].learner
        begin, folder, seed = self.begins[policy], self.folder / policy, derive(self.run.seed, "learn", self.name)
        if self.rounds == 1:
            return OneCall(learner, begin, folder, seed, self.version)
        session: Session = learner.session(begin, folder, seed=seed, name=self.version, rounds=self.rounds)
        return session

    # --- the checkpoint ----------------------------------------------------------------------------------------------

    def next(self) -> None:
        """Counts a round, and writes a checkpoint where it is time for one and the iteration is not at its end."""
        self.done += 1
        if self.done < self.rounds and ranks.shared(self._due):
            self.save()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around play: a process that is asked to stop in it saves what was learned before."""
        try:
            yield
        except SystemExit:
            if self.sessions:
                self.save()
            raise

    def save(self) -> None:
        """Writes the checkpoint of the rounds so far, and removes the one before."""
        mine = self.folder / POSITION / str(self.done)
        for name, session in self.sessions.items():
            session.save(mine / name)
        ranks.shared(partial(self._index, mine))
        self._saved = time.monotonic()

    def _due(self) -> bool:
        every = min(float(getattr(each.learner, "checkpoint_s", 0.0)) for each in self.recipes.values())
        return time.monotonic() - self._saved >= every

    def _index(self, mine: Path) -> None:
        told = {name: {"learn": each.learn, "credit": each.credit} for name, each in self.learned.items()}
        write_json(mine / INDEX, {"round": self.done, "policies": told, "sessions": list(self.sessions)})
        for other in mine.parent.iterdir():
            if other != mine:
                shutil.rmtree(other)

    def _resume(self) -> None:
        """Goes on from the newest checkpoint, where there is one."""
        if (index := ranks.shared(self._newest)) is None:
            return
        self.done = index["round"]
        for name, each in index["policies"].items():
            self.learned[name] = Learned(each["learn"], each["credit"])
        for name in index["sessions"]:
            self.sessions[name] = self._opened(name)
            self.sessions[name].load(self.folder / POSITION / str(self.done) / name)

    def _newest(self) -> Any:
        whole = sorted((self.folder / POSITION).glob(f"*/{INDEX}"), key=lambda path: int(path.parent.name))
        return json.loads(whole[-1].read_text()) if whole else None


class OneCall:
    """A session of one round: one call of a learner, which saves and resumes by itself."""

    def __init__(self, learner: Learner, snapshot: Snapshot, folder: Path, seed: int, name: str) -> None:
        self.learner, self.snapshot, self.folder, self.seed, self.name = learner, snapshot, folder, seed, name

    def step(self, samples: Lessons, round: int, progress: Report | None = None) -> dict[str, Any]:
        """The learner's figures."""
        self.snapshot, metrics = self.learner.learn(
            samples, self.snapshot, self.folder, seed=self.seed, name=self.name, progress=progress
        )
        return metrics

    def weights(self) -> Iterable[tuple[str, Any]]:
        """Nothing: no round follows."""
        return ()

    def save(self, folder: Path) -> None:
        """Nothing, for the same reason."""

    def load(self, folder: Path) -> None:
        """Nothing, for the same reason."""

    def close(self) -> Snapshot:
        """The snapshot that the learner made."""
        return self.snapshot


def pooled(rounds: Sequence[Mapping[str, float]], weight: str) -> dict[str, float]:
    """The figures of several rounds as one: counts are added, speeds follow from the time that they stand for, and all
    others are means weighted by the count `weight`. A single round's are as they are."""
    if len(rounds) == 1:
        return dict(rounds[0])
    names = dict.fromkeys(name for each in rounds for name in each)
    return {name: _pooled(name, [each for each in rounds if name in each], weight) for name in names}


def _pooled(name: str, rounds: Sequence[Mapping[str, float]], weight: str) -> float:
    values = [each[name] for each in rounds]
    if name in COUNTS:
        return sum(values)
    if name == "tokens_per_second":
        return sum(each["tokens"] for each in rounds) / sum(each["tokens"] / each[name] for each in rounds)
    weights = [each.get(weight, 0.0) for each in rounds]
    return sum(w * value for w, value in zip(weights, values, strict=True)) / (sum(weights) or 1.0)
