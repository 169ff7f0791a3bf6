"""Trackers: what is written, what is dropped on resume, what never leaves the machine, and that a crash closes them."""

from __future__ import annotations

import csv
import json
import platform
import struct
import subprocess
import time
from pathlib import Path

import pytest
from parley.report import redact
from parley.report.manifest import manifest, revision
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
        if kind in (1, 4):  # whole, or the last part
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


def logged(path: Path) -> list[dict[str, object]]:
    """The rows of an offline run's history, by name."""
    return [
        {"/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in settled(path)
        if record.WhichOneof("record_type") == "history"
    ]


def test_wandb_takes_steps_a_summary_and_a_report_and_says_nothing_twice(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    for name, folder in (("CACHE", "cache"), ("CONFIG", "config"), ("DATA", "data"), ("ARTIFACT", "artifacts")):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / folder))
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "report/index.html").write_text("<p>report")
    for last in (2, 3):  # killed after the second iteration, and resumed
        with tracking([Several({"w": Wandb("parley-test", "offline")})], run) as (tracker,):
            for number in range(last):
                tracker.steps([{"step": 2 * number + at, "loss": 1.5, "lr": 0.1} for at in (0, 1)], number)
                tracker.table("transcripts", ["text"], [["hello"]], number)
                tracker.log({"learner.sampled.joint": number, "learner.sampled.joint.low": number - 1}, number)
            tracker.summary({"best": 1, "kept": 5.5})
            tracker.artifact("report", run / "report")
            tracker.artifact("snapshot", run)  # not asked for
    paths = sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    history = [logged(path) for path in paths]
    assert [[row["step"] for row in rows if "steps/loss" in row] for rows in history] == [[0, 1, 2, 3], [4, 5]]
    assert [[row["eval/sampled/joint/low"] for row in rows if "eval/sampled/joint" in row] for rows in history] == [
        [-1, 0], [1],
    ]  # fmt: skip
    assert [sum("transcripts/_type" in row for row in rows) for rows in history] == [2, 1]
    written = settled(paths[-1])
    told = {item.key: item.value_json for each in written for item in each.summary.update}
    assert told.get("best") == "1" and told.get("kept") == "5.5"
    named = {each.artifact.name for each in written if each.WhichOneof("record_type") == "artifact"}
    assert {name for name in named if not name.startswith("run-")} == {
        f"report-{(run / 'wandb_id').read_text().strip()}"
    }


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
