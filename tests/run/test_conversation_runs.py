"""Conversations of others end in a run: imitated, as pairs, through credit into a learner or a service; and out
again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from parley.cli.tasks import exporting, training
from parley.data.formats import conversations, messages, openai_chat
from parley.data.store import EpisodeStore, Matches
from parley.run.build import build
from parley.run.config import ConfigError
from parley.run.lessons import chats
from parley.system.files import write_json

from openai_server import KEY, Server

TINY = [
    "model.width=32", "model.layers=1", "model.mlp=64", "imitate.matches=0", "imitate.validation=0", "learner.epochs=1",
    "learner.batch_utterances=8", "imitate.learner.batch_utterances=8",
]  # fmt: skip


def config(*words: str) -> Any:
    with initialize_config_module("parley.conf", version_base="1.3"):
        return compose("config", [*TINY, *words])


def stage(out: Path, name: str) -> Any:
    return json.loads((out / name / "stage.json").read_text())["outputs"]


def rows(path: Path, made: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def chat(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]


@pytest.mark.parametrize("row", [
    {"messages": chat("a b", "c d"), "meta": {"game": "taboo", "outcome": "success"}},
    {"conversations": [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c d"}], "outcome": "success"},
    {"prompt": "a b", "completion": "c d", "outcome": "success"},
])  # fmt: skip
def test_playpen_sharegpt_and_trl_rows_are_imitated_with_any_game(tmp_path, row):
    file = rows(tmp_path / "rows.jsonl", [row] * 8 + [{"messages": chat("a b", "bad")}])
    training.imitate(
        config("data=conversations", f"data.path={file}", "data.where={outcome: success}"), tmp_path / "out"
    )
    assert stage(tmp_path / "out", "iter_000/start")["learn"]["utterances"] == 8


def test_spins_rows_are_pairs_for_offline_learning(tmp_path):
    pairs = [
        {"real": chat("a b", text), "generated": chat("a b", other)}
        for text, other in [("c", "d"), ("d", "c"), ("c", "")]
    ]
    words = [
        "task=offline",
        "experiment=spin_tiny",
        "data=conversations",
        f"data.path={rows(tmp_path / 'rows.jsonl', pairs)}",
    ]
    with pytest.warns(UserWarning, match="1 of 3 rows are left out"):
        training.offline(config(*words), tmp_path / "out")
    learned = stage(tmp_path / "out", "iter_001/learn")["learner"]["learn"]
    assert learned["utterances"] == 4 and "rewards/margins" in learned


PAYOFFS = [(7, 9), (0, 0), (5, 2), (8, 8)]


def lm_selfplay(folder: Path, payoffs: list[tuple[int, int]]) -> Path:
    items = {"book": 1, "hat": 1, "ball": 1}
    for number, scores in enumerate(payoffs):
        result = {"counts": items, "p0_values": items, "p1_values": items, "p0_score": scores[0], "p1_score": scores[1]}
        result |= {"message_count": 4, "token_count": 9, "is_valid_deal": any(scores)}
        write_json(folder / f"results/{number:03d}.json", result)
        for seat in (0, 1):
            said = [{"role": "system", "content": "rules"}, *chat("begin", f"[message] {number} {seat}")]
            write_json(folder / f"json_logs/{number:03d}_p{seat}.json", said)
    return folder


def test_a_folder_of_lm_selfplay_goes_through_keep_into_learning(tmp_path):
    folder = lm_selfplay(tmp_path / "logs", PAYOFFS)
    words = ["data=conversations", f"data.path={folder}", "objective=filtered_bc", "objective.credit.keep=above_avg"]
    training.learn(config(*words), tmp_path / "out", None)
    done = stage(tmp_path / "out", "iter_001/learn")["learner"]
    assert done["credit"] == {"logs": 8, "kept": 5} and done["learn"]["utterances"] == 5  # above 39 / 8
    training.learn(config(*words, "objective.credit.keep=all"), tmp_path / "all", None)
    assert stage(tmp_path / "all", "iter_001/learn")["learner"]["credit"] == {"logs": 8, "kept": 8}


def test_kept_logs_are_sent_to_a_service_and_others_are_not(tmp_path, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("SERVER_KEY", KEY)
    folder, server = lm_selfplay(tmp_path / "logs", PAYOFFS), Server()
    words = [
        "task=offline",
        "experiment=deal_hosted",
        "data=conversations",
        f"data.path={folder}",
        "imitate.first=false",
    ]
    words += [
        f"learner.url={server.url}",
        "learner.key_env=SERVER_KEY",
        "learner.poll_s=0.01",
        f"backend.url={server.url}",
    ]
    with initialize_config_module("parley.conf", version_base="1.3"):
        training.offline(compose("config", [*words, "backend.key_env=SERVER_KEY"]), tmp_path / "out")
    server.close()
    ((_, sent),) = server.files.values()
    kept = {json.loads(line)["messages"][-1]["content"] for line in sent.splitlines()}
    assert kept == {f"[message] {text}" for text in ("0 0", "0 1", "2 0", "3 0", "3 1")}


def test_data_that_does_not_suit_the_objective_is_told(tmp_path):
    file = rows(tmp_path / "rows.jsonl", [{"messages": chat("a b", "c d")}])
    with pytest.raises(ConfigError, match="is no pair"):
        training.offline(
            config("task=offline", "experiment=spin_tiny", "data=conversations", f"data.path={file}"), tmp_path / "out"
        )


# --- A16: export -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run with one round against a script."""
    out = tmp_path_factory.mktemp("run") / "run"
    with initialize_config_module("parley.conf", version_base="1.3"):
        made = compose("config", [
            *TINY[:3], "imitate.matches=80", "imitate.validation=4", "players=alternating", "players.opponent=fair",
                "objective.credit.keep=all",
            "play.scenarios=12", "play.group=2",
        ])  # fmt: skip
    training.play(made, out, None)
    return out, made


def test_A16_export_writes_what_credit_keeps_and_a_hosted_learner_sends(played, tmp_path):
    run, made = played
    exporting.export(made, tmp_path, str(run), "credit", None)
    parts, matches = build(made, run), Matches(run / "iter_001/play")
    table = parts.policies["learner"].recipe(1).credit(matches, "learner").table
    sent = [
        openai_chat.line(messages.Log(demo.messages, rejected=tuple(
            at for at, each in enumerate(demo.messages) if each.role == "assistant" and not demo.weights[at]
        )))
        for demo in chats(parts.game, matches, table)
    ]  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "openai.jsonl").read_text().splitlines()]
    assert lines == sent and 0 < len(lines) == sum(verdict.kept for verdict in table) < 48
    again = [log.demonstration().weights for _, log in conversations.read(tmp_path / "messages.jsonl")]
    assert again == [demo.weights for demo in chats(parts.game, matches, table)]


@pytest.mark.parametrize("objective", ["grpo", "dpo", "spag"])
def test_A16_a_credit_that_keeps_bad_replies_is_refused_for_foreign_logs(objective, tmp_path):
    words = ["task=offline", "data=conversations", f"data.path={lm_selfplay(tmp_path / 'logs', PAYOFFS)}"]
    with pytest.raises(ConfigError, match="say objective=filtered_bc"):
        build(config(*words, f"objective={objective}"), tmp_path)


def test_A16_all_logs_are_those_of_the_learner_never_of_an_opponent(played, tmp_path):
    run, made = played
    exporting.export(made, tmp_path, str(run), "all", None)
    logs = [log for _, log in conversations.read(tmp_path / "messages.jsonl")]
    episodes = list(EpisodeStore(run / "iter_001/play", shard=None).read())
    assert len(logs) == len(episodes) == 48 and {log.meta["player"] for log in logs} == {"learner"}
