"""Many servers as one backend: replies are those of an engine in this process, streams stay where their prefix is, a
lost server loses no match, and no reply of another version is ever taken."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from parley.backends.hf import HFBackend
from parley.data.episode import Episode
from parley.games.deal import Deal
from parley.models import snapshot
from parley.models.adapter import Adapter, LoRA
from parley.models.load import load_policy, load_tokenizer
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.models.tiny import Tiny
from parley.play.arena import Arena
from parley.play.pairing import self_play
from parley.play.player import Completion, Prompt, Sampling
from parley.play.players import LanguagePlayer
from parley.system.files import InputError

pytest.importorskip("openai")
from parley.backends.servers import VLLMServers, addresses

from vllm_server import FakeVLLM

GAME = Deal(max_actions=6, prompt="compact")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    chats = [each for scenario in GAME.scenarios("train")[:50] for each in _texts(scenario)]
    folder = tmp_path_factory.mktemp("models") / "base"
    return Tiny(width=32, heads=2, layers=1, mlp=64, context=256).create(folder, chats, 0)


def _texts(scenario: Any) -> Iterator[Any]:
    """What both seats are told, and a few words to say."""
    from parley.games.base import Message

    for request in GAME.match(scenario, 0).start():
        yield [*request.messages, Message("assistant", "[message] i want the book [propose] 0 1 2 3 4")]


def adapter(base: Snapshot, folder: Path, number: int) -> Snapshot:
    """An adapter that is not the identity."""
    policy = load_policy(LoRA(r=4).create(base, folder / f"fresh{number}", number), trainable=True)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    return snapshot.save(Adapter.of(policy), load_tokenizer(base.path), folder / f"a{number}", f"a{number}", base.path)


@pytest.fixture(scope="module")
def made(base: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return adapter(base, tmp_path_factory.mktemp("adapters"), 1)


@contextmanager
def serving(base: Snapshot, count: int, **given: Any) -> Iterator[tuple[list[FakeVLLM], VLLMServers]]:
    servers = [FakeVLLM(base.path) for _ in range(count)]
    backend = VLLMServers(urls=[each.url for each in servers], **{"backoff_s": 0.01, **given})
    try:
        yield servers, backend
    finally:
        backend.close()
        for each in servers:
            each.close()


def prompts(n: int, policy: str, **settings: Any) -> list[Prompt]:
    rng, sampling = random.Random(n), Sampling(max_tokens=6, **settings)
    return [
        Prompt(f"m{at}/s.1", f"m{at}/s", (), rng.getrandbits(62), policy=policy, sampling=sampling,
               token_ids=tuple(rng.randrange(7, 30) for _ in range(rng.randint(3, 20))))
        for at in range(n)
    ]  # fmt: skip


def answers(backend: Any, asked: list[Prompt]) -> dict[str, Completion]:
    backend.submit(asked)
    found: dict[str, Completion] = {}
    while len(found) < len(asked):
        found |= {each.id: each for each in backend.poll(0.2)}
    return found


def here(made: Snapshot, asked: list[Prompt]) -> dict[str, Completion]:
    backend = HFBackend()
    backend.load(made)
    return answers(backend, asked)


@pytest.mark.parametrize("sampling", [{}, {"top_k": 5, "temperature": 0.7}, {"top_p": 0.8}, {"temperature": 0.0}])
def test_replies_are_those_of_an_engine_here(base: Snapshot, made: Snapshot, sampling: dict[str, Any]) -> None:
    with serving(base, 2) as (servers, backend):
        for each in (base, made):
            backend.load(each)
            asked = prompts(8, each.version, **sampling)
            found, expected = answers(backend, asked), here(each, asked)
            for name, reply in expected.items():
                got = found[name]
                assert (got.token_ids, got.text, got.finish) == (reply.token_ids, reply.text, reply.finish)
                assert got.logprobs == pytest.approx(reply.logprobs, abs=1e-5) and got.policy == each.version
        assert all(len(each.prompts) == 8 for each in servers)  # dealt evenly


def played(backend: Any, made: Snapshot, matches: int, after: Any = None) -> list[Episode]:
    backend.load(made)
    player = LanguagePlayer(backend, Renderer.load(made.base or made.path), made.version, Sampling(max_tokens=8), "l")
    episodes: list[Episode] = []

    def sink(episode: Episode) -> None:
        episodes.append(episode)
        if after is not None:
            after(len(episodes))

    seatings = self_play(GAME, GAME.scenarios("train")[:matches], "l", 0, "play")
    Arena(GAME, {"l": player}, in_flight=16).play(seatings, sink)
    return episodes


def ids(episodes: list[Episode]) -> dict[str, Any]:
    return {each.id: [turn.call.sampled_ids for turn in each.turns if turn.call] for each in episodes}


def test_a_server_lost_in_the_middle_loses_no_match_and_doubles_none(base: Snapshot, made: Snapshot) -> None:
    with serving(base, 2) as (servers, backend):

        def lose(done: int) -> None:
            if done == 10:
                servers[0].faults += ["half", "500"] * 10_000

        episodes = played(backend, made, 40, lose)
    expected = ids(played(HFBackend(), made, 40))
    assert len(episodes) == 40 and ids(episodes) == expected
    assert backend.moved > 0


def test_an_answer_of_another_version_is_none(base: Snapshot, made: Snapshot) -> None:
    with serving(base, 2) as (servers, backend):
        backend.load(made)
        servers[0].stale = True
        asked = prompts(12, made.version)
        found = answers(backend, asked)
        assert {name: each.token_ids for name, each in found.items()} == {
            name: each.token_ids for name, each in here(made, asked).items()
        }
        assert Counter(name for name, _ in servers[0].prompts)["base"] > 0  # it did answer, as the base
    with serving(base, 1, retries=2) as (servers, backend):
        backend.load(made)
        servers[0].stale = True
        (lost,) = answers(backend, prompts(1, made.version)).values()
        assert lost.finish == "error" and "base answered" in lost.text


def test_a_server_that_was_started_anew_is_told_its_adapters_again(base: Snapshot, made: Snapshot) -> None:
    with serving(base, 1) as (servers, backend):
        backend.load(made)
        answers(backend, prompts(3, made.version))
        servers[0].restart()
        assert all(each.finish != "error" for each in answers(backend, prompts(5, made.version)).values())
        assert made.version in servers[0].models


def test_what_servers_cannot_play_is_told(base: Snapshot, made: Snapshot, tmp_path: Path) -> None:
    other = Tiny(width=32, heads=2, layers=1, mlp=64, context=64).create(tmp_path / "o", [_hello()], 1)
    with serving(base, 1) as (servers, backend):
        with pytest.raises(InputError, match=r"stands on .*: start it with vllm serve"):
            backend.load(other)
        servers[0].adapters = False
        with pytest.raises(InputError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            backend.load(made)
        with pytest.raises(ValueError, match="loaded are none"):
            backend.submit(prompts(1, made.version))
        with pytest.raises(InputError, match="rounds=1"):
            backend.update("a", "b", {})
    gone = VLLMServers(urls="http://127.0.0.1:9/v1", backoff_s=0.01)
    with pytest.raises(InputError, match="no server answers"):
        gone.load(made)
    gone.close()


def _hello() -> Any:
    from parley.games.base import Message

    return [Message("user", "hello there"), Message("assistant", "hi")]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_streams_stay_where_their_prefix_is(base: Snapshot, made: Snapshot, count: int) -> None:
    shares = []
    for stay in (True, False):
        with serving(base, count) as (_, backend):
            if not stay:  # dealt at random, turn by turn
                chance = random.Random(0)

                async def anywhere(stream: str, backend: VLLMServers = backend, chance: random.Random = chance) -> Any:
                    return chance.choice(backend.places)

                backend._place = anywhere  # type: ignore[method-assign]
            played(backend, made, 12)
            shares.append(backend.cached_tokens / backend.prompt_tokens)
    stayed, dealt = shares
    assert stayed > 0.3 and (stayed == pytest.approx(dealt, abs=0.02) if count == 1 else stayed > dealt)


def test_addresses(tmp_path: Path) -> None:
    several = ["http://gpu03:8000/v1", "http://gpu04:8000/v1", "http://gpu9:8000/v1"]
    assert addresses("http://gpu[03-04,9]:8000/v1") == several
    (tmp_path / "urls").write_text("\n".join(several[:2]) + "\n\n")
    assert addresses(str(tmp_path / "urls")) == several[:2]
    wrong = ([], str(tmp_path / "none"), ["gpu:8000"], ["http://a/v1", "http://a/v1"], "http://g[3-]:1/v1",
             "http://g[1-99999]/v1", ["http://g[]/v1"])  # fmt: skip
    for urls in wrong:
        with pytest.raises(InputError):
            addresses(urls)


def test_requests_that_were_open_together_are_one_loss_however_many() -> None:
    from parley.backends.servers import LONGEST_S, Place

    place = Place(None, None, None)  # type: ignore[arg-type]
    now = time.monotonic()
    for _ in range(64):
        place.lost(0.5)
    assert place.losses == 1 and place.rests_until - now < LONGEST_S
    for _ in range(2_000):  # and however long it is gone
        place.rests_until = 0.0
        place.lost(0.5)
    assert not place.up and place.rests_until - time.monotonic() <= LONGEST_S
