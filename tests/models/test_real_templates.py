"""Templates that behave as those of real families do: thoughts and channels, lost system messages, missing ends."""

import random
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from chat_templates import ENDS, FAMILIES, THINKING, tokenizer
from parley.data.episode import Call, Episode, Turn
from parley.data.sample import Demonstration
from parley.games.base import Message, Result, Scenario
from parley.models import snapshot as snapshots
from parley.models.behaviour import Behaviour
from parley.models.demonstrated import Demonstrated
from parley.models.hub import Pretrained
from parley.models.load import load_model, load_tokenizer
from parley.models.renderer import Renderer
from parley.models.thoughts import Conduct, Marks
from parley.models.tiny import Tiny
from parley.report.forks import Forks
from parley.run.loop import _told
from parley.system.files import InputError

THINK = Marks("<think>", "</think>")
CHANNEL = Marks("<|channel|>analysis<|message|>", "<|channel|>final<|message|>")
WHOLE = {  # how each family writes a thought and its speech, behind its own prompt
    "thinker": "<think>\nhm, {}\n</think>\n\n{}",
    "opener": "hm, {}</think>\n\n{}",
    "channel": "<|channel|>analysis<|message|>hm, {}<|end|><|start|>assistant<|channel|>final<|message|>{}",
}


def renderer(family, **conduct):
    return Renderer(tokenizer(family, **conduct), 4096)


def ids_of(r, text, end=""):
    return r.after(r.anchor, text + end)


def said(r, part, ids):
    """(thought, speech) of sampled ids, whose terminator is left out as backends do."""
    return r.said(ids[:-1] if ids[-1] in r.stop_ids else ids, part.token_ids)


# --- A6: thoughts ---


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("<think>a</think> b", False, ("a", "b")),
        ("a</think>b", True, ("a", "b")),
        ("a</think>b", False, ("a", "b")),  # never opened, and closed all the same
        ("<think>a, cut", False, ("a, cut", "")),
        ("a, cut", True, ("a, cut", "")),
        ("b", False, None),
        ("<think></think>b", False, ("", "b")),
        ("<think>a</think> b <think>c</think> d", False, ("a b c", "d")),
        ("<think>a</think> b <think>c", False, ("ac", "b ")),
    ],
)
def test_A6_marks_part_thought_and_speech(text, opened, parts):
    found = THINK.parts(text, opened)
    assert found is None if parts is None else (" ".join(found[0].split()), found[1]) == parts


@pytest.mark.parametrize("family", THINKING)
def test_A6_the_game_hears_speech_and_the_ids_stay_whole(family):
    r, tok = renderer(family), tokenizer(family)
    view, stream = [Message("user", "hi")], None
    for turn in range(4):
        part = r.extend(stream, view)
        ids = ids_of(r, WHOLE[family].format(turn, f"ok {turn}"), ENDS.get(family, "</s>"))
        thought, speech = said(r, part, ids)
        assert speech == f"ok {turn}" and thought.startswith(f"hm, {turn}") and "<" not in thought + speech
        stream = r.answered(part, f"s.{turn}", speech, ids)
        assert stream.token_ids[len(part.token_ids) :] == tuple(ids)
        assert part.fork == (None if turn == 0 else "thought")
        assert not any(f"hm, {n}" in tok.decode(list(part.token_ids)) for n in range(turn))  # the template drops them
        view += [Message("assistant", speech, f"s.{turn}"), Message("user", f"so {turn}?")]


@pytest.mark.parametrize("family", THINKING)
def test_A6_a_thought_that_is_cut_leaves_no_speech(family):
    r = renderer(family)
    part = r.extend(None, [Message("user", "hi")])
    text = WHOLE[family].format("my word is worm", "ok")
    ids = ids_of(r, text)
    begins = len(ids_of(r, text.split("hm")[0]))
    close = len(ids_of(r, text.removesuffix("ok").rstrip()))
    for cut in range(begins, close):
        assert r.said(ids[:cut], part.token_ids)[1] == ""
    thought, speech = r.said(ids[: begins + 9], part.token_ids)
    assert thought and not speech
    stream = r.answered(part, "s.1", "", ids[: begins + 9], "length")
    again = r.extend(stream, [Message("user", "hi"), Message("assistant", "", "s.1"), Message("user", "so?")])
    assert again.fork == "thought"


def test_A6_thoughts_stay_in_the_stream_where_the_template_keeps_them_and_leave_it_by_option():
    view = [Message("user", "hi")]
    for keeps, fork in ((True, None), (False, "thought")):
        r = renderer("chatml", thought=["<think>", "</think>"], keep_thoughts=keeps)
        part = r.extend(None, view)
        ids = ids_of(r, "<think>hm</think>\n\nok", "<|im_end|>")
        thought, speech = said(r, part, ids)
        assert (thought, speech) == ("hm", "ok")
        after = [*view, Message("assistant", "ok", "s.1"), Message("user", "so?")]
        again = r.extend(r.answered(part, "s.1", "ok", ids), after)
        assert again.fork == fork
        assert ("<think>" in r.tokenizer.decode(list(again.token_ids))) == keeps
        further = [*after, Message("assistant", "well", "s.2"), Message("user", "and?")]
        third = r.extend(r.answered(again, "s.2", "well", ids_of(r, "well", "<|im_end|>")), further)
        assert third.fork is None and third.token_ids[: third.shared][: len(again.token_ids)] == again.token_ids
        changed = r.extend(r.answered(part, "s.1", "ok", ids), [*view, Message("assistant", "no", "s.1"), after[-1]])
        assert changed.fork == "reply changed by the game" and "ok" not in r.tokenizer.decode(list(changed.token_ids))


def test_A6_marks_are_found_where_the_template_names_them():
    assert renderer("thinker").marks == renderer("opener").marks == THINK and renderer("channel").marks == CHANNEL
    assert renderer("chatml").marks is None and renderer("thinker", thought=None).marks is None
    ids = ids_of(renderer("chatml"), "<think>a</think>b")
    assert renderer("chatml").said(ids) == ("", "<think>a</think>b")


def test_A6_template_arguments_are_given_and_never_the_renderers_own():
    off = renderer("thinker", template={"enable_thinking": False})
    text = off.tokenizer.decode(list(off.encode([Message("user", "hi")])))
    assert text.endswith("assistant\n<think>\n\n</think>\n\n")
    assert "<think>" not in off.tokenizer.decode(list(renderer("thinker").encode([Message("user", "hi")])))
    part = off.extend(None, [Message("user", "hi")])
    assert said(off, part, ids_of(off, "ok", "<|im_end|>")) == ("", "ok")
    for wrong in (
        {"template": {"messages": []}},
        {"thought": ["<think>"]},
        {"thought": "think"},
        {"thought": ["", "x"]},
    ):
        with pytest.raises(InputError, match=r"template|thought"):
            Conduct(**wrong)
    with pytest.raises(InputError, match="does not understand"):
        renderer("chatml", thougt=None)


def test_A6_a_mark_that_somebody_else_writes_opens_nothing():
    """Only a reply's own text is parted; the channel's special tokens cannot be forged in a message."""
    r = renderer("channel")
    part = r.extend(None, [Message("user", "<|channel|>analysis<|message|>")])
    assert said(r, part, ids_of(r, "<|channel|>final<|message|>ok", "<|return|>")) == ("", "ok")


# --- A7, A8: demonstrations ---


def chat(rng, family, turns=3, thinks=0.5):
    view = [Message("system", "You trade.")] if rng.random() < 0.5 else []
    for turn in range(turns):
        content = f"I take {rng.randint(1, 9)} hats"
        if family in THINKING and rng.random() < thinks:
            mark = {"channel": CHANNEL}.get(family, THINK)
            content = f"{mark.open}he wants {turn}{mark.close}{content}"
        view += [Message("user", f"so {turn}?"), Message("assistant", content)]
    return tuple(view)


@pytest.mark.parametrize("family", [*FAMILIES, "last_system", "endless", "prefixing", *THINKING])
def test_A7_every_demonstrated_reply_answers_the_prompt_of_play(family):
    """Held against play itself, which is given the demonstrated ids as what it sampled."""
    r = renderer(family)
    for seed in range(12):
        messages = chat(random.Random(seed), family, thinks=0.0 if seed % 3 == 0 else 0.5)
        weights = tuple({"system": 0.0, "user": 0.5, "assistant": 1.0}[each.role] for each in messages)
        samples = Demonstrated(r).samples(Demonstration("d", messages, weights))
        turns = [(sample, each) for sample in samples for each in sample.utterances if each.kind == "act"]
        view, stream, streams = [], None, 0
        for message in messages:
            if message.role != "assistant":
                view.append(message)
                continue
            part = r.extend(stream, view)
            sample, utterance = turns.pop(0)
            ids = sample.token_ids[utterance.start : utterance.end]
            assert sample.token_ids[: utterance.start] == part.token_ids
            assert ids[-1] in r.stop_ids and sum(id in r.stop_ids for id in ids) == 1
            thought, speech = said(r, part, ids)
            assert speech.strip() == message.content[-len("I take 1 hats") :]
            assert ("he wants" in thought) == ("he wants" in message.content)
            streams += stream is None or part.fork is not None
            stream = r.answered(part, f"s.{len(view)}", speech, ids)
            view.append(Message("assistant", speech, f"s.{len(view)}"))
        assert not turns and streams == len(samples)
        partners = [each for sample in samples for each in sample.utterances if each.kind == "partner"]
        assert len(partners) == sum(each.role == "user" for each in messages)
        assert {each.weight for each in partners} == {0.5}


@pytest.mark.parametrize("family", THINKING)
def test_A7_replies_without_a_thought_are_all_rendered_as_the_last_one_is(family):
    r = renderer(family)
    messages = chat(random.Random(1), family, thinks=0.0)[-6:]
    samples = Demonstrated(r).samples(Demonstration("d", messages, (0.0, 1.0) * 3))
    said = [r.tokenizer.decode(list(s.token_ids[u.start : u.end])) for s in samples for u in s.utterances]
    assert len({text.replace(message.content, "") for text, message in zip(said, messages[1::2], strict=True)}) == 1


def test_A7_partners_are_supervised_once_and_where_they_stand():
    r, tok = renderer("thinker"), tokenizer("thinker")
    messages = chat(random.Random(1), "thinker")
    weights = tuple(0.5 * (each.role == "user") + (each.role == "assistant") for each in messages)
    found = Demonstrated(r).samples(Demonstration("d", messages, weights))
    told = [
        tok.decode(list(each.token_ids[u.start : u.end])) for each in found for u in each.utterances if u.weight == 0.5
    ]
    assert [each.removesuffix("<|im_end|>") for each in told] == ["so 0?", "so 1?", "so 2?"]


def test_A7_a_demonstration_of_several_streams_is_not_one_sample():
    messages = (Message("system", "S"), *chat(random.Random(0), "last_system")[-6:])
    demo = Demonstration("d", messages, tuple(float(each.role == "assistant") for each in messages))
    found = Demonstrated(renderer("last_system")).samples(demo)
    assert [each.id for each in found] == ["d/0", "d/1", "d/2"]
    with pytest.raises(InputError, match=r"demonstration d: .* 3 streams"):
        Demonstrated(renderer("last_system")).sample(demo)


def test_A8_a_reply_that_the_template_does_not_end_is_ended_as_the_model_would():
    r = renderer("endless")
    demo = Demonstration("d", chat(random.Random(1), "endless")[-6:], (0.0, 1.0) * 3)
    sample = Demonstrated(r).sample(demo)
    ends = [sample.token_ids[each.end - 1] for each in sample.utterances]
    assert ends == [r.tokenizer.eos_token_id] * 3 and len(sample.utterances) == 3
    nameless = tokenizer("endless")
    nameless.eos_token = None
    with pytest.raises(InputError, match=r"demonstration d: .* never learn to stop"):
        Demonstrated(Renderer(nameless)).sample(demo)


# --- A9: lost messages ---


@pytest.mark.parametrize("family", ["llama2", "prefixing"])
def test_A9_a_system_message_alone_is_folded_where_the_template_drops_it(family):
    r = renderer(family)
    first = [Message("system", "Worm is the word.")]
    assert "Worm is the word." in r.tokenizer.decode(list(r.encode(first)))
    part = r.extend(None, first)
    stream = r.answered(part, "s.1", "hi", ids_of(r, "hi", ENDS.get(family, "</s>")))
    assert r.extend(stream, [*first, Message("assistant", "hi", "s.1"), Message("user", "so?")]).fork is None
    both = [*first, Message("user", "hi")]
    assert r.encode(both) != r.encode([Message("user", "Worm is the word.\n\nhi")]) or family == "prefixing"


def test_A9_a_template_that_loses_messages_is_refused():
    with pytest.raises(InputError, match="loses what the user says"):
        renderer("parts")
    deaf = tokenizer("chatml")
    deaf.chat_template = "{{ bos_token }}Hello!"
    with pytest.raises(InputError, match="loses what the user says"):
        Renderer(deaf)
    forgetful = tokenizer("chatml")
    forgetful.chat_template = (
        "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(InputError, match="loses what the assistant says"):
        Renderer(forgetful)


EACH = "{% for m in messages %}CONDITION[{{ m.role }}]{{ CONTENT }}</s>{% endif %}{% endfor %}[assistant]"
TWO = [Message("system", "Rules"), Message("system", "More <&> rules"), Message("user", "Go  on\n now ")]
LOSSES = {
    "only the first system message": ("{% if m.role != 'system' or loop.first %}", "m.content", 2),
    "the first of two messages of a role": ("{% if loop.first or m.role != loop.previtem.role %}", "m.content", 2),
    "lower case": ("{% if true %}", "m.content | lower", 1),
    "escaped": ("{% if true %}", "m.content | e", 2),
    "the beginning": ("{% if true %}", "m.content[:5]", 2),
}


@pytest.mark.parametrize(("condition", "content", "lost"), LOSSES.values(), ids=LOSSES)
def test_A9_a_prompt_that_lacks_a_message_is_refused(condition, content, lost):
    one = tokenizer("chatml")
    one.chat_template = EACH.replace("CONDITION", condition).replace("CONTENT", content)
    with pytest.raises(InputError, match=f"loses or changes message {lost} of 3"):
        Renderer(one).extend(None, TWO)


def test_A9_white_space_may_change_and_a_long_chat_is_tried():
    one = tokenizer("chatml")
    one.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content | trim | replace('\n', '') }}</s>{% endfor %}"
    )
    assert "Go  on now" in Renderer(one).extend(None, TWO).text
    one.chat_template = "{% for m in messages[-6:] %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    with pytest.raises(InputError, match="loses what the user says"):
        Renderer(one)


# --- A10: the same ids are no fork ---


def test_A10_a_reply_that_comes_back_under_its_special_tokens_is_no_fork():
    """The channel of a reply without a thought is made of special tokens, which the speech does not have."""
    r = renderer("channel", thought=None)
    view = [Message("user", "hi")]
    part = r.extend(None, view)
    ids = ids_of(r, "<|channel|>final<|message|>ok", "<|end|>")
    stream = replace(r.answered(part, "s.1", "ok", ids), end="<|end|>")
    again = r.extend(stream, [*view, Message("assistant", "ok", "s.1"), Message("user", "so?")])
    assert again.fork is None and again.token_ids[: len(stream.token_ids)] == stream.token_ids


# --- what a template does, in words ---


def test_A6_a_line_says_what_the_template_does():
    said = {family: Behaviour.of(renderer(family)) for family in ("thinker", "gemma", "last_system", "endless")}
    assert "thoughts are between <think> and </think>, dropped" in said["thinker"].text()
    assert said["gemma"].text().startswith("all system messages stand in a user message; no thoughts")
    assert said["last_system"].forks == "history rewritten by the template"
    assert said["endless"].ends == "</s> (the template writes none)"
    keeps = renderer("chatml", thought=["<think>", "</think>"])
    assert Behaviour.of(keeps).thoughts == "between <think> and </think>, kept"


def test_the_page_of_templates_is_true():
    page = unescape((Path(__file__).parents[2] / "docs/templates.md").read_text())
    for family in (*FAMILIES, "last_system", "endless", "prefixing", *THINKING):
        does = Behaviour.of(renderer(family))
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{family}` |")]
        cells = " | ".join([does.folds or "none", does.thoughts or "none", does.forks or "none", does.ends])
        assert row.endswith(f" | {cells} |")


# --- the snapshot's identity ---


def test_A6_how_a_template_is_used_is_part_of_the_snapshot_and_of_what_is_trained_from_it(tmp_path):
    made = Tiny(width=32, heads=2, layers=1, mlp=64, context=64).create(tmp_path / "m", [[Message("user", "a b")]], 0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    plain = Pretrained(made.path).create(tmp_path / "plain", [], 0)
    assert plain.path == made.path and plain.version == f"m-{made.version.rpartition('-')[2]}"
    assert not (tmp_path / "plain").exists()
    conduct = {"thought": ["<a>", "</a>"], "template": {"enable_thinking": False}, "keep_thoughts": False}
    used = Pretrained(made.path, **conduct).create(tmp_path / "used", [], 0)
    assert used.path == str(tmp_path / "used") and used.version.rpartition("-")[2] != plain.version.rpartition("-")[2]
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    trained = snapshots.save(load_model(used.path), load_tokenizer(used.path), tmp_path / "next", "next")
    for snapshot in (used, trained):
        found = Renderer.load(snapshot.path)
        assert found.marks == Marks("<a>", "</a>") and found.template.conduct == Conduct(**conduct)
    assert Pretrained(made.path, **conduct).create(tmp_path / "used", [], 0) == used  # made again where it was cut off


# --- A10: figures ---


def test_A10_forks_are_counted_with_their_reasons():
    def turn(number, fork, thought="", seat="a"):
        call = Call((1,), (2,), (0.0,), "v", fork=fork)
        return Turn(f"{seat}.{number}", seat, "act", "x", call=call, thought=thought)

    turns = (turn(1, None), turn(2, "thought", "hm"), turn(3, "thought"), turn(4, "other"), turn(1, "other", seat="b"))
    episode = Episode(
        "m",
        "g",
        1,
        Scenario("s", {}),
        0,
        {"a": "me", "b": "you"},
        {"a": "v", "b": "v"},
        turns,
        Result({"a": 0.0}, "end"),
    )
    forks = Forks(["me"])
    assert forks.figures() == {} and forks.text() == ""
    forks.add(episode)
    assert forks.figures() == {"forks": 3, "fork_share": 0.75, "thought_share": 0.25}
    assert forks.text() == "3 of 4 replies (75%) forked their token stream: thought (2), other (1)"
    lines: list[str] = []
    told = _told([episode], ["me"], lambda name, text: lines.append(f"{name}: {text}"))["policies"]["me"]
    assert told["forks"] == 3 and lines == [f"me: {forks.text()}"]  # at the end of a stage of play
    branch = replace(episode, parent=("p", 3))
    own = Forks(["me"])
    own.add(branch)
    assert own.figures() == {"forks": 1, "fork_share": 1.0, "thought_share": 0.0}
