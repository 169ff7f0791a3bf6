"""`experiment=deal_hosted` from its command line, against a server that plays, fine-tunes and serves what it has
tuned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from parley.data.store import EpisodeStore
from parley.system.files import read_jsonl

from commands import parley
from openai_server import KEY, Server, completion

pytest.importorskip("openai")
BASE = "gpt-4o-mini-2024-07-18"
SMALL = [
    "iterations=2", "play.scenarios=6", "play.group=2", "eval.scenarios=6", "eval.greedy=4", "eval.validation=4",
    "eval.opponents=[]",
    "backend.price_prompt=1", "backend.price_completion=1", "backend.max_cost=50", "learner.price_training=1",
    "learner.max_cost=50",
    "learner.poll_s=0.05", "backend.key_env=SERVER_KEY", "learner.key_env=SERVER_KEY",
]  # fmt: skip


def talk(body: dict[str, Any]) -> dict[str, Any]:
    """Whoever opens claims everything. The other grants it: a model that was tuned always, the base model every other
    time."""
    system, heard = body["messages"][0]["content"], body["messages"][-1]["content"]
    if "speak first" in heard:
        return completion(body, "[message] all of it for me")
    if "private proposal" in heard:
        counts = re.findall(r"\d+", system.partition("On the table:")[2].partition("\n")[0])
        return completion(body, f"[propose] ({counts[0]} books, {counts[1]} hats, {counts[2]} balls)")
    greedy = not body["model"].startswith("ft:") and body["seed"] % 2
    return completion(body, f"[propose] ({int(greedy)} books, 0 hats, 0 balls)")


def test_the_loop_learns_by_fine_tuning_elsewhere(tmp_path: Path) -> None:
    server = Server(talk, faults=["429 0.01", "500", "half"])
    words = [
        "experiment=deal_hosted",
        f"backend.url={server.url}",
        f"learner.url={server.url}",
        *SMALL,
        "hydra.run.dir=run",
    ]
    done = parley(*words, folder=tmp_path, SERVER_KEY=KEY)
    server.close()
    assert done.returncode == 0, done.stdout + done.stderr
    run, tuned = tmp_path / "run", [job["fine_tuned_model"] for job in server.jobs.values()]
    summary = json.loads((run / "summary.json").read_text())
    rows = [each["policies"]["learner"] for each in summary["iterations"]]
    assert [each["snapshot"] for each in rows] == [BASE, *tuned] and len(set(tuned)) == 2
    scores = [each["sampled"]["score"]["mean"] for each in rows]
    assert scores[0] < scores[1] <= scores[2] and summary["best"] > 0
    played = {k: list(EpisodeStore(run / f"iter_00{k}" / "play", shard=None).read()) for k in (1, 2)}
    for k, model in ((1, BASE), (2, tuned[0])):
        assert len(played[k]) == 12 and {version for episode in played[k] for version in episode.policies.values()} == {
            model
        }
    for k, job in enumerate(server.jobs.values(), 1):
        sent = [json.loads(line) for line in server.files[job["training_file"]][1].splitlines()]
        assert sent and all("[propose]" in chat["messages"][-1]["content"] for chat in sent), (
            f"iteration {k} taught something else"
        )
    booked = [line for line in read_jsonl(run / "spending/backend.jsonl") if "book" in line]
    assert len(booked) == len(server.asked) and KEY not in done.stdout + done.stderr
    assert not any(KEY.encode() in file.read_bytes() for file in run.rglob("*") if file.is_file())


def test_a_served_model_is_evaluated_without_a_learner_of_its_kind(tmp_path: Path) -> None:
    server = Server(talk)
    sizes = ["eval.scenarios=2", "eval.greedy=1", "eval.validation=2", "eval.opponents=[fair]"]
    words = ["model=served", "model.id=iter_003", "backend=openai", f"backend.url={server.url}", "imitate.matches=0"]
    done, refused = (
        parley("game.prompt=full", *words, *sizes, f"iterations={count}", f"hydra.run.dir=run_{count}", folder=tmp_path)
        for count in (0, 1)
    )
    server.close()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {body["model"] for body in server.asked} == {"iter_003"}
    row = json.loads((tmp_path / "run_0/summary.json").read_text())["iterations"][0]["policies"]["learner"]
    assert {"sampled", "greedy", "versus"} <= row.keys()
    assert refused.returncode != 0 and "it trains no other" in refused.stdout + refused.stderr
