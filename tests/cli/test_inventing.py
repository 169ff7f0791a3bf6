"""task=generate: what holds is stored with its origin, what does not is counted by its reason, and nothing is told
twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.main import check  # noqa: F401  (registers the config's schema)
from parley.cli.tasks.inventing import asked, generate
from parley.games import conformance
from parley.games.base import Illegal
from parley.games.social import Social, invent
from parley.system.files import InputError

from openai_server import Server, completion
from social_records import environment, write

GOOD = {
    "scenario": "Two neighbours share a garden and plan what to plant there in spring.", "relationship": 3,
    "disagreement": "whether the garden gets flowers or vegetables",
    "agent_goals": ["Get most of the garden for flowers", "Grow vegetables that feed the family"],
}  # fmt: skip
BAD = {
    "no JSON": "Once upon a time", "no scenario": {**GOOD, "scenario": "x"},
    "no relationship": {**GOOD, "relationship": 9}, "not two goals": {**GOOD, "agent_goals": ["a garden"]},
    "goals alike": {**GOOD, "agent_goals": ["Get most of the garden for flowers"] * 2},
    "no conflict": {**GOOD, "disagreement": "nothing at all"},
    "a name": {**GOOD, "scenario": f"Ash {GOOD['scenario']}"},
}  # fmt: skip


@pytest.mark.parametrize("reason", BAD)
def test_what_is_no_task_is_refused_with_the_reason(reason: str) -> None:
    said = BAD[reason] if isinstance(BAD[reason], str) else json.dumps(BAD[reason])
    found = invent.task(said, frozenset({"ash"}))
    assert isinstance(found, Illegal) and found.reason == reason and found.told
    assert invent.task(f"Here: {json.dumps(GOOD)}") == GOOD


def test_contract() -> None:
    game = invent.Invention([{"prompt": f"p{n}", "source": "s"} for n in range(6)], [environment("e", 1)], ["Ann"])
    conformance.check(game, matches=16)


SCENES = (
    "Two neighbours share a garden and plan what to plant there in spring.",
    "At a busy station both travellers reach for the last ticket of the night train.",
    "It rains at the fair while everybody dances.",  # one of the records
    "Two neighbours share one garden and plan what to plant there next spring.",  # the first again
    "Cousins inherit an old boat, and one of them cannot swim.",
)


def talk(body: dict[str, Any]) -> dict[str, Any]:
    """Answers by the prompt's number: a scene of its own, a copy of the records, a copy of another, or junk."""
    number = int(body["messages"][1]["content"].rsplit("prompt", 1)[1])
    if number >= len(SCENES):
        return completion(body, "I would rather not.")
    scene = SCENES[number]
    task = {**GOOD, "scenario": scene, "disagreement": scene, "relationship": 5 if number == 4 else 3}
    return completion(body, json.dumps(task))


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(talk)
    yield found
    found.close()


def test_tasks_are_written_checked_and_stored_with_their_origin(tmp_path: Path, server: Server) -> None:
    records = write(tmp_path / "records")
    pairs = [(a, b, relation) for a, b in (("p0", "p1"), ("p1", "p2"), ("p0", "p2")) for relation in (3, 3, 1)]
    rows = [{"agent1_id": a, "agent2_id": b, "relationship": str(relation)} for a, b, relation in pairs]
    (records / "relationship_profiles.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt{n}\n" for n in range(7)))
    with initialize_config_module("parley.conf", version_base="1.3"):
        config = compose(
            "config",
            [
                "task=generate", f"task.prompts={prompts}", "game=social", f"game.path={records}",
                "opponents.writer.model=m", "+backend@opponents.writer.backend=openai",
                f"opponents.writer.backend.url={server.url}",
            ],
        )  # fmt: skip
    generate(config, tmp_path / "out", str(prompts), "writer", None, 2, 1, {"temperature": 0.0, "max_tokens": 99})
    out = tmp_path / "out/tasks"
    told = json.loads((out / "left_out.json").read_text())
    assert told == {
        "asked": 7, "kept": 2,
        "left out": {
            "no JSON": 2, "near-duplicate": 1, "like an earlier one": 1, "too few characters with this relationship": 1,
        },
    }  # fmt: skip
    made = [json.loads(line) for line in (out / "environment_profiles.jsonl").read_text().splitlines()]
    assert [row["scenario"] for row in made] == [SCENES[0], SCENES[1]]
    assert {row["inspiration"] for row in made} == {"prompt0", "prompt1"} and all(row["model"] for row in made)
    game = Social(str(records), generated=str(out), validation=0.0)
    assert {each.cluster for each in game.scenarios("train")} == {row["env_id"] for row in made}
    assert len(game.scenarios("train")) == 4 and {each.cluster[0] for each in game.scenarios("test")} == {"e"}


def test_prompts_of_every_layout(tmp_path: Path) -> None:
    for name, text, source in (
        ("a.csv", "model|source|pk|prompt\ngpt|normbank|1|sit by | fire\ngpt|normbank|2|sit by | fire\n", "normbank"),
        ("a.jsonl", '{"prompt": "sit by | fire", "source": "mine"}\n', "mine"), ("a.txt", "sit by | fire\n\n", ""),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert asked(tmp_path / name) == [{"prompt": "sit by | fire", "source": source}]
    (tmp_path / "b.txt").write_text("\n")
    with pytest.raises(InputError, match="holds no prompt"):
        asked(tmp_path / "b.txt")
