"""A small folder of Sotopia's records, and episodes of the game played by what each seat is to write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from parley.games.base import Game, Reply, Request, Result, Scenario
from parley.games.social.actions import Action

PEOPLE = ("Ann Ash", "Bob Birch", "Cid Cedar")
RUBRIC = {
    "task": "Judge.",
    "overall": True,
    "scales": {"goal": {"low": 0, "high": 10, "says": "reached"}, "secret": {"low": -10, "high": 0, "says": "kept"}},
}


def person(number: int) -> dict[str, object]:
    first, last = PEOPLE[number].split()
    return {
        "agent_id": f"p{number}", "first_name": first, "last_name": last, "age": str(30 + number),
        "occupation": "Baker", "gender": "Woman", "gender_pronoun": "She/her",
        "public_info": f"{first} has {number + 2} cats.",
        "personality_and_values": f"{first} is merry {number}.", "secret": f"{first} stole {number + 3} cakes",
    }  # fmt: skip


def environment(name: str, relationship: int, people: int = 2) -> dict[str, object]:
    goals = [
        f"Win the prize {number} of {name} (<extra_info>Extra: it is big</extra_info>)" for number in range(people)
    ]
    return {
        "env_id": name, "codename": name, "scenario": f'A fair in {name}. <p viewer="environment">It rains.</p>',
        "agent_goals": goals, "relationship": str(relationship), "age_constraint": "[(18, 70), (18, 70)]",
    }  # fmt: skip


def write(folder: Path, environments: Sequence[Mapping[str, object]] | None = None) -> Path:
    """Records of environments e0 to e29, two pairs each, of all six relationships."""
    rows = environments or [environment(f"e{number}", number % 6) for number in range(30)]
    pairs = [
        {
            "combo_id": f"{row['env_id']}-{n}",
            "env_id": row["env_id"],
            "agent_ids": (["p0", "p1", "p2"] * 2)[n:][: len(row["agent_goals"])],
        }  # type: ignore[arg-type]
        for row in rows
        for n in range(2)
    ]
    tables = {
        "agent_profiles": [person(number) for number in range(3)],
        "environment_profiles": rows,
        "env_agent_combo_storages": pairs,
    }
    folder.mkdir(exist_ok=True)
    for name, found in tables.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return folder


def say(text: str) -> str:
    return Action("speak", text).written()


def play(game: Game, scenario: Scenario, *texts: str | Reply, seed: int = 0) -> tuple[Result | None, list[Request]]:
    """Answers one request after the other; a Reply is sent with its own finish. No result: the match waits for more."""
    match, asked = game.match(scenario, seed), list[Request]()
    waiting = list(match.start())
    replies: list[Reply] = []
    for text in texts:
        assert waiting, f"the match was over before {text!r}"
        asked.append(waiting.pop(0))
        reply = text if isinstance(text, Reply) else Reply("", text)
        replies.append(Reply(asked[-1].id, reply.text, reply.finish))
        if not waiting:
            waiting, replies = list(match.step(replies)), []
    return (None, [*asked, *waiting]) if waiting or replies else (match.result(), asked)
