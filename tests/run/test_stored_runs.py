"""A stored run is foreign data: what was changed since is noticed, and what cannot be read is named in one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import exporting, looking
from parley.credit import FilteredBC
from parley.data.scorer import ScoredMatches, write_scores
from parley.data.seal import MANIFEST, sealed
from parley.data.store import EpisodeStore, Matches
from parley.models import snapshot as snapshots
from parley.models.snapshot import Snapshot
from parley.report import html
from parley.report.progress import terminal
from parley.report.trackers import Jsonl, tracking
from parley.run import contents
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.contents import all_snapshots, find_match, restored, stored
from parley.run.directory import LAUNCH, begun
from parley.run.errors import TOLD
from parley.run.stages import finished, stage
from parley.system.files import InputError
from rich.table import Table

OLD = Path(__file__).parents[1] / "fixtures/run_0_1_0"
PLAY, SAMPLED = "iter_001/play", "iter_001/eval/sampled"
COUNT = 8  # matches of the round


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", ["seed=0", *words])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run, its stages sealed as they are today."""
    shutil.copytree(OLD, run := tmp_path / "run")
    for path in run.rglob(MANIFEST):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"records": sealed(path.parent)}))
    return run


def changed(old: str, new: str) -> Callable[[Path], None]:
    def change(shard: Path) -> None:
        text = shard.read_text()
        assert old in text
        shard.write_text(text.replace(old, new, 1))

    return change


def flipped(shard: Path) -> None:
    """One bit of a letter in a reply, so that the line is still sound JSON."""
    data = bytearray(shard.read_bytes())
    data[data.index(b'"text":"') + 9] ^= 1
    assert json.loads(bytes(data).split(b"\n")[0])
    shard.write_bytes(data)


def copied(shard: Path) -> None:
    shutil.copy(shard, shard.with_name("1.jsonl"))


def shortened(shard: Path) -> None:
    shard.write_bytes(b"".join(shard.read_bytes().splitlines(keepends=True)[:-1]))


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit": (flipped, "0.jsonl was changed"),
    "other returns": (changed('"returns":{"', '"returns":{ "'), "0.jsonl was changed"),
    "a match less": (shortened, f"0.jsonl was changed ({COUNT - 1} lines, {COUNT} then)"),
    "a shard less": (Path.unlink, "0.jsonl was removed"),
    "a shard more": (copied, "1.jsonl was added"),
}


def credited(run: Path) -> None:
    FilteredBC(keep="all")(Matches(run / PLAY), "learner")


def exported(run: Path) -> None:
    exporting.export(config(), run.with_name("exported"), str(run), "all", None)


def shown(run: Path) -> None:
    looking.show(config(), run.with_name("shown"), str(run), "iter_001/play/none/0")


def test_A4_a_changed_snapshot_of_a_run_is_not_used(run: Path) -> None:
    model = run / "iter_001/learn/learner/snapshot"
    model.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(bytes(64))
    outputs = stored(snapshots.of(model, "iter_001"), run)
    assert restored(outputs, run).path == str(model)
    (model / "model.safetensors").write_bytes(bytes(63) + b"\1")
    with pytest.raises(InputError, match=rf"{model} was changed after the snapshot iter_001-\w+ was made"):
        restored(outputs, run)


@pytest.mark.parametrize("use", [credited, exported, shown])
@pytest.mark.parametrize("change", CHANGES)
def test_A5_matches_that_were_changed_are_not_trained_on_nor_shown(run: Path, change: str, use: Callable) -> None:
    damage, told = CHANGES[change]
    damage(run / PLAY / "0.jsonl")
    with pytest.raises(TOLD) as error:
        use(run)
    text = str(error.value)
    assert f"{PLAY}/{told}" in text and f"remove {run / PLAY} " in text and "\n" not in text


@pytest.mark.parametrize("change", CHANGES)
def test_A5_matches_that_were_changed_are_in_no_report(run: Path, change: str) -> None:
    damage, _ = CHANGES[change]
    damage(run / SAMPLED / "0.jsonl")
    with pytest.raises(InputError, match=SAMPLED):
        html.write(run)


def test_A5_scores_that_were_changed_are_refused(run: Path, tmp_path: Path) -> None:
    matches, folder = Matches(run / PLAY), tmp_path / "score"
    says = {"good": dict.fromkeys(next(iter(matches)).result.returns, 1.0)}
    stage(folder, {}, lambda: write_scores(folder / "scores.jsonl", lambda episode: says, matches))
    scored = ScoredMatches(run / PLAY, folder / "scores.jsonl")
    assert len(list(scored.scored())) == COUNT
    changed("1.0", "9.0")(folder / "scores.jsonl")
    with pytest.raises(InputError, match=r"scores\.jsonl was changed"):
        list(scored.scored())


def test_A5_a_seal_counts_lines_and_an_old_run_without_one_is_read(run: Path) -> None:
    path = run / PLAY / "stage.json"
    manifest = json.loads(path.read_text())
    assert manifest["records"]["0.jsonl"]["lines"] == COUNT
    del manifest["records"]
    path.write_text(json.dumps(manifest))
    flipped(run / PLAY / "0.jsonl")
    assert len(list(EpisodeStore(run / PLAY, shard=None).read())) == COUNT


def test_A19_ids_as_shown_are_ids_that_work_and_ambiguous_ones_are_refused_with_the_list(run: Path) -> None:
    """A run of 0.1.0 named no iteration in the ids of its evaluations."""
    for episode in EpisodeStore(run / SAMPLED, shard=None).read():
        both = [f"{iteration}/{episode.id}" for iteration in ("iter_000", "iter_001")]
        with pytest.raises(ConfigError, match=f"is one of several: say {', '.join(both)}"):
            find_match(run, episode.id)
        assert [find_match(run, match)[0].id for match in both] == [episode.id] * 2
        assert find_match(run, both[1]) == (episode, False) != find_match(run, both[0])
    played = next(iter(Matches(run / PLAY)))
    assert find_match(run, played.id) == (played, False)


# --- files that cannot be read ---------------------------------------------------------------------------------------

BROKEN = {
    "empty": b"",
    "torn": b'{"inputs": "x", "outp',
    "foreign": b'{"name": "a web page"}',
    "a list": b"[1, 2]",
    "not text": b"\xff\xfe\x00\x01",
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("data", BROKEN)
@pytest.mark.parametrize("name", ["iter_001/play/stage.json", "iter_001/learn/stage.json", "iter_000/base/stage.json"])
def test_B05_a_stages_manifest_that_cannot_be_read_is_named(run: Path, name: str, data: str) -> None:
    (run / name).write_bytes(BROKEN[data])
    uses = (lambda: finished((run / name).parent), lambda: stage((run / name).parent, {}, lambda: None))
    for use in (*uses, lambda: all_snapshots(run)) if "learn" in name else uses:
        with pytest.raises(InputError) as error:
            use()
        assert str(run / name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("data", BROKEN)
def test_B05_the_other_files_of_a_run_are_named_or_written_anew(run: Path, data: str) -> None:
    (run / "metrics.jsonl").write_bytes(BROKEN[data])
    (run / "summary.json").write_bytes(BROKEN[data])
    (run / "iter_002/play").mkdir(parents=True)
    (run / "iter_002/play/.spent-0-1").write_bytes(BROKEN[data])
    with pytest.raises(InputError, match=r"summary\.json.*resume="):
        html.write(run)
    with tracking([tracker := Jsonl()], run):
        tracker.log({"x": 1.0}, 0)
    assert (run / "metrics.jsonl").read_text() == '{"x": 1.0, "iteration": 0}\n'
    assert stage(run / "iter_002/play", {}, lambda: "played").seconds < 60
    shutil.copy(OLD / "summary.json", run)
    (run / "manifest.json").write_bytes(b"" if data == "foreign" else BROKEN[data])
    with pytest.raises(InputError, match=r"manifest\.json"):
        html.write(run)


@pytest.mark.parametrize("outputs", [None, 3, [], {"learner": 1}, {"learner": {"snapshot": {"version": "x"}}}])
def test_B05_outputs_that_hold_no_snapshot_are_named(run: Path, outputs: Any) -> None:
    path = run / "iter_001/learn/stage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"outputs": outputs}))
    with pytest.raises(InputError, match="hold no snapshot"):
        all_snapshots(run)


def test_the_newest_snapshots_of_an_unfinished_run_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {at: {"learner": Snapshot(f"v{at}", f"folder {at}")} for at in range(3)}
    monkeypatch.setattr(contents, "all_snapshots", lambda run: found)
    assert contents.kept(tmp_path) == found[2]


@pytest.mark.parametrize(("version", "expected"), [("v1", 1), ("v2", 2), ("merged into another", 2)])
def test_a_round_is_that_of_the_snapshots_in_its_matches_as_after_a_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, expected: int
) -> None:
    found = {at: {"learner": Snapshot(f"v{at}", f"folder {at}")} for at in range(4)}
    match = SimpleNamespace(players={"first": "learner", "second": "fair"}, policies={"first": version, "second": ""})
    monkeypatch.setattr(contents, "all_snapshots", lambda run: found)
    monkeypatch.setattr(contents, "rounds_of", lambda run: ["iter_002/play", "iter_003/play", "iter_004/play"])
    monkeypatch.setattr(contents, "EpisodeStore", lambda folder, shard: SimpleNamespace(read=lambda: [match]))
    assert contents.played_by(tmp_path, 3) == found[expected]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + at)}: &{chr(98 + at)} [{','.join([f'*{chr(97 + at)}'] * 9)}]\n" for at in range(9)
)


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n- 2\n", "\x00", "a: !!python/object/apply:os.getcwd []", BOMB, "3"])
def test_B05_a_config_that_cannot_be_read_is_named(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    for use in (lambda: all_snapshots(run), lambda: shown(run), lambda: exported(run)):
        with pytest.raises(ConfigError, match=r"config\.yaml is torn, or no config"):
            use()


def test_B05_a_replay_that_differs_is_one_line_in_show_and_export(run: Path) -> None:
    path = run / PLAY / "stage.json"
    manifest = json.loads(path.read_text())
    del manifest["records"]  # a run of before
    path.write_text(json.dumps(manifest))
    changed('"outcome":"', '"outcome":"x')(run / PLAY / "0.jsonl")
    match = next(EpisodeStore(run / PLAY, shard=None).read()).id
    for use in (
        lambda: looking.show(config(), run, str(run), match),
        lambda: exporting.export(config(), run / "x", str(run), "all", None),
    ):
        with pytest.raises(TOLD, match=f"match {match} ends with outcome"):
            use()


def test_B05_B13_a_kill_between_the_first_two_files_leaves_a_directory_that_starts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for left in ("manifest.json", ".config.yaml.12.tmp"):
        (run / left).write_text("{}")
    (run / f"{LAUNCH}abc").mkdir()
    (run / f"{LAUNCH}abc/job.json").write_text("{}")
    with begun(config(), run):
        assert not list(run.glob(f"{LAUNCH}*")) and (run / "config.yaml").exists()
    (run / "manifest.json").unlink()
    with begun(config(f"resume={run}"), run):
        assert json.loads((run / "manifest.json").read_text())["seed"] == 0


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_B07_a_full_disk_is_one_line_whoever_says_so(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"the disk is full\. .* make room, then resume="),
        begun(config(), tmp_path / "x"),
    ):
        try:
            raise error
        except Exception as first:
            raise ValueError("could not be saved") from first
    with pytest.raises(ValueError, match="another"), begun(config(), tmp_path / "y"):
        raise ValueError("another")


def test_B06_markup_in_names_and_paths_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title="[red]")
    table.add_row("[/b] [a] [link=x]")
    terminal(width=100).print("report: /runs/[a]/[/b]/index.html", table)
    shown = capsys.readouterr().out
    assert "report: /runs/[a]/[/b]/index.html" in shown and "[red]" in shown and "[/b] [a] [link=x]" in shown


@pytest.mark.parametrize(
    "metric, told",
    [
        ("sampled.joint_scor", "has no metric joint_scor; did you mean joint_score"),
        ("sampled.unseen.deal.score", "validation does not have"),
        ("versus.start.scroe", "has no metric scroe; did you mean score"),
        ("sampeld.score", "is taken from no evaluation; say one of validation"),
        ("score", "is taken from no evaluation"),
        ("learner.sampled.pareto", "has no metric pareto; did you mean pareto_rate"),
    ],
)
def test_B01_metric_names_are_known_before_anything_is_built(metric: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        build(config(f"metric={metric}"), tmp_path)


@pytest.mark.parametrize("experiment", ["deal_tiny", "deal_tiny_self", "spag_tiny", "spin_tiny"])
def test_B01_the_metric_of_an_experiment_is_one_of_its_game(experiment: str, tmp_path: Path) -> None:
    assert build(config(f"experiment={experiment}"), tmp_path).game.facts.metrics
