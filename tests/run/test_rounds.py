"""Several rounds in an iteration, and several policies: on a small Deal, in one process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.main import completed
from parley.cli.tasks import training
from parley.cli.tasks.planning import plan
from parley.credit import Credited, FilteredBC
from parley.data.episode import Episode
from parley.data.replay import replay
from parley.data.sample import Sample
from parley.data.store import Matches
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.directory import all_snapshots, rounds_of
from parley.run.learning import Learning
from parley.run.loop import Loop
from parley.run.run import Run

SMALL = [
    "iterations=1", "play.scenarios=6", "play.group=1", "eval.scenarios=3", "eval.greedy=3", "eval.validation=3",
    "objective.credit.keep=all",
    "eval.transcripts=1", "eval.opponents=[previous]", "seed=3",
    "learner.epochs=1", "learner.checkpoint_s=0",
]  # fmt: skip
TIMES = {"seconds", "cpu_seconds", "tokens_per_second", "reference_seconds"}


THREE = ["rounds=3", "objective.credit._target_=test_rounds.Remembering"]
IMITATED = ["imitate.matches=400", "imitate.validation=0", "imitate.learner.epochs=2"]


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        kept = [each for each in SMALL if "objective=rae" not in words or not each.startswith("objective.credit.keep")]
        return compose("config", [*kept, *words])


def of_run(run: Path, *words: str) -> Any:
    """A plan of `run`, composed from it."""
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", completed(["task=plan", f"run={run}", *words]))


def ran(run: Path, *words: str) -> dict[str, Any]:
    training.selfplay(config(*words), run)
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def figures(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: figures(each) for key, each in value.items() if key not in TIMES}
    return [figures(each) for each in value] if isinstance(value, list) else value


class Killed(BaseException):
    """Ends a run as a kill does: nothing of ours catches it."""


@pytest.fixture(scope="module", autouse=True)
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All runs begin at one model, which has imitated a little."""
    run = tmp_path_factory.mktemp("start") / "run"
    training.imitate(config(*IMITATED), run)
    added = ["model=hf", f"model.path={run}/iter_000/start/snapshot", "imitate.matches=0", "imitate.validation=0"]
    SMALL.extend(added)
    yield
    del SMALL[-len(added) :]


@pytest.fixture(scope="module")
def three(start: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("rounds") / "whole"
    return run, ran(run, *THREE)


def test_each_round_is_played_with_the_weights_of_the_one_before(three: tuple[Path, dict[str, Any]]) -> None:
    run, summary = three
    assert rounds_of(run) == [f"iter_001/play/r00{number}" for number in (1, 2, 3)]
    start = all_snapshots(run)[0]["learner"].version
    played = [{each.policies["first"] for each in Matches(run / stage)} for stage in rounds_of(run)]
    assert played == [{start}, {f"{start}+r1"}, {f"{start}+r2"}]
    scenarios = [[each.scenario.id for each in Matches(run / stage)] for stage in rounds_of(run)]
    assert scenarios[0] != scenarios[1] != scenarios[2]
    row = summary["iterations"][1]
    learned = row["policies"]["learner"]
    assert {"play", "play/handover", "learn", "learn/credit"} <= row["seconds"].keys()
    assert row["round"] == 3 and learned["play"]["matches"] == 18 and learned["play"]["dead_rounds"] == 0
    assert learned["play"]["logs"] == 36 and learned["learn"]["steps"] >= 3
    assert not (run / "iter_001/learn/position").exists()


def test_the_sampler_and_the_trainer_agree_in_every_round(three: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """old=recorded holds each round's recorded log-probs against those of the live policy, and refuses others."""
    run, _ = three
    for stage in rounds_of(run):
        for episode in Matches(run / stage):
            replay(build(config(), tmp_path).game, episode)
    summary = ran(tmp_path / "run", "rounds=2", "objective=offline_po", "old=recorded")
    assert summary["iterations"][1]["policies"]["learner"]["learn"]["reference_seconds"] >= 0


def test_a_plan_counts_the_newest_round(
    three: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, summary = three
    words = ["rounds=4", "old=recorded", "objective=offline_po", "objective.credit.keep=all"]
    plan(of_run(run, *words), tmp_path, str(run), False)
    said = " ".join(capsys.readouterr().out.split())
    logs = summary["iterations"][1]["policies"]["learner"]["play"]["logs"] // 3
    assert f"Data of a round: {logs} samples" in said and "(round 3 of" in said and "an iteration has 4" in said


@pytest.mark.parametrize("moment", ["play of round 2", "learning of round 2"])
def test_killed_inside_an_iteration_it_ends_the_same(
    three: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    whole, summary = three
    run = tmp_path / "run"
    shutil.copytree(whole / "iter_000", run / "iter_000")
    with monkeypatch.context() as patch:
        patch.setattr(*killing(moment))
        with pytest.raises(Killed):
            training.selfplay(config(*THREE, f"resume={run}"), claimed(run, whole))
    assert rounds_of(run) == [f"iter_001/play/r00{number}" for number in ((1,) if "play" in moment else (1, 2))]
    assert figures(ran(run, *THREE, f"resume={run}")) == figures(summary)
    for each in (run, whole):
        assert known(each) == {stage: score(each, stage) for stage in rounds_of(whole)}
    assert all_snapshots(run)[1]["learner"].version == all_snapshots(whole)[1]["learner"].version


class Remembering(FilteredBC):
    """Filtered cloning that remembers the score of every round that it was given."""

    def __call__(
        self, episodes: Collection[Episode], player: str, demonstrations: Sequence[Sample] = (), state: Any = None
    ) -> Credited:
        stage = next(iter(episodes)).id.partition("/deal:")[0]
        known = state or {}
        assert stage not in known  # a round that is learned again is given what was known before it
        given = super().__call__(episodes, player, demonstrations, state)
        return replace(given, state={**known, stage: total(episodes)})


RAE = ["rounds=3", "objective=rae", "play.sampling.temperature=1.0", "objective.credit.token_cost=0.01"]


def test_running_means_by_role_go_on_over_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RAE's baseline after three rounds is that of all their matches in turn, killed in between or not."""
    summary = ran(whole := tmp_path / "whole", *RAE)
    expected = {"first": 0.0, "second": 0.0}
    for stage in rounds_of(whole):
        for episode in Matches(whole / stage):
            for seat, payoff in episode.result.returns.items():
                tokens = sum(len(turn.call.sampled_ids) for turn in episode.turns if turn.call and turn.seat == seat)
                if tokens:  # a seat that never came to speak has no return
                    expected[seat] = 0.95 * expected[seat] + 0.05 * (payoff - 0.01 * tokens)
    assert known(whole) == pytest.approx(expected) and all(expected.values())
    run = tmp_path / "run"
    shutil.copytree(whole / "iter_000", run / "iter_000")
    with monkeypatch.context() as patch:
        patch.setattr(*killing("learning of round 2"))
        with pytest.raises(Killed):
            training.selfplay(config(*RAE, f"resume={run}"), claimed(run, whole))
    assert figures(ran(run, *RAE, f"resume={run}")) == figures(summary)
    assert known(run) == known(whole)


def total(episodes: Iterable[Episode]) -> float:
    return sum(sum(episode.result.returns.values()) for episode in episodes)


def score(run: Path, stage: str) -> float:
    return total(Matches(run / stage))


def known(run: Path) -> Any:
    """What the credit knew after the iteration."""
    return json.loads((run / "iter_001/learn/stage.json").read_text())["outputs"]["learner"]["state"]


def claimed(run: Path, whole: Path) -> Path:
    """`run` as begun by the config of `whole`."""
    shutil.copy(whole / "config.yaml", run)
    return run


def killing(moment: str) -> tuple[str, Callable[..., Any]]:
    """What to put in the place of what, so that the run dies at the moment."""
    if "play" in moment:
        append = Run.sit

        def sit(self: Run, sitting: Any, name: str, seatings: Any) -> Any:
            return append(self, sitting, name, cut(seatings, 3) if name.endswith("r002") else seatings)

        return "parley.run.run.Run.sit", sit
    from parley.learners.session import Session

    step = Session._step

    def dying(self: Any, steps: Any, number: int, progress: Any) -> Any:
        if self.round == 1:
            raise Killed
        return step(self, steps, number, progress)

    return "parley.learners.session.Session._step", dying


def cut(seatings: Any, count: int) -> Iterator[Any]:
    for at, seating in enumerate(seatings):
        if at == count:
            raise Killed
        yield seating


def test_several_rounds_are_refused_where_they_cannot_be(tmp_path: Path) -> None:
    for words, told in (
        (["replay=1"], "replay: with rounds=2"),
        (["start=base"], "start: with rounds=2"),
    ):
        with pytest.raises(ConfigError, match=told):
            build(config("rounds=2", *words), tmp_path)


def test_another_name_gives_the_same_weights(tmp_path: Path) -> None:
    one, other = (ran(tmp_path / name, f"+policies.{name}={{}}") for name in ("learner", "bob"))
    assert list(other["iterations"][1]["policies"]) == ["bob"]
    renamed = json.loads(json.dumps(figures(one)).replace('"learner"', '"bob"'))
    assert figures(other) == renamed


def test_two_policies_learn_from_one_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seats = ["+policies.alice={}", "+policies.bob.learner.optimizer.lr=0.0", "+players.first=alice"]
    summary = ran(tmp_path / "run", *seats, "+players.second=bob", "adapter=lora", "metric=bob.sampled.score")
    assert summary["policy"] == "bob" and summary["metric"] == "score"
    made = all_snapshots(tmp_path / "run")
    assert made[0].keys() == made[1].keys() == {"alice", "bob"}
    assert {each.base for by in made.values() for each in by.values()} == {made[0]["bob"].base}
    for episode in Matches(tmp_path / "run/iter_001/play"):
        assert episode.players == {"first": "alice", "second": "bob"}
    against = list(Matches(tmp_path / "run/iter_001/eval/versus/start"))
    assert {tuple(each.players.values()) for each in against} == {("alice", "start"), ("start", "bob")}
    before = {tuple(each.players.values()) for each in Matches(tmp_path / "run/iter_001/eval/versus/previous")}
    assert before == {("alice", "bob@0"), ("alice@0", "bob")}
    alice, bob = (summary["iterations"][1]["policies"][name] for name in ("alice", "bob"))
    assert alice["play"]["logs"] == bob["play"]["logs"] == 6
    assert alice["versus"]["start"]["score"]["n"] == bob["versus"]["start"]["score"]["n"] == 3
    run = tmp_path / "run"
    plan(of_run(run, "adapter=lora"), tmp_path, str(run), False)  # knows who played there
    assert "Data of a round: 6 samples" in " ".join(capsys.readouterr().out.split())


def test_B05_a_round_that_was_deleted_is_one_line(three: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(three[0], run)
    shutil.rmtree(run / "iter_001/play/r002")
    with pytest.raises(ConfigError, match=r"iter_001/play/r002 is gone, .* or remove .*iter_001/learn too and resume"):
        training.selfplay(config(*THREE, f"resume={run}"), run)


def test_a_policy_without_a_role_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policies.bob: it plays no role"):
        build(config("+policies.alice={}", "+policies.bob={}"), tmp_path)
    with pytest.raises(ConfigError, match=r"there is no player bob@x"):
        build(config("+policies.bob={}", "+players.second=bob@x"), tmp_path)


def test_a_stop_signal_in_a_later_rounds_play_is_obeyed_at_once_and_what_was_learnt_is_saved() -> None:
    stop, saved = SimpleNamespace(holding=True, asked=False), list[bool]()
    saving = SimpleNamespace(stop=stop, save=lambda: saved.append(stop.holding))
    with pytest.raises(SystemExit), Learning.kept(SimpleNamespace(moved=lambda: True, saving=saving)):  # type: ignore[arg-type]
        raise SystemExit  # as the signal does where it is not held back
    assert saved == [False]


def test_rounds_are_counted_on_over_iterations() -> None:
    loop = SimpleNamespace(rounds=3)
    found = [Loop._iteration(loop, SimpleNamespace(number=number)) for number in range(1, 8)]  # type: ignore[arg-type]
    assert found == [1, 1, 1, 2, 2, 2, 3]
