import io
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from random import Random

import pytest
from parley.credit import logs
from parley.data.episode import streams
from parley.data.replay import replay
from parley.games.base import Message, Options, Request, Scenario
from parley.models.renderer import Renderer
from parley.play.arena import Arena
from parley.play.pairing import both_seatings, branches, self_play
from parley.play.player import Completion, Prompt, Sampling
from parley.play.players import LanguagePlayer, ScriptedPlayer, ServedPlayer, Switchboard
from parley.play.terminal import HumanPlayer
from parley.system.printing import printable
from rich.console import Console
from tables import Bids, Late
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from parlour import Debate

GAME = Bids()


def prompt(request="ann.1", match="m", seat="ann", text="Round 0: bid.", **fields):
    return Prompt(f"{match}/{request}", f"{match}/{seat}", (Message("user", text),), **{"seed": 1, **fields})


# --- scripts ---


def test_a_script_gets_the_request_its_own_chance_and_its_personas():
    seen: list[tuple[Request, float, float]] = []

    def script(request, own, persona):
        seen.append((request, own.random(), persona.random()))
        return request.id

    player = ScriptedPlayer(script, "s")
    asked = prompt(kind="retry", options=Options(("\n",), 3), observation={"n": 1})
    player.submit([asked, prompt("ann.2", seed=2), prompt("ann.1", match="other"), prompt("bob.1", seat="bob")])
    answers = player.poll()
    assert [(done.id, done.text, done.finish, done.policy) for done in answers[:2]] == [
        ("m/ann.1", "ann.1", "stop", "s"),
        ("m/ann.2", "ann.2", "stop", "s"),
    ]
    assert seen[0][0] == Request("ann.1", "ann", asked.messages, "retry", Options(("\n",), 3), {"n": 1})
    assert seen[0][1] == Random(1).random() != seen[1][1]  # the reply's own
    assert seen[0][2] == seen[1][2]  # one persona through a stream
    assert len({persona for _, _, persona in seen}) == 3  # another in every match and seat
    other = ScriptedPlayer(script, "s", seed=9)
    other.submit([asked])
    other.poll()
    assert seen[-1][1] == seen[0][1] and seen[-1][2] != seen[0][2]
    player.submit([asked])
    player.cancel(["m/ann.1", "unknown"])
    assert player.poll() == []


# --- people ---


@pytest.fixture
def person():
    read, write = os.pipe()
    screen = io.StringIO()
    with os.fdopen(read, "rb") as source:
        yield HumanPlayer(source=source, console=Console(file=screen, width=200)), write, screen
    with suppress(OSError):  # the test may have closed it
        os.close(write)


def test_a_person_sees_what_is_new_and_answers_line_by_line(person):
    player, write, screen = person
    first = prompt(text="Hello.")
    player.submit([first])
    assert player.poll() == player.poll(0.01) == []
    assert screen.getvalue().count("Hello.") == 1
    os.write(write, "sieben \u00fc\r\nnext".encode())
    assert player.poll() == [Completion("m/ann.1", "sieben \u00fc", policy="human")]
    messages = (
        *first.messages,
        Message("assistant", "sieben \u00fc", "ann.1"),
        Message("user", "Bob took [bold]two[/bold]."),
    )
    player.submit([replace(prompt("ann.2"), messages=messages)])
    assert player.poll() == []  # half a line is no answer
    os.write(write, b" one\n")
    assert player.poll() == [Completion("m/ann.2", "next one", policy="human")]
    assert screen.getvalue().count("Hello.") == 1
    assert "Bob took [bold]two[/bold]." in screen.getvalue()
    assert "sieben" not in screen.getvalue()  # the terminal echoed it as it was typed


def test_lines_typed_ahead_answer_one_question_each(person):
    player, write, _ = person
    os.write(write, b"1\n2\n3\n")
    for number in (1, 2, 3):
        player.submit([prompt(f"ann.{number}")])
        assert [done.text for done in player.poll()] == [str(number)]


def test_end_of_input_loses_the_player_for_good(person):
    player, write, _ = person
    player.submit([prompt("ann.1"), prompt("bob.1", seat="bob")])
    os.write(write, b"half a li")
    os.close(write)
    gone = player.poll()
    player.submit([prompt("ann.2")])
    gone += player.poll()
    assert [(done.id, done.finish, done.text) for done in gone] == [
        (f"m/{request}", "error", "the person left (end of input)") for request in ("ann.1", "bob.1", "ann.2")
    ]


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C: a shell that starts us in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_at_the_persons_turn_loses_the_player(person, ctrl_c):
    player, _, _ = person
    player.submit([prompt()])
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    start, done = time.monotonic(), []
    while not done and time.monotonic() < start + 60:
        done = player.poll(5.0)
    assert done == [Completion("m/ann.1", "the person left (Ctrl-C)", "error", policy="human")]


def test_a_model_cannot_write_to_the_terminals_state(person):
    player, _, screen = person
    player.submit([prompt(text="a\x1b[2Jb\x07\x9b1mc\u202ed\nnext \N{GRINNING FACE}")])
    player.poll()
    assert "\x1b" not in screen.getvalue() and "\u202e" not in screen.getvalue()
    assert printable("a\x1b[2Jb\n\tü") == "a\N{REPLACEMENT CHARACTER}[2Jb\n\tü"


# --- language models ---

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <end>\n{% endfor %}{% if add_generation_prompt "
    "%}<assistant> {% endif %}"
)
FORGETFUL = TEMPLATE.replace("{{ m.content }}", "{{ 'x ' if m.role == 'assistant' else '' }}{{ m.content }}")
ROLES = ["<system>", "<user>", "<assistant>", "<end>"]
WORDS = [
    "<unk>",
    *ROLES,
    *["You", "are", "ann", "bob", "Round", "bid", "Who", "won", "Say", "a", "number", ".", ":", "?", "x"],
    *map(str, range(60)),
]


def renderer(context=None, template=TEMPLATE):
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="<end>")
    tokenizer.add_special_tokens({"extra_special_tokens": ROLES})
    tokenizer.chat_template = template
    return Renderer(tokenizer, context)


class Dice:
    """A backend that samples words by the prompt's seed, `width` prompts at a time."""

    busy = True

    def __init__(self, width=5, ids=True):
        self.width, self.ids = width, ids
        self.open: dict[str, Prompt] = {}
        self.seen: dict[str, Prompt] = {}
        self.steps = 0

    def submit(self, prompts: Sequence[Prompt]) -> None:
        for one in prompts:
            assert one.token_ids is not None and one.id not in self.open
            self.open[one.id] = self.seen[one.id] = one

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        self.steps += 1
        return [self.answer(self.open.pop(name)) for name in list(self.open)[: self.width]]

    def answer(self, asked: Prompt) -> Completion:
        chance = Random(f"{asked.seed} {asked.policy}")
        words = [str(chance.randrange(60)) for _ in range(min(chance.randint(1, 4), asked.sampling.max_tokens))]
        ids, finish = tuple(WORDS.index(word) for word in words), "length"
        if len(ids) < asked.sampling.max_tokens:
            ids, finish = (*ids, WORDS.index("<end>")), "stop"
        logprobs = tuple(-chance.random() for _ in ids)
        return Completion(
            asked.id, " ".join(words), finish, ids if self.ids else None, logprobs if self.ids else None, asked.policy
        )

    def cancel(self, ids: Sequence[str]) -> None:
        for one in ids:
            self.open.pop(one)

    def close(self) -> None:
        raise AssertionError("a player must leave its backend open")


def play(players, seatings, **options):
    episodes = []
    report = Arena(GAME, players, **options).play(seatings, episodes.append)
    return report, sorted(episodes, key=lambda episode: episode.id)


def test_every_call_records_what_the_backend_saw_and_sampled():
    backend = Dice()
    player = LanguagePlayer(backend, renderer(), "v3", Sampling(0.7, max_tokens=6), "me")
    report, episodes = play({"me": player}, self_play(GAME, GAME.scenarios(), "me", 3, "p", 4), in_flight=11)
    assert len(episodes) == 48 and player.forks == {}
    assert player._streams == {} and player._asked == {}
    spans = 0
    for episode in episodes:
        assert set(episode.policies.values()) <= {"v3", ""}
        assert replay(GAME, episode).result == episode.result
        for seat in GAME.roles:
            for stream in streams(episode, seat):
                for request, (start, end) in stream.spans.items():
                    asked = backend.seen[f"{episode.id}/{request}"]
                    done = backend.answer(asked)
                    assert stream.token_ids[:start] == asked.token_ids
                    assert stream.token_ids[start:end] == done.token_ids
                    spans += 1
            assert sum(len(stream.spans) for stream in streams(episode, seat)) == sum(
                turn.seat == seat for turn in episode.turns
            )
            assert len(streams(episode, seat)) <= 1
        for turn in episode.turns:
            assert turn.call is not None and turn.call.policy == "v3"
            assert turn.call.sampling["temperature"] == 0.7
            asked_for = 3 if turn.kind in ("act", "retry") and turn.call.sampling["max_tokens"] == 3 else 6
            assert turn.call.sampling["max_tokens"] == asked_for  # the smaller of the request's limit and the player's
    assert spans == report.turns > 100
    assert report.tokens == sum(len(turn.call.sampled_ids) for episode in episodes for turn in episode.turns)


def test_neither_batches_nor_order_change_what_is_sampled():
    def run(width, in_flight):
        player = LanguagePlayer(Dice(width), renderer(), "v3", Sampling(max_tokens=6), "me")
        return play({"me": player}, self_play(GAME, GAME.scenarios(), "me", 3, "p"), in_flight=in_flight)[1]

    assert run(1, 1) == run(3, 4) == run(100, 100)


@pytest.mark.parametrize("template", [TEMPLATE, FORGETFUL], ids=["growing", "forgetful"])
def test_a_branch_goes_on_from_the_parents_own_ids(template):
    """Byte for byte, though the sampled ids are not what encoding their text would give."""

    class Odd(Dice):
        def answer(self, asked):
            done = super().answer(asked)
            return replace(done, text=f"{done.text} strange")

    def player():
        return LanguagePlayer(Odd(), renderer(template=template), "v3", Sampling(max_tokens=6), "me")

    _, parents = play({"me": player()}, self_play(GAME, GAME.scenarios(), "me", 3, "p"))
    compared = 0
    for parent in parents:
        before = {request: call for request, call in seen(parent).items()}
        for cut in range(1, len(parent.turns)):
            me = player()
            _, found = play({"me": me}, branches(parent, cut, dict.fromkeys(GAME.roles, "me"), 7, "b", 4))
            assert me._streams == {} and len({str(each.turns) for each in found}) == 4
            for each in found:
                assert each.turns[:cut] == parent.turns[:cut] and replay(GAME, each).result == each.result
                first = each.own[0]  # asked the same as the parent was
                assert seen(each)[first.request][0] == before[first.request][0]
                assert me.backend.seen[f"{each.id}/{first.request}"].token_ids == before[first.request][0]
                trained = {request for seat in GAME.roles for stream in streams(each, seat) for request in stream.spans}
                assert trained == {turn.request for turn in each.own}
                compared += 1
        reopened = replace(next(iter(self_play(GAME, [parent.scenario], "me", 3, "p"))), prefix=parent.turns[:2])
        assert play({"me": player()}, [reopened])[1] == [parent]
    assert compared > 50


def test_a_probe_leaves_the_stream_where_it_was():
    """What was asked aside stands in no later view, so later turns extend what came before it."""
    game, player = Debate(), LanguagePlayer(Dice(), renderer(), "v3", Sampling(max_tokens=6), "me")
    served = {"me": player, "judge": ScriptedPlayer(game.judge, "judge")}
    episodes = []
    Arena(game, served).play(self_play(game, game.scenarios("test"), "me", 3, "p"), episodes.append)
    assert len(episodes) == 24 and player.forks == {} and player._streams == {}
    for episode in episodes:
        assert replay(game, episode).result == episode.result
        for seat in game.roles:
            view = replay(game, episode).views[seat]
            aside, talk = streams(episode, seat)
            assert [len(each.spans) for each in (talk, aside)] == [2, 1]
            assert [each.request for each in view if each.role == "assistant"] == list(talk.spans)
            (probe,) = aside.spans
            (log,) = [each for each in logs([episode], "me") if each.seat == seat]
            assert log.replies() == list(talk.spans) and probe in log.replies(probes=True)
            assert [len(each.utterances) for each in log.samples(dict.fromkeys(log.replies(), (1.0, 1.0)))] == [2]
        assert {log.seat for log in logs([episode])} == {"pro", "con"}  # nobody learns from the judge
    cut = next(number for number, turn in enumerate(episode.turns) if turn.kind == "probe") + 2
    again = []
    seatings = branches(episode, cut, dict(episode.players), 7, "b")
    Arena(game, served).play(seatings, again.append)
    assert again[0].own[0].call.shared == episode.turns[cut].call.shared and player.forks == {}


def seen(episode):
    """Request -> (what the model saw, what it sampled), by following the parents of each call."""
    found = {}
    for turn in episode.turns:
        history = sum(found[turn.call.parent], ()) if turn.call.parent else ()
        found[turn.request] = history[: turn.call.shared] + turn.call.prompt_ids, turn.call.sampled_ids
    return found


def test_a_prefix_in_other_tokens_or_without_any_is_rendered_anew():
    me = LanguagePlayer(Dice(), renderer(), "v3", Sampling(max_tokens=6), "me")
    _, parents = play({"me": me}, self_play(GAME, GAME.scenarios(), "me", 3, "p"))
    parent = next(each for each in parents if each.scenario.data["rounds"] == 2)

    def other(turn):  # as a model with one more word in front has it
        call = turn.call
        return replace(turn, call=replace(call, prompt_ids=tuple(id + 1 for id in call.prompt_ids)))

    for change in (other, lambda turn: replace(turn, call=None)):
        told = replace(parent, turns=tuple(map(change, parent.turns)))
        _, [branch] = play({"me": me}, branches(told, 2, dict.fromkeys(GAME.roles, "me"), 7, "b"))
        first = branch.own[0]
        asked = replay(GAME, branch).requests[2]
        assert first.call.parent is None and first.call.prompt_ids == renderer().encode(asked.messages)


def test_a_template_that_rewrites_history_forks_and_is_counted():
    player = LanguagePlayer(Dice(), renderer(template=FORGETFUL), "v3", Sampling(max_tokens=6), "me")
    _, episodes = play({"me": player}, self_play(GAME, [Scenario("s", {"rounds": 2})], "me", 3, "p"))
    forks = [turn.call.fork for turn in episodes[0].turns if turn.call.fork]
    assert sum(player.forks.values()) == len(forks) > 0
    backend = player.backend
    for seat in GAME.roles:
        for stream in streams(episodes[0], seat):
            for request, (start, _) in stream.spans.items():
                assert stream.token_ids[:start] == backend.seen[f"p/s/0/{request}"].token_ids


@pytest.mark.parametrize("make", [LanguagePlayer, ServedPlayer])
@pytest.mark.parametrize(("own", "games", "length"), [(6, 256, 6), (6, 3, 3), (300, 256, 256), (6, None, 6)])
def test_A20_a_reply_has_the_smaller_of_the_games_limit_and_the_players(make, own, games, length):
    """A layout that asks for 256 tokens raised the limit of whoever wanted fewer."""
    backend, sampling = Dice(), Sampling(max_tokens=own)
    rendering = (renderer(),) if make is LanguagePlayer else ()
    asked = prompt(text="Who won ?", options=Options(max_tokens=games))
    backend.submit = lambda prompts: backend.seen.update((each.id, each) for each in prompts)
    make(backend, *rendering, "v3", sampling, "me").submit([asked])
    assert backend.seen[asked.id].sampling.max_tokens == length


def test_a_view_that_fills_the_context_is_not_asked():
    render = renderer()
    length = len(render.encode(prompt(text="Who won ?").messages))
    for context, expected in ((length, "context"), (length + 1, "length"), (length + 50, "stop")):
        backend = Dice()
        player = LanguagePlayer(backend, renderer(context), "v3", Sampling(max_tokens=6), "me")
        player.submit([prompt(text="Who won ?")])
        assert player.busy
        (done,) = player.poll(5.0)
        assert done.finish == expected
        assert (done.call is None) == (expected == "context") == (not backend.seen)
        if expected == "length":
            assert backend.seen["m/ann.1"].sampling.max_tokens == 1 and len(done.token_ids) == 1
        assert not player.busy


def test_a_match_ends_with_the_outcome_context_when_its_view_no_longer_fits():
    scenario = Scenario("s", {"rounds": 2})
    full = LanguagePlayer(Dice(), renderer(), "v3", Sampling(max_tokens=6), "me")
    _, (whole,) = play({"me": full}, self_play(GAME, [scenario], "me", 3, "p"))
    last = whole.turns[-1]
    context = len(full.backend.seen[f"p/s/0/{last.request}"].token_ids)
    small = LanguagePlayer(Dice(), renderer(context), "v3", Sampling(max_tokens=6), "me")
    _, (cut,) = play({"me": small}, self_play(GAME, [scenario], "me", 3, "p"))
    assert cut.result.outcome == "context" and cut.result.blame == (cut.turns[-1].seat,)
    assert (cut.turns[-1].finish, cut.turns[-1].call, cut.turns[-1].text) == ("context", None, "")


def test_a_backend_without_ids_plays_but_leaves_nothing_to_train_on():
    player = LanguagePlayer(Dice(ids=False), renderer(), "v3", Sampling(max_tokens=6), "me")
    report, episodes = play({"me": player}, self_play(GAME, GAME.scenarios(), "me", 3, "p"))
    assert report.matches == 12
    assert all(turn.call is None for episode in episodes for turn in episode.turns)
    assert player.forks == {}


def test_the_wrong_policy_or_a_strangers_answer_is_an_error():
    class Stale(Dice):
        def answer(self, asked):
            return replace(super().answer(asked), policy="v2")

    player = LanguagePlayer(Stale(), renderer(), "v3", Sampling(), "me")
    player.submit([prompt()])
    with pytest.raises(RuntimeError, match="answered by policy 'v2'; me asked 'v3'"):
        player.poll()
    shared = Dice()
    first, second = (LanguagePlayer(shared, renderer(), "v3", Sampling(), name) for name in ("one", "two"))
    first.submit([prompt()])
    second.submit([prompt("bob.1", seat="bob")])
    with pytest.raises(RuntimeError, match="share it by a Switchboard"):
        first.poll()


def test_one_backend_serves_several_players_as_if_each_had_its_own():
    def run(new, old):
        players = {
            "new": LanguagePlayer(new, renderer(), "v3", Sampling(max_tokens=6), "new"),
            "old": LanguagePlayer(old, renderer(), "v0", Sampling(max_tokens=3), "old"),
        }
        episodes = play(players, both_seatings(GAME, GAME.scenarios(), "new", "old", 3, "e"), in_flight=8)[1]
        for player in players.values():
            player.close()
        return episodes

    backend = Dice(3)
    board = Switchboard(backend)
    together = run(board.line(), board.line())
    assert together == run(Dice(2), Dice(50))
    assert {policy for episode in together for policy in episode.policies.values()} - {""} == {"v0", "v3"}
    assert not backend.open


def test_cancelling_reaches_the_backend_and_only_what_is_open():
    backend = Dice(1)
    board = Switchboard(backend)
    one, two = (LanguagePlayer(board.line(), renderer(), "v3", Sampling(), name) for name in ("one", "two"))
    one.submit([prompt("ann.1"), prompt("ann.2")])
    two.submit([prompt("bob.1", seat="bob")])
    assert two.poll() == []  # the backend's step answered ann.1, which waits for its own player
    one.cancel(["m/ann.1", "m/ann.2", "m/ann.9"])
    assert list(backend.open) == ["m/bob.1"]
    assert one.poll() == []
    two.close()
    assert not backend.open
    with pytest.raises(RuntimeError, match="not an open prompt"):
        backend.poll = lambda wait_s=0.0: [Completion("m/ann.1", "late")]
        board.poll(0.0)


@pytest.mark.parametrize("shared", [False, True])
def test_a_backend_that_remembers_hears_of_every_stream_that_is_over(shared):
    class Keeping(Dice):
        def __init__(self) -> None:
            super().__init__()
            self.forgotten: list[str] = []

        def forget(self, streams: Sequence[str]) -> None:
            self.forgotten.extend(streams)

    backend = Keeping()
    player = LanguagePlayer(
        Switchboard(backend).line() if shared else backend, renderer(), "v3", Sampling(max_tokens=6), "me"
    )
    _, episodes = play({"me": player}, self_play(GAME, GAME.scenarios(), "me", 3, "p"), in_flight=4)
    assert sorted(backend.forgotten) == sorted(f"{episode.id}/{seat}" for episode in episodes for seat in GAME.roles)


def test_an_error_passes_through_with_its_reason():
    class Dead(Dice):
        def answer(self, asked):
            return Completion(asked.id, "out of memory", "error")

    player = LanguagePlayer(Dead(), renderer(), "v3", Sampling(), "me")
    player.submit([prompt()])
    (done,) = player.poll()
    assert (done.finish, done.text, done.call) == ("error", "out of memory", None)


def test_a_script_a_model_and_a_slow_guest_sit_at_one_table():
    players = {
        "script": ScriptedPlayer(GAME.scripts()["random"], "random"),
        "model": LanguagePlayer(Dice(), renderer(), "v3", Sampling(max_tokens=6), "model"),
        "guest": Late(1),
    }
    seatings = [
        s
        for a, b in (("script", "model"), ("model", "guest"))
        for s in both_seatings(GAME, GAME.scenarios(), a, b, 3, f"{a}-{b}")
    ]
    report, episodes = play(players, seatings, in_flight=10)
    assert report.matches == len(seatings) == 48
    assert all(replay(GAME, episode).result == episode.result for episode in episodes)
    for episode in episodes:
        for turn in episode.turns:
            assert (turn.call is not None) == (episode.players[turn.seat] == "model")
