"""Checks of gpu.py on whoever answers prompts: shared beginnings, vLLM in the process, and vLLM's own server.

What greedy replies must be is what the transformers backend gives in float32. A tiny model answers; an engine's own
rate on such a model is that of its overhead.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from parley.backends.hf import HFBackend
from parley.backends.vllm_engine import available
from parley.models.snapshot import Snapshot
from parley.play.player import Completion, Prompt, Sampling
from parley.system.files import InputError
from serving import FLAGS, Process

SAME, APART = 0.98, 1e-3  # share of equal greedy ids; nats a token between log-probs of equal ones, float32
Answers = dict[str, Completion]


def asked(count: int, beginning: int, policy: str, tokens: int) -> list[Prompt]:
    """Greedy prompts that begin alike."""
    common = tuple(7 + at % 40 for at in range(beginning))
    sampling = Sampling(temperature=0.0, max_tokens=tokens)
    return [
        Prompt(f"{at}/s.1", f"{at}/s", (), at, sampling=sampling, policy=policy, token_ids=(*common, 7 + at % 50, 9, 8))
        for at in range(count)
    ]


def answers(backend: Any, start: Snapshot, prompts: Sequence[Prompt]) -> tuple[Answers, float]:
    """All replies, and the seconds from the first question to the last of them."""
    backend.load(start)
    found: Answers = {}
    began = time.perf_counter()
    backend.submit(prompts)
    while len(found) < len(prompts):
        found |= {each.id: each for each in backend.poll(0.1)}
    return found, time.perf_counter() - began


def compared(found: Answers, expected: Answers, seconds: float) -> dict[str, Any]:
    """How much of one is the other, and what of it is wrong."""
    pairs = [(found[name], each) for name, each in expected.items()]
    total = sum(len(each.token_ids or ()) for each in expected.values())
    same = sum(_agree(one, other) for one, other in pairs) / total
    apart = max(
        (abs(a - b) for one, other in pairs if one.token_ids == other.token_ids
         for a, b in zip(one.logprobs or (), other.logprobs or (), strict=True)), default=0.0,
    )  # fmt: skip
    figures = {"same_ids": round(same, 4), "apart": float(f"{apart:.2g}"), "tokens_per_second": round(total / seconds)}
    return figures | {
        "faults": [] if same >= SAME and apart <= APART else [f"not the replies of backend=hf: {figures}"]
    }


def _agree(one: Completion, other: Completion) -> int:
    return sum(a == b for a, b in zip(one.token_ids or (), other.token_ids or (), strict=False))


def prefixes(device: str, start: Snapshot) -> dict[str, Any]:
    """The transformers backend with room for shared beginnings, and without."""
    prompts = asked(24, 100, start.version, 8)
    with_room, without = HFBackend(device=device), HFBackend(device=device, keep_gib=0.0)
    expected, _ = answers(without, start, prompts)
    found, seconds = answers(with_room, start, prompts)
    figures = compared(found, expected, seconds)
    figures["read"] = {"shared": with_room.read, "each": without.read}
    if with_room.read >= without.read:
        figures["faults"].append("no beginning was shared")
    return figures


def vllm(device: str, start: Snapshot) -> dict[str, Any]:
    """vLLM in this process, one rank to an engine."""
    if why := _missing():
        return {"skipped": why}
    from parley.backends.vllm import VLLMBackend

    prompts = asked(24, 100, start.version, 8)
    backend = VLLMBackend(device=device, max_batch=32, kv_gib=0.25, tensor_parallel=1)
    found, seconds = answers(backend, start, prompts)
    return compared(found, answers(HFBackend(device=device), start, prompts)[0], seconds)


def servers(device: str, start: Snapshot) -> dict[str, Any]:
    """One of vLLM's servers on loopback."""
    if why := _missing():
        return {"skipped": why}
    from parley.backends.servers import VLLMServers

    flags = FLAGS if device == "cpu" else "--dtype float32 --gpu-memory-utilization 0.2 --generation-config vllm"
    prompts = asked(24, 100, start.version, 8)
    with tempfile.TemporaryDirectory() as folder, _served(Process(start.path, Path(folder) / "log", flags)) as url:
        found, seconds = answers(VLLMServers(urls=[url]), start, prompts)
    return compared(found, answers(HFBackend(device=device), start, prompts)[0], seconds)


@contextmanager
def _served(process: Process):  # type: ignore[no-untyped-def]
    try:
        process.wait()
        yield process.url
    finally:
        process.kill()


def _missing() -> str | None:
    """Why vLLM's checks cannot be done here."""
    try:
        available()
        import openai  # noqa: F401
    except (InputError, ImportError) as error:
        return str(error)
    return None


ENGINES: dict[str, Callable[[str, Snapshot], dict[str, Any]]] = {
    each.__name__: each for each in (prefixes, vllm, servers)
}
