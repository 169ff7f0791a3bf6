"""Conversations of others: each layout is read as what it is, options do what they say, errors name file and row."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from parley.credit import FilteredBC
from parley.data.formats import spag
from parley.data.formats.conversations import read
from parley.data.sample import Demonstration, Sample, Utterance
from parley.data.sources.conversations import Conversations
from parley.data.sources.spag import SpagFile
from parley.games.base import Message
from parley.games.prompts import Tales
from parley.games.taboo import Taboo
from parley.system.files import InputError

GAME: Any = Tales()
Q, A, B = Message("user", "q"), Message("assistant", "a"), Message("assistant", "b")
SYSTEM = Message("system", "s")


def told(*messages: Message) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one(path: Path, row: Any, form: Any = "auto") -> Any:
    ((name, log),) = read(written(path, row), form)
    assert name == f"{path.stem}/000001"
    return log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


LAYOUTS = [
    ({"messages": told(Q, A)}, (Q, A), ()),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, *told(A)]}, (Q, A), ()),
    ({"prompt": "q", "completion": "a"}, (Q, A), ()),
    ({"prompt": told(SYSTEM, Q), "completion": told(A)}, (SYSTEM, Q, A), ()),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, (Q, A), (Q, B)),
    ({"prompt": "q", "chosen": told(A), "rejected": told(B)}, (Q, A), (Q, B)),
    ({"prompt": told(Q), "chosen": told(Q, A), "rejected": told(Q, B)}, (Q, A), (Q, B)),
    ({"chosen": told(Q, A, Q, A), "rejected": told(Q, B, Q, B)}, (Q, A), (Q, B)),
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
     (SYSTEM, Q, A), ()),
    ({"real": told(Q, A), "generated": told(Q, B)}, (Q, A), (Q, B)),
    ({"messages": told(Q, A), "prompt": "q", "chosen": told(Q, A), "rejected": told(Q, B)}, (Q, A), (Q, B)),
    ({"messages": told(Q), "chosen": "a", "rejected": "b"}, (Q, A), (Q, B)),
    ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b", "system": "s"}, (SYSTEM, Q, A), (SYSTEM, Q, B)),
    ({"prompt": "q", "chosen": "a", "rejected": "b", "system": "s"}, (SYSTEM, Q, A), (SYSTEM, Q, B)),
    ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
      "rejected": {"from": "gpt", "value": "b"}}, (Q, A), (Q, B)),
    ({"instruction": "q", "input": "", "output": "a", "system": "s", "history": [["q", "b"]]},
     (SYSTEM, Q, B, Q, A), ()),
    ({"messages": None, "conversations": None, "prompt": "q", "completion": "a", "chosen": None}, (Q, A), ()),
]  # fmt: skip


@pytest.mark.parametrize(("row", "messages", "generated"), LAYOUTS)
def test_each_layout_is_known_by_its_keys_and_keeps_what_else_it_says(path, row, messages, generated):
    log = one(path, {**row, "source": "x", "n": 3, "nothing": None})
    assert (log.messages, log.generated) == (messages, generated)
    assert log.meta == {"source": "x", "n": 3, "nothing": None}


def test_a_row_of_playpen_keeps_its_meta_and_needs_no_outcome(path):
    meta = {"game": "taboo", "experiment": 4, "outcome": None, "model": ["x"]}
    assert one(path, {"messages": told(Q, A), "meta": meta}, "playpen").meta == meta


def test_replies_of_weight_0_and_rejected_ones_are_not_imitated(path):
    rows = [
        {"messages": [*told(Q), {"role": "assistant", "content": "b", "weight": 0}, *told(Q, A)]},
        {"messages": told(Q, B, Q, A), "meta": {"rejected": [1]}},
    ]
    for demo in Conversations(str(written(path, *rows))).demonstrations(GAME, "train"):
        assert demo.weights == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("row", "weights"),
    [
        ({"prompt": told(Q, B, Q), "completion": told(A)}, (0, 0, 0, 1)),
        ({"prompt": told(Q, B, Q), "completion": told(A, Q, A)}, (0, 0, 0, 1, 0, 1)),
        ({"prompt": told(Q, B, Q), "chosen": told(A), "rejected": told(B)}, (0, 0, 0, 1)),
        ({"chosen": told(Q, B, Q, A), "rejected": told(Q, B, Q, B)}, (0, 0, 0, 1)),
        ({"real": told(Q, B, Q, A), "generated": told(Q, B, Q, B)}, (0, 0, 0, 1)),
        ({"conversations": [
            {"from": "human", "value": "q"}, {"from": "gpt", "value": "b", "weight": 0},
            {"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 1},
        ]}, (0, 0, 0, 1)),
        ({"messages": told(Q, A), "meta": {"rejected": None}}, (0, 1)),
    ],
)  # fmt: skip
def test_A16_replies_of_a_prompt_are_context(path, row, weights):
    (demo,) = Conversations(str(written(path, row))).demonstrations(GAME, "train")
    assert demo.weights == weights


def test_A13_rows_of_two_files_stay_apart(tmp_path):
    """Two files may have one name but for the ending, and runs have the same match ids."""
    for file, said in (("a.json", "x"), ("a.jsonl", "y"), ("b.jsonl", "z")):
        row = {"messages": told(Q, Message("assistant", said)), "meta": {"match": "m", "role": "seat", "payoff": 1}}
        written(tmp_path / file, row)
    assert [name for name, _ in read(tmp_path)] == ["a.json/000001", "a.jsonl/000001", "b/000001"]
    matches = list(Conversations(str(tmp_path)).matches("learner"))
    assert [[turn.text for turn in each.turns] for each, _ in matches] == [["x"], ["y"], ["z"]]
    assert len({each.id for each, _ in matches}) == 3 and all(list(views) == ["seat"] for _, views in matches)


def test_A16_an_exports_folder_is_not_read_several_times_over(tmp_path):
    written(tmp_path / "messages.jsonl", {"messages": told(Q, A)})
    written(tmp_path / "completions.jsonl", {"prompt": told(Q), "completion": told(A)})
    with pytest.raises(InputError, match=r"several layouts: name one of completions\.jsonl, messages\.jsonl"):
        list(read(tmp_path))


def test_a_list_and_a_folder_are_read_by_name(tmp_path):
    (tmp_path / "b.json").write_text(json.dumps([{"messages": told(Q, A)}] * 2, indent=1))
    written(tmp_path / "a.jsonl", {"messages": told(Q, B)})
    (tmp_path / "notes.txt").write_text("no rows")
    assert [name for name, _ in read(tmp_path)] == ["a/000001", "b/000001", "b/000002"]


def test_rows_pass_one_at_a_time(path):
    with path.open("w") as file:
        file.writelines(
            json.dumps({"messages": told(Q, Message("assistant", "x" * 2000))}) + "\n" for _ in range(10_000)
        )
    tracemalloc.start()
    try:
        assert sum(1 for _ in read(path)) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000  # the file has 20 MB
    finally:
        tracemalloc.stop()


def test_where_speaker_partner_weight_and_merge(path):
    rows = [
        {"messages": told(SYSTEM, Q, Q, A), "meta": {"outcome": outcome, "game": game}}
        for outcome, game in (("success", "a"), ("success", "b"), ("failure", "a"), (None, "a"))
    ]
    rows.append({"messages": told(Q, A)})
    file = str(written(path, *rows))

    def demos(**options: Any) -> list[Demonstration]:
        return list(Conversations(file, **options).demonstrations(GAME, "train"))

    assert [demo.id[-1] for demo in demos(where={"outcome": "success"})] == ["1", "2"]
    assert [demo.id[-1] for demo in demos(where={"outcome": ["success", "failure"], "game": "a"})] == ["1", "3"]
    assert demos(partner_weight=0.5)[0].weights == (0, 0.5, 0.5, 1)
    assert demos(merge=True)[0].messages == (SYSTEM, Message("user", "q\n\nq"), A)
    (user, *_), weights = demos(speaker="user"), (0, 1, 1, 0)
    assert user.weights == weights and [message.role for message in user.messages][1:] == ["assistant"] * 2 + ["user"]
    assert demos(where={"outcome": "success"})[1].meta == {"outcome": "success", "game": "b"}
    with pytest.raises(InputError, match=r"none of 5 rows is as data\.where says: \{'outcom': 'success'\}"):
        demos(where={"outcom": "success"})


def test_what_is_held_out_is_whole_scenarios(path):
    rows = [{"messages": told(Q, A), "meta": {"scenario": f"s{number % 40}"}} for number in range(400)]
    source = Conversations(str(written(path, *rows)), validation=0.25)
    train, held = (
        {demo.meta["scenario"] for demo in source.demonstrations(GAME, split)} for split in ("train", "validation")
    )
    assert len(train) + len(held) == 40 and not train & held and 3 < len(held) < 20
    assert list(source.demonstrations(GAME, "test")) == []


def tokens(demo: Demonstration) -> Sample:
    """A letter is a token."""
    ids, utterances = [], []
    for message, weight in zip(demo.messages, demo.weights, strict=True):
        start = len(ids)
        ids += [*map(ord, message.content), 0]
        utterances += [Utterance(start, len(ids), weight=weight)] if weight > 0 else []
    return Sample(demo.id, tuple(ids), tuple(utterances))


def test_pairs_become_two_samples_each_and_empty_or_equal_ones_are_counted(path):
    pairs = [(A, B), (A, A), (A, Message("assistant", " ")), (B, A)]
    file = written(path, *({"real": told(Q, real), "generated": told(Q, other)} for real, other in pairs))
    with pytest.warns(UserWarning, match="2 of 4 rows are left out"):
        samples = Conversations(str(file)).samples(tokens)
    assert [(each.group, each.utterances[0].side, chr(each.token_ids[2])) for each in samples] == [
        ("rows/000001", 1, "a"), ("rows/000001", -1, "b"), ("rows/000004", 1, "b"), ("rows/000004", -1, "a"),
    ]  # fmt: skip
    numbers = [each.utterances[0].pair for each in samples]
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3]
    with pytest.raises(InputError, match="row rows/000001 is no pair"):
        Conversations(str(written(path, {"messages": told(Q, A)}))).samples(tokens)


@pytest.mark.parametrize("row", [
    {"instruction": "q", "input": "q", "chosen": "a", "rejected": "b"},  # as task=export writes right_wrong.json
    {"prompt": told(Q, Q), "chosen": told(A), "rejected": told(B)},
])  # fmt: skip
def test_A13_both_sides_of_a_pair_have_the_rows_whole_prompt(path, row):
    one, other = Conversations(str(written(path, row)), merge=True).samples(tokens)
    asked = ("q\n\nq" if "prompt" in row else "q\nq") + "\0"
    assert one.token_ids == (*map(ord, asked + "a"), 0) and other.token_ids == (*map(ord, asked + "b"), 0)
    with pytest.raises(InputError, match=r"data\.speaker=user: pairs"):
        Conversations(str(path), speaker="user").samples(tokens)


def test_credit_keeps_imported_logs_by_payoff_or_by_any_number_in_meta(path):
    payoffs, skill = [0, 4, 10, 6], [3, 0, 0, 0]
    rows = [
        {
            "messages": told(Q, A),
            "meta": {"match": f"m{at // 2}", "role": f"p{at % 2}", "payoff": payoff, "skill": number},
        }
        for at, (payoff, number) in enumerate(zip(payoffs, skill, strict=True))
    ]
    matches = list(Conversations(str(written(path, *rows))).matches("learner"))
    assert [sorted(views) for _, views in matches] == [["p0", "p1"], ["p0", "p1"]]

    def kept(credit: FilteredBC) -> list[tuple[str, str]]:
        table = credit([episode for episode, _ in matches], "learner").table
        return [(verdict.match, verdict.seat) for verdict in table if verdict.replies]

    first, second = (episode.id for episode, _ in matches)
    assert kept(FilteredBC()) == [(second, "p0"), (second, "p1")]  # above 5
    assert kept(FilteredBC("nonzero")) == [(first, "p1"), (second, "p0"), (second, "p1")]
    assert kept(FilteredBC(score="skill")) == [(first, "p0")]
    written(path, {"messages": told(Q, A)})
    matches = list(Conversations(str(path)).matches("learner"))
    assert len(kept(FilteredBC("all"))) == 1
    with pytest.raises(InputError, match="has a payoff"):
        kept(FilteredBC())


# --- A13 -----------------------------------------------------------------------------------------------------------


def test_A13_weights_of_spags_rows_are_kept_in_imitation(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"query": "q", "target": "a", "weight": 0.25}, {"query": "q", "target": "b"}]))
    weights = [demo.weights for demo in SpagFile(str(file)).demonstrations(GAME, "train")]
    assert weights == [(0.0, 0.25), (0.0, 1.0)]
    assert [sample.utterances[0].weight for sample in SpagFile(str(file)).samples(tokens)] == [0.25, 1.0]


@pytest.mark.parametrize("row", [
    {"instruction": "Name a color.", "input": "", "output": ""}, {"query": "q", "target": " "},
])  # fmt: skip
def test_A13_an_empty_answer_is_skipped_and_counted_on_both_routes(tmp_path, row):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([row, {"query": "q", "target": "a"}]))
    source = SpagFile(str(file))
    with pytest.warns(UserWarning, match=r"rows\.json: 1 of 2 rows are left out \(an empty answer\)"):
        assert [demo.messages[1].content for demo in source.demonstrations(GAME, "train")] == ["a"]
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        assert len(source.samples(tokens)) == 1
    file.write_text(json.dumps([row]))
    with pytest.raises(InputError, match="every answer is empty"):
        spag.read_rows(file)


def test_A13_empty_utterances_of_episodes_are_not_trained_on(tmp_path):
    said = ["cue", "go on", " ", "I know the word! It is wrong"]
    history = [{"role": ("attacker", "defender")[at % 2], "content": text} for at, text in enumerate(said)]
    file = tmp_path / "episodes.json"
    file.write_text(json.dumps([{"history": history, "target_word": "apple", "max_turns": 5}]))
    source, game = SpagFile(str(file)), Taboo()
    assert [chr(sample.token_ids[sample.utterances[0].start]) for sample in source.samples(tokens)] == ["c"]
    imitated = [
        message.content
        for demo in source.demonstrations(game, "train")
        for message, weight in zip(demo.messages, demo.weights, strict=True)
        if weight
    ]
    assert imitated == ["cue"]


# --- what is no row --------------------------------------------------------------------------------------------------

GOOD = json.dumps({"messages": told(Q, A)}).encode()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b'{"messages": [', "line 2: Expecting value"),
        (b"[" * 100_000, "line 2: nested too deeply"),
        (b'{"messages": [{"role": "user", "content": "\xe9"}]}', "line 2: not UTF-8 .byte 0xe9"),
        (b'{"a": "\0"}', "line 2: holds a NUL byte"),
        (b"3", "line 2: expected an object, got int"),
        (b"{}", "line 2: unknown layout: none of the keys messages, conversations"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "line 2: holds half of a surrogate pair"),
        (b'{"chosen": "a"}', "line 2: lacks the key 'rejected'"),
        (
            b'{"question": "q", "chosen": "a", "rejected": "b"}',
            "line 2: chosen and rejected are texts, and the row has no",
        ),
        (b'{"completion": "a"}', "line 2: lacks the key 'prompt'"),
        (b'{"instruction": "q", "output": "a", "history": [["q"]]}', "line 2: history must be a list of pairs"),
        (
            b'{"messages": [{"role": "assistant", "content": "a", "weight": 0.5}]}',
            "line 2: message 0 has the weight 0.5",
        ),
        (
            b'{"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}',
            "line 2: message 0 calls a tool",
        ),
        (b'{"conversations": [3]}', 'line 2: "conversations" must be a list'),
        (b'{"conversations": [{"from": "tool", "value": "x"}]}', "line 2: message 0 has the role 'tool'"),
        (b'{"real": [{"role": "user", "content": "q"}], "generated": 3}', 'line 2: "messages" must be a list'),
    ],
)
def test_B12_a_bad_row_is_named_with_file_line_and_reason(path, bad, why):
    path.write_bytes(GOOD + b"\n" + bad + b"\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl, {why}"):
        list(read(path))


def test_B12_byte_order_marks_are_read_and_other_encodings_are_named(path):
    path.write_bytes(b"\xef\xbb\xbf" + GOOD)
    assert len(list(read(path))) == 1
    path.write_bytes(GOOD.decode().encode("utf-16"))
    with pytest.raises(InputError, match="line 1: UTF-16, expected UTF-8"):
        list(read(path))
    path.write_bytes(b"\n \n")
    with pytest.raises(InputError, match="empty, expected one row"):
        list(read(path))


def test_B12_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for device in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            list(read(device))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Conversations("nowhere")
