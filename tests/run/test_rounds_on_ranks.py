"""Several rounds in an iteration on two processes (gloo), of one policy and of two: as on one, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from parley.data.store import Matches
from parley.games.base import Message
from parley.learners.session import Session
from parley.models.load import load_policy
from parley.models.snapshot import Snapshot
from parley.models.tiny import Tiny
from parley.play.seats import Sitting
from parley.run.build import running
from parley.run.loop import Loop
from parley.system import ranks
from processes import together

ROUNDS = 3
WORDS = [
    "game=taboo_tiny", "model=hf", "imitate.matches=0", "imitate.players=[]", "iterations=1", f"rounds={ROUNDS}",
    "play.scenarios=4", "play.group=2", "play.sampling.max_tokens=6", "objective.credit.keep=all", "seed=4",
    "learner.checkpoint_s=0", "learner.batch_utterances=16", "learner.epochs=2", "learner.optimizer.lr=1e-3",
    "metric=sampled.attacker_win_rate", "eval.opponents=[]",
]  # fmt: skip
CASES = {
    "one": [],
    "two": [
        "+policies.alice={}", "+policies.bob={}", "+players.attacker=alice", "+players.defender=bob", "adapter=lora",
        "metric=alice.sampled.attacker_win_rate",
    ],
}  # fmt: skip


def work(folder: Path, place: str, dies: str = "", names: tuple[str, ...] = tuple(CASES)) -> None:
    """The rounds of one iteration of each case, in `folder/place/<case>`; what is there is gone on from."""
    if ranks.rank() == 1 and dies:
        arm(dies)
    for name in names:
        run = folder / place / name
        words = [
            *WORDS,
            *CASES[name],
            f"model.path={folder}/model",
            f"hardware={'cpu_x2' if ranks.world() > 1 else 'cpu'}",
        ]
        with initialize_config_module("parley.conf", version_base="1.3"):
            config = compose("config", [*words, *([f"resume={run}"] if run.exists() else [])])
        ranks.barrier()
        with running(config, run) as at_work:
            loop = Loop(at_work)
            made = loop.iteration(1, [loop.start()])
        found = {policy: [each.version, each.path, each.base] for policy, each in made.items()}
        (folder / f"{place}.{name}.{ranks.rank()}.json").write_text(json.dumps(found))


def arm(moment: str) -> None:
    """Kills this process in the second round: in its play, or in the learning of its last policy."""
    if moment == "play":
        play = Sitting.play

        def played(self: Sitting, folder: Path, *rest: Any) -> None:
            if folder.name == "r002":
                os.kill(os.getpid(), signal.SIGKILL)
            play(self, folder, *rest)

        Sitting.play = played  # type: ignore[method-assign]
        return
    step = Session._step

    def dying(self: Session, steps: Any, number: int, progress: Any) -> Any:
        if self.round == 1 and self.policy == "bob":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, steps, number, progress)

    Session._step = dying  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case on one process and on two, and cut off on two and gone on from."""
    folder = tmp_path_factory.mktemp("runs")
    chat = [Message("user", " ".join(f"word{number}" for number in range(60)))]
    Tiny(width=32, heads=2, layers=2, mlp=64).create(folder / "model", [chat], seed=1)
    assert together(1, work, folder, "single") == [0]
    assert together(2, work, folder, "both") == [0, 0]
    for name, moment in (("one", "play"), ("two", "learning")):
        left = together(2, work, folder, "cut", moment, (name,))
        assert left[1] == -signal.SIGKILL and left[0] != 0
        assert not (folder / f"cut/{name}/iter_001/learn/stage.json").exists()
        stages = sorted(path.parent.name for path in (folder / f"cut/{name}/iter_001/play").glob("*/stage.json"))
        assert stages == (["r001"] if moment == "play" else ["r001", "r002"])
    assert together(2, work, folder, "cut") == [0, 0]
    return folder


def said(run: Path, number: int) -> dict[str, list[tuple[int, ...]]]:
    """The token ids of every reply of a round, by match."""
    found = {each.id: [turn.call.sampled_ids for turn in each.turns if turn.call] for each in played(run, number)}
    assert len(found) == 8 and all(found.values())
    return found


def played(run: Path, number: int) -> Matches:
    return Matches(run / f"iter_001/play/r{number:03d}")


def snapshots(folder: Path, place: str, name: str, rank: int = 0) -> dict[str, Snapshot]:
    read = json.loads((folder / f"{place}.{name}.{rank}.json").read_text())
    return {policy: Snapshot(*each) for policy, each in read.items()}


def vector(snapshot: Snapshot) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in load_policy(snapshot).state_dict().values()])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(runs: Path, name: str) -> None:
    for number in range(1, ROUNDS + 1):
        assert said(runs / "both" / name, number) == said(runs / "single" / name, number)
    one, two = (snapshots(runs, place, name) for place in ("single", "both"))
    assert two == snapshots(runs, "both", name, 1)
    for policy, snapshot in one.items():
        assert (vector(snapshot) - vector(two[policy])).abs().max() < 1e-5
    start = f"{runs}/single/{name}/iter_000/adapter/alice/snapshot" if name == "two" else f"{runs}/model"
    first = next(iter(one.values()))
    assert (vector(first) - vector(Snapshot("", start, first.base))).abs().max() > 1e-3
    for number in range(1, ROUNDS + 1):
        versions = {
            part: count for each in played(runs / "both" / name, number) for part, count in each.policies.items()
        }
        assert all(each.endswith(f"r{number - 1}") == (number > 1) for each in versions.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_rank_killed_inside_an_iteration_both_go_on_exactly(runs: Path, name: str) -> None:
    for number in range(1, ROUNDS + 1):
        assert said(runs / "cut" / name, number) == said(runs / "both" / name, number)
    whole, again = (snapshots(runs, place, name) for place in ("both", "cut"))
    assert {policy: each.version for policy, each in again.items()} == {
        policy: each.version for policy, each in whole.items()
    }
    assert not (runs / "cut" / name / "iter_001/learn/position").exists()
