"""The vLLM backend: continuous batching in this process, prefix caching between turns, many adapters at once.

A policy is identified by its version: it salts the prefix cache, so that no keys and values outlive their weights, and
it names the adapter of a request. All adapters of one base, and the base itself, share one engine. Two full models that
play each other have one engine each, because swapping weights would drain the engine, load a model and drop the cache
at every turn.

Engines outlive their backend. Building one takes seconds to minutes, so the next backend of this process reuses an
engine of the same shape and loads its own weights into it. In between an engine frees its memory: on a GPU it sleeps
(only one engine of a process can; others are shut down), on a CPU there is nothing to free.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..models import snapshot as snapshots
from ..models.bases import Weights
from ..models.folders import architecture
from ..models.fourbit import FourBit
from ..models.load import DTYPES, load_tokenizer
from ..models.renderer import Renderer
from ..models.snapshot import Snapshot
from ..play.player import Completion, Prompt
from ..system import ranks
from ..system.bounds import Count
from ..system.files import InputError, digest
from .reply import check_update, completed, limit, stopped
from .vllm_engine import Ask, Engine, Sampled, Shape, available, prepare, rank_for
from .vllm_weights import given, write_adapter

VOLATILE = (
    "dtype",
    "torch_dtype",
    "transformers_version",
    "_name_or_path",
    "use_cache",
)  # of a config, without effect here


@dataclass(frozen=True, slots=True)
class Policy:
    """A loaded snapshot: the weights that its engine must hold, and the engine rank for its adapter (0: none)."""

    snapshot: Snapshot
    renderer: Renderer
    weights: str
    rank: int

    @property
    def base(self) -> str:
        return self.snapshot.base or self.snapshot.path


class VLLMBackend:
    """Answers prompts with `token_ids` from any number of loaded snapshots.

    A reply under a schema has no log-probs, because vLLM reports those of the constrained choice, not the model's own.
    It is not trained on.

    max_batch     sequences that decode together in one engine
    kv_gib        GiB of one engine for keys and values; a model of 7 billion weights needs 0.5 GiB for 1,000 tokens
    max_adapters  different adapters that can be in one batch
    tensor_parallel  ranks that share an engine, each with a part of every weight; they play the same matches
    eager         runs the model without compiling it or recording CUDA graphs; null: on a CPU only
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        max_batch: int = 256,
        kv_gib: float = 1.0,
        max_adapters: int = 8,
        tensor_parallel: Count = 1,
        eager: bool | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
        if max_batch < 1 or max_adapters < 1 or kv_gib <= 0:
            raise ValueError(
                f"max_batch {max_batch} and max_adapters {max_adapters} must be at least 1, and kv_gib {kv_gib} above 0"
            )
        if ranks.world() % tensor_parallel:
            raise InputError(
                f"backend.tensor_parallel: {tensor_parallel} ranks share an engine, and this task runs in "
                f"{ranks.world()}: say backend.tensor_parallel=1, or backend=hf"
            )
        available()
        prepare()
        block = 32 if device == "cpu" else None
        self._shape = Shape(
            "", device, dtype, tensor_parallel, 0, max_adapters, max_batch, kv_gib, block,
            device == "cpu" if eager is None else eager,
        )  # fmt: skip
        self._policies: dict[str, Policy] = {}
        self._engines: deque[Engine] = deque()
        self._open: dict[str, tuple[Prompt, Policy, Engine]] = {}
        self._folders: dict[str, TemporaryDirectory[str]] = {}  # version -> the files of an adapter in training
        self._lost: list[Completion] = []  # prompts without room for a reply
        self.sampled = 0

    @property
    def busy(self) -> bool:
        return bool(self._lost) or any(engine.busy for engine in self._engines)

    def load(self, snapshot: Snapshot) -> None:
        """Registers a snapshot; its weights are loaded at its first prompt. InputError if vLLM cannot play it."""
        if snapshot.version in self._policies:
            return
        base = snapshot.base or snapshot.path
        rank = 0 if snapshot.base is None else _adapter_rank(snapshot.path)
        self._policies[snapshot.version] = Policy(snapshot, Renderer.load(base), snapshots.digest(base), rank)

    def unload(self, version: str) -> None:
        """Removes a snapshot and its open prompts. An engine that no other snapshot needs becomes free."""
        if (policy := self._policies.pop(version, None)) is None:
            return
        self.cancel([name for name, (_, asked, _) in self._open.items() if asked is policy])
        self._drop(version)
        for engine in list(self._engines):
            if not any(each.weights == engine.holds for each in self._policies.values()):
                self._engines.remove(engine)
                IDLE.append(engine)

    def update(self, old: str, new: str, weights: Weights) -> None:
        """Loads a learner's weights into the engine and renames the version `old` to `new`.

        A policy that shares its engine with others (adapters on it, the same weights under another version) gets its
        own. ValueError while prompts of `old` are open, if `old` is not loaded or `new` is taken, or for weights of
        another model.
        """
        check_update(
            self._policies, old, new, any(policy.snapshot.version == old for _, policy, _ in self._open.values())
        )
        policy = self._policies.pop(old)
        if policy.snapshot.base is None:
            self._reload(policy, new, weights)
        else:
            self._rewrite(policy, new, weights)

    def _reload(self, policy: Policy, version: str, weights: Weights) -> None:
        """Loads new weights into the policy's engine, and marks it so that the next backend does not mistake them."""
        shared = any(each.weights == policy.weights for each in self._policies.values())
        engine = next((engine for engine in self._engines if engine.holds == policy.weights), None)
        snapshot = replace(policy.snapshot, version=version)
        policy = self._policies[version] = replace(policy, snapshot=snapshot, weights=f"update {next(UPDATES)}")
        if shared or engine is None:
            engine = self._engine(policy)
        engine.take(given(weights, policy.base), policy.weights)

    def _rewrite(self, policy: Policy, version: str, weights: Weights) -> None:
        """Writes an adapter's weights to a folder for the engine; it exists until the policy is unloaded."""
        folder = self._folders[version] = TemporaryDirectory(prefix="parley-adapter-")
        write_adapter(weights, policy.snapshot.path, folder.name)
        self._policies[version] = replace(policy, snapshot=replace(policy.snapshot, version=version, path=folder.name))
        self._drop(policy.snapshot.version)

    def _drop(self, version: str) -> None:
        """Forgets a version's adapter."""
        for engine in self._engines:
            engine.drop(version)
        if (folder := self._folders.pop(version, None)) is not None:
            folder.cleanup()

    def submit(self, prompts: Sequence[Prompt]) -> None:
        """Queues prompts. ValueError for a prompt that is not rendered, or names a policy that is not loaded."""
        for prompt in prompts:
            if not prompt.token_ids:
                raise ValueError(f"prompt {prompt.id} has no token_ids: a language-model player must render it first")
            policy = self._policy(prompt)
            context = policy.renderer.context
            if context is not None and len(prompt.token_ids) >= context:
                self._lost.append(Completion(prompt.id, "", "context", (), (), policy.snapshot.version))
                continue
            engine = self._engine(policy)
            engine.add(_ask(prompt, policy))
            self._open[prompt.id] = (prompt, policy, engine)

    def poll(self, wait_s: float = 0.0) -> list[Completion]:
        """One step of the next engine that has work."""
        done, self._lost = self._lost, []
        for _ in range(len(self._engines)):
            self._engines.rotate(-1)
            engine = self._engines[-1]
            if engine.busy:
                return done + [reply for sampled in engine.step() if (reply := self._reply(sampled)) is not None]
        return done

    def cancel(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self._lost = [reply for reply in self._lost if reply.id not in gone]
        for name in gone & self._open.keys():
            self._open.pop(name)[2].abort([name])

    def close(self) -> None:
        """Removes every snapshot; the engines free their memory and wait for the next backend."""
        for version in list(self._policies):
            self.unload(version)
        for engine in [engine for engine in IDLE if not engine.rest()]:
            IDLE.remove(engine)

    def _policy(self, prompt: Prompt) -> Policy:
        version = prompt.policy or (next(iter(self._policies)) if len(self._policies) == 1 else "")
        if version not in self._policies:
            loaded = ", ".join(self._policies) or "none"
            raise ValueError(
                f"prompt {prompt.id} asks policy {version!r}, loaded are {loaded}: call load() with its snapshot first"
            )
        return self._policies[version]

    def _engine(self, policy: Policy) -> Engine:
        """The engine that holds the policy's weights; loads them into one if none does."""
        for engine in self._engines:
            if engine.holds == policy.weights and engine.shape.rank >= policy.rank:
                return engine
        rank = max(each.rank for each in self._policies.values() if each.weights == policy.weights)
        never = never_sampled(policy.base)
        shape = replace(self._shape, model=_model(policy.base, never), rank=rank)
        fitting = sorted(
            (engine for engine in IDLE if engine.shape == shape), key=lambda engine: engine.holds != policy.weights
        )
        if fitting:
            IDLE.remove(engine := fitting[0])
            engine.use(policy.base, policy.weights)
        else:
            engine = Engine(shape, policy.base, policy.weights, never)
        self._engines.append(engine)
        return engine

    def _reply(self, sampled: Sampled) -> Completion | None:
        """The completion if the reply is finished or contains a stop string, else None."""
        prompt, policy, engine = self._open[sampled.id]
        if not sampled.done:
            if not stopped(prompt, policy.renderer, sampled.token_ids):
                return None
            engine.abort([sampled.id])
        del self._open[sampled.id]
        self.sampled += len(sampled.token_ids)
        logprobs = sampled.logprobs if prompt.options.schema is None else None
        return completed(prompt, policy.renderer, sampled.token_ids, logprobs, policy.snapshot.version)


UPDATES = count(1)  # numbers weight updates, so that no two are confused
IDLE: list[Engine] = []  # engines of this process that no backend uses now


def _ask(prompt: Prompt, policy: Policy) -> Ask:
    snapshot, sampling, renderer = policy.snapshot, prompt.sampling, policy.renderer
    adapter = None if snapshot.base is None else (snapshot.version, snapshot.path)
    return Ask(
        prompt.id, prompt.token_ids or (), limit(prompt, renderer.context), sorted(renderer.stop_ids), prompt.seed,
        sampling.temperature, sampling.top_p, sampling.top_k, snapshot.version, adapter, prompt.options.schema,
        bool(prompt.options.stop),
    )  # fmt: skip


def _adapter_rank(folder: str) -> int:
    """The engine rank for the adapter in `folder`. InputError if vLLM cannot play it as it was trained."""
    if FourBit.read(folder) is not None:
        raise InputError(
            f"{folder} is an adapter on a 4-bit base, which backend=vllm would play on the base in full: use backend=hf"
        )
    rank = json.loads((Path(folder) / "adapter_config.json").read_text())["r"]
    try:
        return rank_for(rank)
    except StopIteration:
        raise InputError(f"{folder} has rank {rank}, more than vLLM can play: use backend=hf") from None


@lru_cache(maxsize=64)
def never_sampled(folder: str) -> tuple[int, ...]:
    """Ids that are never sampled, by the model's generation config."""
    path = Path(folder) / "generation_config.json"
    return tuple(sorted(json.loads(path.read_text()).get("suppress_tokens") or ())) if path.is_file() else ()


@lru_cache(maxsize=64)
def _model(folder: str, never: tuple[int, ...]) -> str:
    """A digest of everything but the weights; models with equal digests can share an engine by swapping weights."""
    config: dict[str, Any] = architecture(folder).to_dict()
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    vocabulary = digest(load_tokenizer(folder).get_vocab())
    return digest(json.loads(json.dumps([kept, never, vocabulary], default=str)))
