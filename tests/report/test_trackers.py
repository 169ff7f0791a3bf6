"""Trackers: what is written, what is dropped on resume, what never leaves the machine, and that a crash closes them."""

from __future__ import annotations

import csv
import json
import platform
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from parley.report import redact
from parley.report.manifest import manifest, revision
from parley.report.offline import history
from parley.report.trackers import Jsonl, Lightning, Several, Wandb, sections, tracking


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_row_is_a_line_and_what_is_not_finite_is_null(tmp_path):
    with tracking([Jsonl()], tmp_path) as (tracker,):
        tracker.log({"sampled.joint": 4.25, "loss": float("nan"), "steps": 3}, 0)
        tracker.log({"sampled.joint": 5.0, "gap": float("inf")}, 1)
    assert rows(tmp_path) == [
        {"sampled.joint": 4.25, "loss": None, "steps": 3, "iteration": 0},
        {"sampled.joint": 5.0, "gap": None, "iteration": 1},
    ]


@pytest.mark.parametrize(("resumed", "kept"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2])])
def test_a_resumed_run_drops_rows_that_come_again_and_a_torn_line(tmp_path, resumed, kept):
    with tracking([Jsonl()], tmp_path) as (tracker,):
        for k in range(3):
            tracker.log({"x": k}, k)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"x": 3, "itera')
    with tracking([Jsonl()], tmp_path, resumed) as (tracker,):
        tracker.log({"x": 10}, resumed)
    assert [row["iteration"] for row in rows(tmp_path)] == [*kept, resumed]


class Recording(Jsonl):
    def __init__(self) -> None:
        super().__init__()
        self.ended: list[bool] = []

    def finish(self, failed: bool = False) -> None:
        self.ended.append(failed)


@pytest.mark.parametrize("crash", [None, OSError, KeyboardInterrupt])
def test_every_tracker_is_finished_whatever_happens(tmp_path, crash):
    trackers = [Recording(), Recording()]
    if crash is None:
        with tracking(trackers, tmp_path):
            pass
    else:
        with pytest.raises(crash), tracking(trackers, tmp_path):
            raise crash
    assert [tracker.ended for tracker in trackers] == [[crash is not None]] * 2


SECRETS = {
    "api_key": "x", "openai-api-key": "x", "hf_token": "x", "password": "x", "WANDB_API_KEY": "x", "auth": "x",
    "harmless": "sk-abcdefghijklmnop", "other": "hf_abcdefghijklmnop",
}  # fmt: skip
KEPT = {
    "max_tokens": 64,
    "tokenizer": "bpe",
    "micro_tokens": 4096,
    "key": "value",
    "author": "me",
    "tokens": 3,
    "stop": ["[END]"],
}


def test_secrets_are_dropped_and_nothing_else():
    config = {**SECRETS, **KEPT, "nested": {"list": [{"token": "x", "a": 1}]}, "url": "https://me:pass@host/v1"}
    assert redact.public(config) == {**KEPT, "nested": {"list": [{"a": 1}]}, "url": "https://host/v1"}
    words = [
        "parley",
        "model.max_tokens=5",
        "+backend.api_key=x",
        "backend.url=http://a:b@h",
        "note=sk-abcdefghijklmnop",
    ]
    assert redact.command(words) == [
        "parley",
        "model.max_tokens=5",
        "+backend.api_key=***",
        "backend.url=http://h",
        "note=***",
    ]


def test_the_manifest_says_what_the_run_was_made_with(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "environment-secret")
    made = manifest(["/some/where/bin/parley", "seed=3", "name=a b", "x.token=t0p"], 3, {"name": "cpu", "threads": 1})
    assert made["command"] == "parley seed=3 'name=a b' 'x.token=***'"
    assert made["seed"] == 3 and made["hardware"] == {"name": "cpu", "threads": 1}
    assert made["packages"]["torch"] and made["packages"]["transformers"] and made["machine"]["threads"] >= 1
    text = json.dumps(made)
    assert "environment-secret" not in text and "t0p" not in text and "/some/where" not in text
    assert platform.node() not in text


def git(folder: Path, *words: str) -> None:
    identity = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "core.hooksPath=/dev/null",
    ]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_revision_is_that_of_the_packages_own_checkout(tmp_path):
    package, installed = tmp_path / "src", tmp_path / "site-packages" / "parley"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert revision(package) is None
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "src")
    git(tmp_path, "commit", "-qm", "first")
    found = revision(package)
    assert found is not None and len(found["revision"]) == 40 and found["dirty"] is False
    (package / "__init__.py").write_text("x = 1\n")
    assert revision(package) == {**found, "dirty": True}
    assert revision(installed) is None  # lies in the checkout, and is not part of it


def records(path: Path) -> list:
    """What wandb wrote offline: a 7-byte header, then LevelDB's log format (32 KiB blocks of crc, length, type,
    data)."""
    from wandb.proto import wandb_internal_pb2

    data, found, partial, at = path.read_bytes(), [], b"", 7
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:  # a block's tail is too short for a header
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        partial += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4) and at <= len(data):  # whole, or the last part, and not torn
            record = wandb_internal_pb2.Record()
            record.ParseFromString(partial)
            found.append(record)
            partial = b""
    return found


def settled(path: Path) -> list:
    """The records once the exit is among them: wandb's own process writes the file, a moment after `finish` returns."""
    for _ in range(200):
        found = records(path)
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            break
        time.sleep(0.05)
    return found


def test_wandb_offline_for_real(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, folder in (("WANDB_CACHE_DIR", "cache"), ("WANDB_CONFIG_DIR", "config"), ("WANDB_DATA_DIR", "data")):
        monkeypatch.setenv(name, str(tmp_path / folder))
    run = tmp_path / "run"
    made = Wandb(
        "parley-test", "offline", "deal-s3", ["tiny"], task="parley.cli.tasks.training.selfplay", notes="a try"
    )
    with (
        pytest.raises(OSError, match="boom"),
        tracking([made], run) as (tracker,),
    ):
        tracker.config({"seed": 3, "api_key": "t0p-secret", "model": {"hf_token": "t0p-secret", "width": 128}})
        tracker.log({"learner.sampled.joint": 4.25}, 0)
        tracker.log({"learner.sampled.joint": 5.5}, 1)
        tracker.table("transcripts", ["iteration", "text"], [[1, "hello <b>"]], 1)
        raise OSError("boom")
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    written = settled(path)
    history = [
        {tuple(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in written
        if record.WhichOneof("record_type") == "history"
    ]
    name = ("eval/sampled/joint",)
    joint = [(row["iteration",], row[name]) for row in history if name in row]
    assert joint == [(0, 4.25), (1, 5.5)]
    assert [row["transcripts", "nrows"] for row in history if ("transcripts", "_type") in row] == [1]
    identity = (run / "wandb_id").read_text().strip()
    (started,) = [record.run for record in written if record.WhichOneof("record_type") == "run"][:1]
    assert (started.run_id, started.project, list(started.tags)) == (identity, "parley-test", ["tiny"])
    assert (started.display_name, started.run_group) == (f"deal-s3-{identity}", tmp_path.name)
    assert (started.job_type, started.notes) == ("selfplay", "a try")
    (ended,) = [record.exit.exit_code for record in written if record.WhichOneof("record_type") == "exit"]
    assert ended == 1
    assert b"t0p-secret" not in path.read_bytes() and b"width" in path.read_bytes()
    assert started.host == "" and not list(run.rglob("wandb-metadata.json"))


def logged(path: Path, ended: bool = True) -> list[dict[str, object]]:
    """The rows of an offline run's history, by name; of a process that was killed those that it wrote."""
    return [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in (settled if ended else records)(path)
        if record.WhichOneof("record_type") == "history"
    ]


def offered(made: Wandb, iterations: range) -> None:
    """What a run gives to a tracker: steps that fill a block of the file and a half, a table, a row."""
    for number in iterations:
        made.steps([{"step": 90 * number + at, "loss": 1.5, "lr": 0.1} for at in range(90)], number)
        made.table("transcripts", ["text"], [["hello"]], number)
        made.log({"learner.sampled.joint": number, "learner.sampled.joint.low": number - 1}, number)


CUT_OFF = """
import os, psutil, sys, time
from pathlib import Path
from parley.report.trackers import Wandb
from test_trackers import offered
made, run = Wandb("parley-test", "offline"), Path(sys.argv[1])
made.open(run)
offered(made, range(2))
while not any(path.stat().st_size > 30000 for path in run.glob("wandb/offline-run-*/run-*.wandb")):
    time.sleep(0.02)  # until the first block is written; wandb holds the second one back in memory
for child in psutil.Process().children(recursive=True):
    child.kill()  # wandb's own process would write the rest
os.kill(os.getpid(), 9)
"""


def test_wandb_goes_on_after_a_kill_and_says_everything_once(tmp_path, monkeypatch):
    """The history over all processes is that of a run that nobody kills; a finished run that goes on adds to it."""
    wandb = pytest.importorskip("wandb")
    for name, folder in (("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data"), ("ARTIFACT", "artifacts")):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / folder))
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "report/index.html").write_text("<p>report")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    wandb.teardown()  # ends this process's service, whose name children inherit
    assert subprocess.run([sys.executable, "-c", CUT_OFF, str(run)], cwd=tmp_path, check=False).returncode == -9
    (first,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert 90 < history(first) < 184
    for last in (2, 3):
        with tracking([Several({"w": (made := Wandb("parley-test", "offline"))})], run) as (tracker,):
            offered(made, range(last))
            tracker.summary({"best": 1, "kept": 5.5})
            tracker.artifact("report", run / "report")
            tracker.artifact("snapshot", run)  # not asked for
        wandb.teardown()  # waits until its process lets go of the run
        paths = sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
        rows = [row for path in paths for row in logged(path, path != first)]
        assert [row["_step"] for row in rows] == list(range(92 * last))
        assert [row["step"] for row in rows if "steps/loss" in row] == list(range(90 * last))
        joint = [row["eval/sampled/joint/low"] for row in rows if "eval/sampled/joint" in row]
        assert joint == list(range(-1, last - 1))
        assert sum("transcripts/_type" in row for row in rows) == last
    written = settled(paths[-1])
    told = {item.key: item.value_json for each in written for item in each.summary.update}
    assert told.get("best") == "1" and told.get("kept") == "5.5"
    named = {each.artifact.name for each in written if each.WhichOneof("record_type") == "artifact"}
    assert {name for name in named if not name.startswith("run-")} == {
        f"report-{(run / 'wandb_id').read_text().strip()}"
    }


def test_wandb_counts_the_whole_rows_of_a_torn_file_and_those_of_files_that_were_sent(tmp_path, monkeypatch):
    """Cut anywhere, a file counts what its own reader finds; a file that was sent and removed is not told again."""
    wandb = pytest.importorskip("wandb")
    for name, folder in (("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data")):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / folder))
    run = tmp_path / "run"
    with tracking([made := Wandb("parley-test", "offline")], run):
        offered(made, range(1))
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    wandb.teardown()
    data, torn = path.read_bytes(), tmp_path / "torn.wandb"
    for size in [0, 6, 7, 13, *range(100, len(data), 1777), 32768, 32775, len(data)]:
        torn.write_bytes(data[:size])
        steps = [record.history.step.num for record in records(torn) if record.WhichOneof("record_type") == "history"]
        assert history(torn) == len(steps) and steps == list(range(len(steps))), size
    torn.write_bytes(bytes(70000))
    assert history(torn) == 0
    with tracking([made], run):
        pass
    wandb.teardown()
    shutil.rmtree(run / "wandb")
    with tracking([made], run):
        offered(made, range(1))
        made.log({"learner.sampled.joint": 1}, 1)
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    assert [row["_step"] for row in logged(path)] == [92]


def test_wandb_refuses_an_unknown_mode_and_logging_before_open():
    with pytest.raises(ValueError, match="expected online, offline or disabled"):
        Wandb(mode="on")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="open"):
        Wandb().log({}, 0)


@pytest.mark.parametrize(
    ("flat", "named"),
    [
        ("learner.sampled.deal.score", "eval/sampled/deal/score"),
        ("learner.learn.loss", "train/loss"),
        ("attacker.play.replies", "play/attacker/replies"),
        ("attacker.versus.start.win_rate", "eval/attacker/versus/start/win_rate"),
        ("learner.scores.wit", "play/scores/wit"),
        ("seconds.eval/sampled", "seconds/eval/sampled"),
        ("benchmark.task.acc", "benchmark/task/acc"),
        ("round", "round"),
    ],
)
def test_dashboards_get_names_by_section(flat, named):
    assert sections({flat: 1.5}) == {named: 1.5}


def test_several_trackers_get_everything_and_csv_is_read_back(tmp_path):
    with tracking([Several({"csv": Lightning("csv"), "jsonl": Jsonl()})], tmp_path) as (tracker,):
        tracker.config({"seed": 1})
        tracker.log({"learner.sampled.joint": 4.25}, 0)
        tracker.log({"learner.sampled.joint": 5.5}, 1)
        tracker.table("transcripts", ["text"], [["hello"]], 1)
    (path,) = tmp_path.glob("tracker/csv/version_*/metrics.csv")
    with path.open(newline="") as file:
        assert [(row["step"], row["eval/sampled/joint"]) for row in csv.DictReader(file)] == [
            ("0", "4.25"),
            ("1", "5.5"),
        ]
    assert [row["learner.sampled.joint"] for row in rows(tmp_path)] == [4.25, 5.5]


def test_tensorboard_is_read_back(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracking([Lightning("tensorboard")], tmp_path) as (tracker,):
        tracker.log({"learner.sampled.joint": 4.25}, 0)
        tracker.log({"learner.sampled.joint": 5.5}, 1)
    (path,) = tmp_path.glob("tracker/tensorboard/version_*")
    found = accumulator.EventAccumulator(str(path)).Reload().Scalars("eval/sampled/joint")
    assert [(each.step, each.value) for each in found] == [(0, 4.25), (1, 5.5)]


def test_a_tracker_of_lightning_says_what_it_takes():
    with pytest.raises(ValueError, match="csv or tensorboard"):
        Lightning("xml")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="open"):
        Lightning("csv").log({}, 0)
