"""SPIN end to end on a very small scale: the made language, its control, and plain chats from a file, each by the
command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from parley.data.formats import spin_rows
from parley.data.store import EpisodeStore
from parley.games.prompts import Prompts, Tales

from commands import output, parley

SMALL = [
    "iterations=2", "model.width=32", "model.layers=1", "model.mlp=64", "imitate.learner.epochs=1", "play.scenarios=24",
    "eval.scenarios=12", "eval.greedy=12", "eval.validation=16", "eval.transcripts=1", "learner.epochs=1",
    "learner.batch_utterances=16", "play.sampling.max_tokens=10", "eval.sampling.max_tokens=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of spin_tiny whose learning rate is 0 from the second iteration on, and what it said at its end."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    words = ["experiment=spin_tiny", *SMALL, "schedule.iter_002.learner.optimizer.lr=0.0", f"hydra.run.dir={run}"]
    return run, output(*words, folder=run.parent)


def stage(run: Path, name: str) -> Any:
    return json.loads((run / name / "stage.json").read_text())["outputs"]


def test_pairs_of_two_rounds_are_trained_on_and_the_schedule_holds(tiny: tuple[Path, str]) -> None:
    run, told = tiny
    first, second = (stage(run, f"iter_{number:03d}/learn")["learner"] for number in (1, 2))
    kept = [each["credit"]["kept"] for each in (first, second)]
    assert (
        min(kept) > 12
        and first["learn"]["utterances"] == 2 * kept[0]
        and second["learn"]["utterances"] == 2 * sum(kept)
    )
    assert first["learn"]["rewards/margins"] != 0
    assert abs(second["learn"]["rewards/margins"]) < 1e-5 and second["learn"]["loss"] == pytest.approx(
        0.693147, abs=1e-5
    )
    assert "kl to the" in told and "versus" not in told


def test_the_distance_to_the_source_is_measured_on_held_out_prompts(tiny: tuple[Path, str]) -> None:
    run, _ = tiny
    iterations = json.loads((run / "summary.json").read_text())["iterations"]
    rows = [row["policies"]["learner"] for row in iterations]
    scenarios = Tales().scenarios("validation")[:16]
    entropy = -sum(scenario.data["logprob"] for scenario in scenarios) / 16
    for row in rows:
        found = row["demonstrations"]
        assert found["kl"]["n"] == found["kl"]["clusters"] == 16
        assert found["kl"]["mean"] == pytest.approx(-entropy - found["logprob"]["mean"], abs=1e-6)
        assert row["versus"] == {} and 0 <= row["sampled"]["accepted_rate"]["mean"] <= 1
    assert (
        rows[1]["demonstrations"] == rows[2]["demonstrations"] != rows[0]["demonstrations"]
    )  # of a learning rate of 0
    token = rows[0]["learn"]["validation_logprob"]  # of all held-out replies, which have about eleven tokens each
    assert rows[0]["demonstrations"]["logprob"]["mean"] == pytest.approx(11.1 * token, rel=0.2)


def test_every_pair_can_be_exported_and_read_again_as_prompts(tiny: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = tiny
    out = tmp_path / "export"
    assert "48 rows in" in output("task=export", f"run={run}", f"hydra.run.dir={out}", folder=tmp_path)
    rows = list(spin_rows.read(out / "spin.jsonl"))
    said = [
        episode.turns[0].text
        for number in (1, 2)
        for episode in EpisodeStore(run / f"iter_{number:03d}/play").read(ordered=True)
    ]
    assert [row.generated[-1].content for row in rows] == said
    again = Prompts(str(out / "spin.jsonl"), validation=0.3, test=0.3)
    replies = {
        scenario.data["reply"] for split in ("train", "validation", "test") for scenario in again.scenarios(split)
    }
    assert replies == {row.real[-1].content for row in rows}


STRICT = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('in turns') }}"
    "{% endif %}{{ m['content'] }}<end>{% endfor %}"
)


def test_a_row_that_the_template_refuses_is_told_before_the_first_request(
    tiny: tuple[Path, str], tmp_path: Path
) -> None:
    """Two of forty chats have two users' messages in a row; the first is named by file and line."""
    shutil.copytree(tiny[0] / "iter_000/base/model", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(STRICT)
    chats = []
    for n in range(40):
        asked = [{"role": "user", "content": f"king {n}"}] * (2 if n in (16, 30) else 1)
        chats.append({"messages": [*asked, {"role": "assistant", "content": "cat"}]})
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    words = [
        "experiment=spin_tiny", *(word for word in SMALL if not word.startswith("model.")), "game=prompts",
        "game.train=chats.jsonl", "metric=sampled.score", "model=hf", "model.path=model", "hydra.run.dir=run",
    ]  # fmt: skip
    refused = parley(*words, folder=tmp_path)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "chats.jsonl, line 17: the model's chat template refuses this conversation (user, user)" in refused.stderr
    assert "(1 more chats are refused)" in refused.stderr
    assert not (tmp_path / "run/iter_001").exists() and not (tmp_path / "run/iter_000/eval").exists()


def test_plain_chats_and_the_control_run_too(tmp_path: Path) -> None:
    chats = (
        [{"role": "user", "content": f"after {n}"}, {"role": "assistant", "content": str(n + 1)}] for n in range(120)
    )
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    words = [
        "experiment=spin_tiny",
        *SMALL,
        "game=prompts",
        "game.train=chats.jsonl",
        "metric=sampled.score",
        "iterations=1",
    ]
    output(*words, "objective=sft", "hydra.run.dir=run", folder=tmp_path)
    learned = stage(tmp_path / "run", "iter_001/learn")["learner"]
    assert learned["learn"]["utterances"] == learned["credit"]["kept"] == 24
    first = json.loads((tmp_path / "run/summary.json").read_text())["iterations"][0]["policies"]["learner"]
    assert first["demonstrations"].keys() == {"logprob"}
