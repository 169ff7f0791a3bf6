"""The loop end to end on a small Deal: killed at three moments and resumed, it ends with the figures of the run left
alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import begin, fresh, output, parley

SMALL = [
    "iterations=1", "play.scenarios=8", "play.group=2", "eval.scenarios=4", "eval.greedy=4", "eval.validation=4",
    "eval.opponents=[fair]", "eval.transcripts=2", "imitate.matches=400", "imitate.validation=4",
    "objective.credit.keep=all", "seed=3", "model.width=64", "model.heads=2", "model.layers=2", "model.mlp=64",
    "game.max_actions=8", "play.sampling.max_tokens=12", "eval.sampling.max_tokens=12",
]  # fmt: skip
TIMES = {"seconds", "cpu_seconds", "tokens_per_second", "reference_seconds"}


def resumed(run: Path, *words: str) -> str:
    """What the run says when it goes on to its end."""
    return output(*SMALL, f"resume={run}", *words, folder=run.parent)


def figures(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: figures(each) for key, each in value.items() if key not in TIMES}
    return [figures(each) for each in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    ended = fresh(*SMALL, f"hydra.run.dir={run}", folder=run.parent)  # its hash seed is not that of the resumed ones
    assert ended.returncode == 0, ended.stderr
    return run


def test_a_plan_of_a_run_counts_what_the_run_did_and_changes_nothing(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    planned = output("task=plan", f"run={whole}", *SMALL, folder=whole.parent)
    told, learned = (
        " ".join(planned.split()),
        json.loads((whole / "summary.json").read_text())["iterations"][1]["policies"]["learner"]["learn"],
    )
    assert f"{learned['samples']:,} samples with {learned['utterances']:,} utterances (round 1 of" in told
    assert f"2 epochs of them are {learned['steps']:,}." in told
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_run_leaves_what_the_docs_say(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert [row["iteration"] for row in summary["iterations"]] == [0, 1]
    assert [list(row["policies"]) for row in summary["iterations"]] == [["learner"], ["learner"]]
    first, second = (row["policies"]["learner"] for row in summary["iterations"])
    for row in (first, second):
        assert set(row["sampled"]["joint_score"]) >= {"mean", "low", "high"}
        assert row["greedy"].keys() >= {"score", "joint_score", "agreement_rate", "pareto_rate", "invalid_rate"}
    assert "fair" in first["versus"] and "start" in second["versus"] and "start" in second["versus_greedy"]
    assert summary["demonstrators"]["joint_score"]["mean"] > 0 and summary["cpu_seconds"] > 0
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == 2
    assert "<html" in (whole / "report" / "index.html").read_text()


def test_nothing_but_the_models_own_play_is_trained_on_after_imitation(whole: Path) -> None:
    from parley.credit import FilteredBC
    from parley.data.store import EpisodeStore

    start = json.loads((whole / "iter_000/start/stage.json").read_text())["outputs"]["snapshot"]["version"]
    episodes = list(EpisodeStore(whole / "iter_001/play", shard=None).read())
    assert {policy for episode in episodes for policy in episode.policies.values() if policy} == {start}
    samples = FilteredBC(keep="all")(episodes, "learner").samples
    learned = json.loads((whole / "iter_001/learn/stage.json").read_text())["outputs"]["learner"]
    assert learned["learn"]["samples"] == len(samples)
    sampled = {id(turn): turn.call.sampled_ids for episode in episodes for turn in episode.turns if turn.call}
    spans = {sample.token_ids[each.start : each.end] for sample in samples for each in sample.utterances}
    assert spans <= set(sampled.values())


def test_killed_at_three_moments_and_resumed_it_ends_the_same(whole: Path) -> None:
    run = whole.parent / "cut"

    def some(folder: str) -> Callable[[], bool]:
        return lambda: any(path.stat().st_size > 1000 for path in (run / folder).glob("*.jsonl"))

    begin(*SMALL, f"hydra.run.dir={run}", folder=run.parent).kill_when(some("iter_000/demonstrations/train"))
    for moment in (lambda: (run / "iter_000/start").is_dir(), some("iter_001/play")):
        begin(*SMALL, f"resume={run}", folder=run.parent).kill_when(moment)
    shard = run / "iter_001/play/0.jsonl"
    torn = shard.read_bytes()[:-100]  # as a kill inside a write leaves it
    shard.write_bytes(torn)
    (run / "iter_001/play/stage.json").unlink(missing_ok=True)  # where the stage had just ended
    resumed(run)
    assert shard.read_bytes().startswith(torn[: torn.rfind(b"\n") + 1])
    assert figures(json.loads((run / "summary.json").read_text())) == figures(
        json.loads((whole / "summary.json").read_text())
    )


def test_A5_a_changed_match_is_not_trained_on_and_its_round_is_played_again(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shard = run / "iter_001/play/0.jsonl"
    shard.write_text(
        re.sub(r'"text":"(\w)', lambda word: '"text":"' + chr(ord(word[1]) ^ 1), shard.read_text(), count=1)
    )
    (run / "iter_001/learn/stage.json").unlink()
    refused = parley(*SMALL, f"resume={run}", folder=tmp_path)
    assert refused.returncode == 2 and f"{shard} was changed since" in refused.stderr
    assert "Traceback" not in refused.stderr
    for name in ("play", "learn"):  # as the message says
        shutil.rmtree(run / "iter_001" / name)
    resumed(run)
    assert shard.read_bytes() == (whole / "iter_001/play/0.jsonl").read_bytes()
    assert figures(json.loads((run / "summary.json").read_text())) == figures(
        json.loads((whole / "summary.json").read_text())
    )


def test_a_run_directory_is_not_written_over(whole: Path) -> None:
    process = parley(*SMALL, f"hydra.run.dir={whole}", folder=whole.parent)
    assert process.returncode == 2 and "already holds a run" in process.stderr and "Traceback" not in process.stderr


def test_a_resumed_run_with_another_config_names_the_keys(whole: Path) -> None:
    process = parley(*SMALL, "play.group=4", f"resume={whole}", folder=whole.parent)
    assert process.returncode == 2 and "play.group" in process.stderr and "Traceback" not in process.stderr


def test_a_finished_run_that_goes_on_equals_a_longer_one(whole: Path, tmp_path: Path) -> None:
    longer, other = (shutil.copytree(whole, tmp_path / name) for name in ("longer", "other"))
    told = parley(*SMALL, f"resume={longer}", "iterations=2", folder=tmp_path)
    assert told.returncode == 0 and "goes on to 2 iterations; 1 iteration is learned" in " ".join(told.stderr.split())
    for made in (other / "iter_001", other / "report"):
        shutil.rmtree(made)
    (other / "summary.json").unlink()
    saved = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(saved.replace("\niterations: 1\n", "\niterations: 2\n"))
    resumed(other, "iterations=2")
    one, two = (figures(json.loads((run / "summary.json").read_text())) for run in (longer, other))
    assert one == two and len(one["iterations"]) == 3


def test_the_other_tasks_look_at_the_run(whole: Path) -> None:
    from parley.data.store import EpisodeStore

    match = next(iter(EpisodeStore(whole / "iter_001/eval/sampled", shard=None).read())).id
    assert "the same result" in look(whole, "task=replay", f"match={match}")
    assert match in look(whole, "task=show", f"match={match}").replace("\n", "")
    assert "messages.jsonl" in look(whole, "task=export").replace("\n", "")
    assert "learner@1" in look(whole, "task=tournament", "eval.scenarios=2", "eval.opponents=[]")
    assert "snapshot" in look(whole, "task=learn", "objective.credit.keep=all")
    assert "self-play" in look(whole, "task=play", "play.scenarios=1", "play.group=1")


def look(run: Path, *words: str) -> str:
    return output(*words, f"run={run}", folder=run.parent)


def test_pruning_leaves_the_start_and_what_shall_stay(whole: Path, tmp_path: Path) -> None:
    from parley.run.contents import all_snapshots, kept, prune

    run = tmp_path / "run"
    shutil.copytree(whole, run)
    prune(run, {1})
    assert list(all_snapshots(run)) == [0, 1] and kept(whole) in all_snapshots(whole).values()
    prune(run, {0}, {("learner", 1)})
    assert list(all_snapshots(run)) == [0, 1]
    prune(run, {0}, {("other", 1), ("learner", 2)})
    assert list(all_snapshots(run)) == [0]
    resumed(run, "keep=1")  # a finished run goes on without the snapshots that are gone
    assert figures(json.loads((run / "summary.json").read_text())) == figures(
        json.loads((whole / "summary.json").read_text())
    )
