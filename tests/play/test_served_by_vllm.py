"""vLLM's own OpenAI server on loopback: the backend for servers, driven by the official client against the real thing.

The server is started once. Its model is made on the spot: a word is a token, so that a server which renders a chat
again from its text sees the ids that it sampled.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from parley.backends import vllm_engine
from parley.backends.openai import OpenAIBackend, served
from parley.credit import FilteredBC
from parley.data.episode import Episode, streams
from parley.data.replay import replay
from parley.data.store import EpisodeStore
from parley.games.base import Message
from parley.learners.likelihood import logprobs
from parley.models.renderer import Renderer
from parley.models.snapshot import Snapshot
from parley.models.tiny import SPECIAL, Tiny
from parley.play.arena import Report, TooManyFailures
from parley.play.pairing import Seating, self_play
from parley.play.player import Completion, Prompt, Sampling
from parley.play.seats import Seats
from parley.run.config import Hardware
from parley.system.files import InputError, read_jsonl
from tables import Bids

try:
    vllm_engine.available()
except InputError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]
MODEL = served("tiny")
SAMPLING = Sampling(max_tokens=8)
LAST = SPECIAL.index("<|end|>")
WORDS = "You are ann. bob. Round 0: 1: 2: bid. Who won? Say a number. " + " ".join(map(str, range(20)))
OPTIONS = {
    "dtype": "float32", "max-num-seqs": "32", "block-size": "32", "kv-cache-memory-bytes": str(2**26),
    "generation-config": "vllm",
    "host": "127.0.0.1", "served-model-name": MODEL.version, "uvicorn-log-level": "error",
}  # fmt: skip
ENV = {
    "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker lives in the engine's process
}  # fmt: skip


class VLLMServer:
    """The server of one model, at one address however often it is started."""

    def __init__(self, model: str, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.model, self.log = model, log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self, seconds: float = 600) -> None:
        """Starts it and waits until it answers."""
        words = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
        flags = ["--enforce-eager", "--no-enable-chunked-prefill", "--disable-log-stats"]
        command = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            self.model,
            "--port",
            str(self.port),
        ]
        with self.log.open("ab") as log:
            own = {"env": os.environ | ENV, "stdout": log, "stderr": log, "start_new_session": True}
            self.process = subprocess.Popen([*command, *words, *flags], **own)
        until = time.monotonic() + seconds
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5):
                return True
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        """Its processes are gone, whatever they were at."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return Tiny(width=64, heads=2, layers=2, mlp=64, context=128).create(folder, [[Message("user", WORDS)]], 0)


@pytest.fixture(scope="module")
def server(model: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    made = VLLMServer(model.path, tmp_path_factory.mktemp("log") / "server.log")
    try:
        made.start()
        yield made
    finally:
        made.kill()


@contextmanager
def quiet(matches: int, person: bool) -> Iterator[Callable[[Report], None]]:
    yield lambda report: None


def backend(server: VLLMServer, model: Snapshot, **settings: Any) -> partial[OpenAIBackend]:
    words = [
        id for id in range(len(Renderer.load(model.path).tokenizer)) if id >= LAST
    ]  # the model's own config bans the others, too
    given = {
        "url": server.url,
        "token_ids": True,
        "backoff_s": 0.01,
        "timeout_s": 60.0,
        "extra": {"allowed_token_ids": words},
    }
    return partial(OpenAIBackend, **{**given, **settings})


def planned(k: int) -> list[Seating]:
    game = Bids()
    return list(self_play(game, game.scenarios(), "learner", 5, "s", k=k))


def play(build: Any, folder: Path, seatings: Sequence[Seating], watch: Any = quiet) -> list[Episode]:
    Seats(Bids(), build, 8).play(folder, seatings, SAMPLING, {"learner": MODEL}, watch)
    store = EpisodeStore(folder, shard=None)
    found = list(store.read(ordered=True))
    assert store.duplicates == 0
    return found


def answers(made: OpenAIBackend, prompts: Sequence[Prompt]) -> dict[str, Completion]:
    made.load(MODEL)
    made.submit(prompts)
    found: dict[str, Completion] = {}
    until = time.monotonic() + 200
    while len(found) < len(prompts) and time.monotonic() < until:
        found |= {done.id: done for done in made.poll(0.05)}
    made.close()
    return found


def profile() -> Hardware:
    return Hardware(
        name="cpu", accelerator="cpu", devices=1, nodes=1, strategy="single", precision="32-true", threads=1,
        micro_tokens=4096,
        row_tokens=512, head_chunk=64, activation_checkpointing=False, memory_gib=8,
    )  # fmt: skip


def test_its_ids_are_those_of_a_fresh_rendering_and_its_logprobs_the_learners(
    server: VLLMServer, model: Snapshot, tmp_path: Path
) -> None:
    game, renderer = Bids(), Renderer.load(model.path)
    played = play(backend(server, model, ledger=tmp_path / "spending.jsonl"), tmp_path, planned(2))
    assert len(played) == len(planned(2))
    turns = [turn for episode in played for turn in episode.turns]
    for episode in played:
        views = replay(game, episode).views
        for turn in episode.turns:
            assert (
                turn.call is not None
                and turn.call.fork is None
                and renderer.text(turn.call.sampled_ids) == turn.text.strip()
            )
            assert (turn.call.sampled_ids[-1] == LAST) == (turn.finish == "stop")
        for seat in game.roles:
            for stream in streams(episode, seat):  # one, and all of it as if it were rendered now
                whole = renderer.encode(views[seat])
                assert stream.token_ids == whole[: len(stream.token_ids)] and len(streams(episode, seat)) == 1
    samples = FilteredBC("all")(played, "learner").on_policy()
    for sample, found in zip(samples, logprobs(samples, model, profile()), strict=True):
        told = sample.logprobs or ()
        assert found / len(told) == pytest.approx(sum(told) / len(told), abs=1e-5)
    settled = [line for line in read_jsonl(tmp_path / "spending.jsonl") if "settle" in line]
    assert len(settled) == len(turns) and {line["model"] for line in settled} == {MODEL.version}
    assert sum(line["completion_tokens"] for line in settled) == sum(
        len(turn.call.sampled_ids) for turn in turns if turn.call
    )


def test_seed_temperature_and_length_are_taken(server: VLLMServer, model: Snapshot) -> None:
    def ask(seed: int, n: int = 12, **sampling: Any) -> list[tuple[int, ...] | None]:
        chats = [(Message("system", "You are ann."), Message("user", f"Round {at % 3}: bid. {at}")) for at in range(n)]
        settings = Sampling(**{"max_tokens": 16, **sampling})
        asked = [
            Prompt(f"m{at}/a.1", f"m{at}/a", chats[at], seed + at, sampling=settings, policy=MODEL.version)
            for at in range(n)
        ]
        found = answers(backend(server, model)(), asked)
        return [found[prompt.id].token_ids for prompt in asked]

    assert ask(1) == ask(1) != ask(2)
    assert ask(1, temperature=0.0) == ask(2, temperature=0.0) != ask(1)
    assert ask(1, top_k=1) == ask(1, temperature=0.0)
    assert {len(ids or ()) for ids in ask(1, max_tokens=3)} <= {1, 2, 3}


def test_killed_in_play_its_matches_are_owed_and_played_when_it_is_back(
    server: VLLMServer, model: Snapshot, tmp_path: Path
) -> None:
    seatings = planned(6)

    @contextmanager
    def watch(matches: int, person: bool) -> Iterator[Callable[[Report], None]]:
        yield (
            lambda report: (
                server.kill() if report.matches >= 5 and server.process and server.process.poll() is None else None
            )
        )

    build = backend(server, model, retries=1, ledger=tmp_path / "spending.jsonl")
    with pytest.raises(TooManyFailures, match="they stay owed"):
        play(build, tmp_path / "play", seatings, watch)
    before = {episode.id: episode for episode in EpisodeStore(tmp_path / "play", shard=None).read()}
    assert 5 <= len(before) < len(seatings)
    server.start()
    after = play(build, tmp_path / "play", seatings)
    assert sorted(episode.id for episode in after) == sorted(seating.match for seating in seatings)
    assert all(before[episode.id] == episode for episode in after if episode.id in before)
    lines = list(read_jsonl(tmp_path / "spending.jsonl"))
    assert len([line for line in lines if "book" in line]) == len([line for line in lines if "settle" in line])


def test_what_holds_for_the_fake_server_holds_for_this_one(server: VLLMServer) -> None:
    """Its faults (lost, late, torn and refused answers, ceilings) with vLLM's server behind it."""
    files = ["tests/backends/test_openai.py", "tests/play/test_served.py"]
    env = {**os.environ, "PARLEY_TEST_SERVER": server.url, "PARLEY_TEST_MODEL": MODEL.version}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout.splitlines()[-1]
