"""Chat formats: round trips, what the readers of other tools demand, and errors that name the line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from parley.data.episode import Episode, Turn
from parley.data.formats import lm_selfplay, messages, openai_chat, spin_rows
from parley.games.base import Message, Result, Scenario


@pytest.fixture
def episode() -> Episode:
    """The first seat was refused once and made a deal; the second said nothing legal and is to blame."""
    turns = (
        Turn("a.1", "a", "act", "junk"),
        Turn("a.2", "a", "retry", "[message] hi"),
        Turn("b.1", "b", "act", "more junk"),
    )
    result = Result({"a": 1.0, "b": 0.0}, "abort", {"b": "fault"}, blame=("b",))
    return Episode("m7", "deal", 1, Scenario("s3", {}), 5, {"a": "learner", "b": "cautious"}, {}, turns, result)


VIEW_A = (
    Message("system", "you are a — é 日本"),
    Message("assistant", "junk", "a.1"),
    Message("user", "error: resend"),
    Message("assistant", "[message] hi", "a.2"),
    Message("user", "the match is over"),
)
VIEW_B = (Message("system", "you are b"), Message("user", "[message] hi"), Message("assistant", "more junk", "b.1"))


def test_a_log_says_where_it_comes_from_and_which_replies_were_refused(episode):
    first, second = messages.log(episode, "a", VIEW_A), messages.log(episode, "b", VIEW_B)
    assert first.meta == {
        "game": "deal", "scenario": "s3", "role": "a", "player": "learner", "outcome": "abort", "match": "m7",
        "payoff": 1.0,
    }  # fmt: skip

    assert second.meta["outcome"] == "fault" and second.meta["player"] == "cautious"
    assert first.rejected == (1,) and second.rejected == (2,)
    assert first.demonstration().weights == (0.0, 0.0, 0.0, 1.0, 0.0)
    assert first.demonstration().id == "m7/a" and first.demonstration("x").id == "x"


def test_messages_come_back_as_they_were_written(episode, tmp_path):
    path = tmp_path / "deep" / "logs.jsonl"
    logs = [messages.log(episode, "a", VIEW_A), messages.log(episode, "b", VIEW_B)]
    assert messages.write(path, logs) == 2
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 and "é 日本" in lines[0]
    assert json.loads(lines[1]) == {
        "messages": [
            {"role": "system", "content": "you are b"},
            {"role": "user", "content": "[message] hi"},
            {"role": "assistant", "content": "more junk"},
        ],
        "meta": {
            "game": "deal", "scenario": "s3", "role": "b", "player": "cautious", "outcome": "fault", "match": "m7",
            "payoff": 0.0,
            "rejected": [2],
        },
    }  # fmt: skip
    back = list(messages.read(path))
    assert [log.meta for log in back] == [log.meta for log in logs] and [log.rejected for log in back] == [(1,), (2,)]
    assert [[(m.role, m.content) for m in log.messages] for log in back] == [
        [(m.role, m.content) for m in log.messages] for log in logs
    ]


def test_chats_of_other_origin_need_no_meta(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text(
        '{"messages":[{"role":"user","content":"q","name":"x"},{"role":"assistant","content":"a"}],"id":3}\n\n'
    )
    (log,) = messages.read(path)
    assert log == messages.Log((Message("user", "q"), Message("assistant", "a")), {"id": 3})
    assert log.demonstration("chats:1").weights == (0.0, 1.0)


GOOD = '{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"messages":[{"role":"us', "line 3"),
        ("[1]", 'expected an object with "messages", got list'),
        ('{"prompt":"q"}', '"messages" must be a list'),
        ('{"messages":[]}', '"messages" must be a list of at least one'),
        ('{"messages":["q"]}', "message 0 is str"),
        (
            '{"messages":[{"role":"human","content":"q"}]}',
            "message 0 has the role 'human', expected one of system, user, assistant",
        ),
        (
            '{"messages":[{"role":"user","content":[{"type":"text"}]}]}',
            "message 0 has content of type list, expected text",
        ),
        ('{"messages":[{"role":["user"],"content":"q"}]}', "has the role"),
        ('{"messages":[{"role":"user","content":"q"}],"meta":3}', '"meta" must be an object'),
        ('{"messages":[{"role":"user","content":"q"}],"meta":{"role":3}}', "meta.role is 3, expected text"),
        ('{"messages":[{"role":"user","content":"q"}],"meta":{"payoff":"7"}}', "meta.payoff is '7', expected a number"),
        (
            '{"messages":[{"role":"user","content":"q"}],"meta":{"rejected":[0]}}',
            "expected positions of assistant messages",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, reason):
    path = tmp_path / "chats.jsonl"
    path.write_text(GOOD * 2 + line + "\n" + GOOD)
    reader = messages.read(path)
    assert len([next(reader), next(reader)]) == 2  # what comes before is read
    with pytest.raises(ValueError, match="line 3") as caught:
        next(reader)
    assert reason in str(caught.value)


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ValueError, match=r"chats\.jsonl, line 1"):
        list(messages.read(path))


def test_a_failed_write_leaves_the_old_file(episode, tmp_path):
    path = tmp_path / "logs.jsonl"
    messages.write(path, [messages.log(episode, "a", VIEW_A)])
    before = path.read_bytes()

    def broken():
        yield messages.log(episode, "b", VIEW_B)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        messages.write(path, broken())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_openai_lines_end_with_the_assistant_and_never_train_a_refused_reply(episode, tmp_path):
    path = tmp_path / "train.jsonl"
    assert openai_chat.write(path, [messages.log(episode, "a", VIEW_A), messages.log(episode, "b", VIEW_B)]) == 1
    (line,) = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "messages": [
            {"role": "system", "content": "you are a — é 日本"},
            {"role": "assistant", "content": "junk", "weight": 0},
            {"role": "user", "content": "error: resend"},
            {"role": "assistant", "content": "[message] hi"},
        ]
    }


def test_an_openai_line_ends_with_the_last_accepted_reply():
    said = (
        Message("user", "q"),
        Message("assistant", "fine"),
        Message("user", "q2"),
        Message("assistant", "junk"),
        Message("user", "x"),
    )
    line = openai_chat.line(messages.Log(said, rejected=(3,)))
    assert line is not None and [message.get("weight") for message in line["messages"]] == [None, None]
    assert openai_chat.line(messages.Log((Message("user", "q"),))) is None


RESULT = {
    "counts": {"book": 1, "hat": 3, "ball": 1},
    "p0_values": {"book": 4, "hat": 1, "ball": 3},
    "p1_values": {"book": 1, "hat": 3, "ball": 0},
    "p0_allocation": {"book": 1, "hat": 0, "ball": 1},
    "p1_allocation": {"book": 0, "hat": 3, "ball": 0},
    "p0_score": 7,
    "p1_score": 9,
    "message_count": 4,
    "token_count": 61,
    "is_valid_deal": True,
}
CHAT = [
    {"role": "system", "content": "rules"},
    {"role": "assistant", "content": "[message] I want the book"},
    {"role": "user", "content": "[message] sure", "time": 3.5},
    {"role": "assistant", "content": "[propose] (1 books, 0 hats, 1 balls)"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, result in {
        "000": RESULT,
        "001": {**RESULT, "p1_allocation": None, "p0_score": 0, "p1_score": 0, "is_valid_deal": False},
        "003": {
            **RESULT,
            "p1_allocation": RESULT["p0_allocation"],
            "p0_score": 0,
            "p1_score": 0,
            "is_valid_deal": False,
        },
        "002": {
            **RESULT,
            "p0_allocation": None,
            "p1_allocation": None,
            "p0_score": 0,
            "p1_score": 0,
            "is_valid_deal": False,
        },
    }.items():
        (tmp_path / "results").mkdir(exist_ok=True)
        (tmp_path / "json_logs").mkdir(exist_ok=True)
        (tmp_path / "results" / f"{name}.json").write_text(json.dumps(result))
        for player in (0, 1):
            chat = CHAT if name != "002" else [*CHAT[:3], {"role": "assistant", "content": "[ABORT]"}]
            (tmp_path / "json_logs" / f"{name}_p{player}.json").write_text(json.dumps(chat))
    return tmp_path


def test_B16_lm_selfplay_logs_become_records(folder):
    first, second, third, fourth = lm_selfplay.read(folder)
    assert (first.name, first.counts, first.values) == ("000", (1, 3, 1), ((4, 1, 3), (1, 3, 0)))
    assert (first.allocations, first.scores, first.token_count) == (((1, 0, 1), (0, 3, 0)), (7, 9), 61)
    assert first.chats[0][1] == Message("assistant", "[message] I want the book")
    outcomes = [record.outcome for record in (first, second, third, fourth)]
    assert outcomes == ["deal", "unfinished", "abort", "mismatch"]  # B: the second was capped after one proposal
    assert second.allocations == ((1, 0, 1), None)
    log = first.log(1)
    assert log.meta == {
        "game": "deal", "scenario": "1,3,1/4,1,3/1,3,0", "role": "p1", "outcome": "deal", "match": "000", "payoff": 9.0,
        "agreement_rate": 1.0, "messages": 4.0, "tokens": 61.0,
    }  # fmt: skip
    assert log.rejected == ()
    assert third.log(0).rejected == (3,) and third.log(0).demonstration().weights == (0.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"counts": {"books": 1, "hat": 1, "ball": 1}}, "counts is"),
        ({"p0_values": {"book": 1.5, "hat": 1, "ball": 1}}, "p0_values is"),
        ({"p0_allocation": [1, 2, 3]}, "p0_allocation is"),
        ({"p0_score": "7"}, "p0_score is '7', expected int"),
        ({"p1_score": True}, "p1_score is True, expected int"),
        ({"is_valid_deal": 1}, "is_valid_deal is 1, expected bool"),
    ],
)
def test_a_wrong_result_of_lm_selfplay_is_named(folder, change, reason):
    (folder / "results" / "001.json").write_text(json.dumps({**RESULT, **change}))
    with pytest.raises(ValueError, match=r"results/001\.json") as caught:
        list(lm_selfplay.read(folder))
    assert reason in str(caught.value)


def test_missing_or_broken_logs_of_lm_selfplay_are_named(folder, tmp_path):
    (folder / "json_logs" / "001_p1.json").write_text('[{"role": "tool", "content": "x"}]')
    with pytest.raises(ValueError, match=r"001_p1\.json: message 0 has the role 'tool'"):
        list(lm_selfplay.read(folder))
    (folder / "json_logs" / "001_p1.json").write_text("[")
    with pytest.raises(ValueError, match=r"001_p1\.json: not JSON"):
        list(lm_selfplay.read(folder))
    (folder / "json_logs" / "001_p1.json").unlink()
    with pytest.raises(ValueError, match=r"001_p1\.json: missing"):
        list(lm_selfplay.read(folder))
    with pytest.raises(ValueError, match="expected a folder of lm-selfplay logs"):
        list(lm_selfplay.read(tmp_path / "elsewhere"))


# --- SPIN's rows -----------------------------------------------------------------------------------------------------

ROW = {
    "real": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello, é"}],
    "generated": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}],
}


def test_published_rows_of_spin_come_back_as_they_were(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, "prompt_id": 7}) + "\n")
    rows = list(spin_rows.read(path))
    assert rows[0] == rows[1] and rows[0].real[1].content == "hello, é"
    assert spin_rows.write(tmp_path / "again.jsonl", rows) == 2
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == [ROW, ROW]


def test_rows_are_made_of_matches_with_a_known_reply(episode):
    def match(number, text, **data):
        turns = (Turn("writer.1", "writer", "act", text),) if text is not None else ()
        result = Result({"writer": 0.0}, "finished")
        return Episode(f"m{number}", "prompts", 1, Scenario("s", data), 0, {"writer": "learner"}, {}, turns, result)

    prompt = [{"role": "system", "content": "short"}, {"role": "user", "content": "hi"}]
    made = list(
        spin_rows.rows(
            [match(0, "oh", messages=prompt, reply="hello"), episode, match(1, None, messages=prompt, reply="x")]
        )
    )
    asked = (Message("system", "short"), Message("user", "hi"))
    assert made == [spin_rows.Row((*asked, Message("assistant", "hello")), (*asked, Message("assistant", "oh")))]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"generated": [{"role": "user", "content": "ho"}, {"role": "assistant", "content": ""}]},
            "must be the same prompt",
        ),
        ({"real": [{"role": "user", "content": "hi"}, {"role": "user", "content": "x"}]}, "must be the same prompt"),
        ({"real": []}, "must be a list of at least one"),
    ],
)
def test_a_row_that_is_no_pair_is_named(change, why, tmp_path):
    (tmp_path / "f").write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, **change}) + "\n")
    with pytest.raises(ValueError, match=f"line 2: .*{why}"):
        list(spin_rows.read(tmp_path / "f"))
