"""A policy's pool: a decode loop with continuous batching.

`generate()` has no seed per request and returns no row before the last one is done. Here finished rows leave and new
prompts join at every step, and a stream's keys and values are kept between its turns. The ids of a reply depend only on
its prompt and its seed (float32 on a CPU), because every close choice is settled by a forward of its stream alone.
These forwards are cached in blocks (`prefixes.py`), and so are prefixes shared by several streams.

Legend: B rows of the pool, n rows of a call, q tokens, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from ..data.sample import common
from ..models.renderer import Renderer
from ..play.player import Completion, Prompt, Sampling
from .guide import Guide, Guides, banned
from .prefixes import BLOCK, Prefixes
from .reply import completed, limit, stopped
from .sampling import Draw, choose
from .slots import Kept, Slots, Stash

STATE = ("length", "token", "count", "limit", "seed", "top_k", "temperature", "top_p")


@dataclass(slots=True)
class Row:
    """One reply being decoded. `ids` is its prompt; `stashes`, in order, hold the keys and values of its first `held`
    tokens; `born` is the pool's clock at its first sampled token; `guide` constrains it to a schema."""

    prompt: Prompt
    ids: tuple[int, ...]
    stashes: Sequence[Stash] = ()
    held: int = 0
    born: int = 0
    guide: Guide | None = None


class Pool:
    """The rows of one policy (tensors with one entry per row), and its streams between two turns.

    `switch` is called before each use of the model, which other policies may share.
    """

    def __init__(
        self, model: PreTrainedModel, switch: Callable[[], None], renderer: Renderer, version: str, *,
        max_batch: int, keep_bytes: int, settle: float,
    ) -> None:  # fmt: skip
        self.model, self.switch, self.renderer, self.version = model, switch, renderer, version
        self.max_batch, self.settle = max_batch, settle
        self.read = self.sampled = self.settled = self.clock = 0
        self.rows: list[Row] = []
        self._kinds: set[Sampling] = set()  # all settings among the rows since the pool was last empty
        self.waiting: deque[Row] = deque()
        self.kept = Kept(keep_bytes)
        self.device = model.device
        self.slots = Slots(model.config)
        self.prefixes = Prefixes(model, keep_bytes // 8)
        self._state = {
            name: self._zeros(torch.float64 if name in ("temperature", "top_p") else torch.long) for name in STATE
        }
        self._ids = self._zeros(torch.long, 64)
        self._logprobs = self._zeros(torch.float32, 64)
        vocab = model.config.get_text_config(decoder=True).vocab_size
        self._stop_V = torch.zeros(vocab, dtype=torch.bool, device=self.device)
        self._stop_V[[id for id in renderer.stop_ids if id < vocab]] = True
        never = getattr(model.generation_config, "suppress_tokens", None) or []
        self._never_V = torch.zeros_like(self._stop_V).index_fill(0, self._long(never), True) if never else None
        self._guides = Guides(renderer, vocab)
        self._probe(vocab)

    @property
    def busy(self) -> bool:
        return bool(self.rows or self.waiting)

    def underway(self) -> Iterator[tuple[str, int]]:
        return ((row.prompt.stream, self._count(row)) for row in self.rows)

    def submit(self, prompt: Prompt) -> None:
        if not prompt.token_ids:
            raise ValueError(f"prompt {prompt.id} has no token_ids: a language-model player must render it first")
        if max(prompt.token_ids) >= len(self._stop_V):
            raise ValueError(
                f"prompt {prompt.id} has the token id {max(prompt.token_ids)}, and {self.version} embeds "
                f"{len(self._stop_V)} ids: its tokenizer is that of another model"
            )
        schema = prompt.options.schema
        self.waiting.append(Row(prompt, prompt.token_ids, guide=None if schema is None else self._guides.guide(schema)))

    @torch.inference_mode()
    def cancel(self, ids: frozenset[str]) -> None:
        self.waiting = deque(row for row in self.waiting if row.prompt.id not in ids)
        self._leave([i for i, row in enumerate(self.rows) if row.prompt.id in ids])

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Prefills waiting prompts, or else decodes one token for every row; returns the finished replies."""
        self.switch()
        lost: list[Completion] = []
        if self.waiting and len(self.rows) < self.max_batch:
            lost = self._admit()
        else:
            self._decode()
        return lost + self._finished()

    def renew(self, version: str) -> None:
        """Renames the policy to `version`, after its weights have changed; drops all keys and values."""
        self.version = version
        self.kept = Kept(self.kept.room)
        self.prefixes.clear()
        self.slots.free()
        self.slots = Slots(self.model.config)

    # --- forward passes ---

    def _admit(self) -> list[Completion]:
        """Prefills waiting prompts, grouped by similar length; returns those that do not fit the context."""
        room = min(self.max_batch - len(self.rows), len(self.waiting))
        taken = [self.waiting.popleft() for _ in range(room)]
        context = self.renderer.context
        lost = [row for row in taken if context is not None and len(row.ids) >= context]
        taken = [row for row in taken if context is None or len(row.ids) < context]
        for row in taken:
            self._resume(row)
        taken.sort(key=lambda row: len(row.ids) - row.held)
        while taken:
            longest = len(taken[-1].ids) - taken[-1].held
            first = next(i for i, row in enumerate(taken) if 4 * (len(row.ids) - row.held) >= 3 * longest - 16)
            self._prefill(taken[first:])
            del taken[first:]
        return [Completion(row.prompt.id, "", "context", (), (), self.version) for row in lost]

    def _resume(self, row: Row) -> None:
        """Takes the kept keys and values of the stream, or of a shared prefix, and counts the prompt tokens covered."""
        kept = self.kept.take(row.prompt.stream)
        if kept is not None:
            stash, ids = kept
            row.stashes = (stash,)
            row.held = min(common(ids, row.ids), len(row.ids) - 1)  # at least one token must be read, for its logits
        if row.held < BLOCK and (shared := self.prefixes.shared(row.ids)):
            row.stashes, row.held = shared, BLOCK * len(shared)

    def _prefill(self, group: list[Row]) -> None:
        start, n = len(self.rows), len(group)
        width = max(len(row.ids) for row in group)
        self.slots.reserve(start + n, width)
        for i, row in enumerate(group):
            at = 0
            for stash in row.stashes:
                self.slots.fetch(stash, start + i, part := min(stash[0].shape[1], row.held - at), at)
                at += part
            row.stashes = ()
        fresh = [len(row.ids) - row.held for row in group]
        q = max(fresh)
        ids_nq = self._long([(0,) * (q - new) + row.ids[row.held :] for new, row in zip(fresh, group, strict=True)])
        self._seat(start, group)
        position_nq, mask = self.slots.aim(
            start, self._long([row.held for row in group]), q, self._long(fresh), width, self.model.dtype
        )
        self.rows += group
        self._kinds = {row.prompt.sampling for row in group} | (self._kinds if start else set())
        self.read += sum(fresh)
        self._choose(start, start + n, self._logits(ids_nq, position_nq, mask))

    def _decode(self) -> None:
        n = len(self.rows)
        length_B = self._state["length"][:n]
        width = max(len(row.ids) + self._count(row) for row in self.rows)
        self.slots.reserve(n, width)
        position_nq, mask = self.slots.aim(0, length_B, 1, None, width, self.model.dtype)
        logits_BV = self._logits(self._state["token"][:n, None], position_nq, mask)
        length_B += 1
        self.clock += 1
        self._choose(0, n, logits_BV)

    def _logits(self, ids_nq: Tensor, position_nq: Tensor, mask: object) -> Tensor:
        out = self.model(
            input_ids=ids_nq,
            position_ids=position_nq,
            attention_mask=mask,
            past_key_values=self.slots,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_NV: Tensor = out.logits[:, -1].float()
        return logits_NV

    @torch.inference_mode()
    def _probe(self, vocab: int) -> None:
        """Reads two streams of unequal length with and without the slots and compares the logits.

        This refuses an architecture with positions or masks that the backend does not support.
        """
        self.switch()
        kind = self.model.config.model_type
        long = min(max(self.slots.window + 4, 9), 64)
        whole = [self._long([[(7 * i + 3) % vocab for i in range(n)]]) for n in (long, 5)]
        try:
            pooled_nV = self._read(whole)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{kind} models cannot be decoded by this backend ({error}): use backend=vllm") from error
        alone_nV = torch.cat([self.model(input_ids=ids, use_cache=False).logits[:, -1].float() for ids in whole])
        apart = float((pooled_nV - alone_nV).abs().max() / alone_nV.abs().max().clamp(min=1.0))
        if not apart < (1e-3 if self.model.dtype == torch.float32 else 0.1):
            raise ValueError(
                f"{kind} models cannot be decoded by this backend (logits differ by {apart:.2g}): use backend=vllm"
            )

    def _read(self, whole: Sequence[Tensor]) -> Tensor:
        """Logits [n, V] after each of these streams [1, L]; all tokens but the last are prefilled together."""
        fresh = [ids.shape[1] - 1 for ids in whole]
        n, q = len(whole), max(fresh)
        self.slots.reserve(n, q + 1)
        ids_nq = torch.cat([functional.pad(ids[:, :-1], (q - new, 0)) for ids, new in zip(whole, fresh, strict=True)])
        self._logits(ids_nq, *self.slots.aim(0, self._long([0] * n), q, self._long(fresh), q, self.model.dtype))
        last_n1 = torch.cat([ids[:, -1:] for ids in whole])
        return self._logits(last_n1, *self.slots.aim(0, self._long(fresh), 1, None, q + 1, self.model.dtype))

    # --- choosing ---

    def _choose(self, start: int, end: int, logits_BV: Tensor) -> None:
        state = {name: value[start:end] for name, value in self._state.items()}
        draw = Draw(state["temperature"], state["top_k"], state["top_p"], state["seed"], state["count"])
        guides = [row.guide for row in self.rows[start:end]]
        never = banned(guides, self._never_V, logits_BV)
        token_B, close_B = choose(logits_BV, draw, self._kinds, never, self.settle)
        if self.settle:
            for i in close_B.nonzero()[:, 0].tolist():
                token_B[i] = self._settle(
                    start + i, draw.at(i), never if never is None or never.dim() == 1 else never[i]
                )
                self.settled += 1
        for guide, token in zip(guides, token_B.tolist(), strict=True):
            if guide is not None:
                guide.take(token)
        logprob_B = logits_BV.gather(1, token_B[:, None])[:, 0] - logits_BV.logsumexp(dim=1)
        at_B1 = state["count"][:, None]
        self._ids[start:end].scatter_(1, at_B1, token_B[:, None])
        self._logprobs[start:end].scatter_(1, at_B1, logprob_B[:, None])
        state["token"].copy_(token_B)
        state["count"] += 1
        self.sampled += end - start

    def _settle(self, i: int, draw: Draw, never_V: Tensor | None) -> Tensor:
        """Chooses from a forward of the row's stream alone, independent of the batch."""
        ids = (*self.rows[i].ids, *self._ids[i, : int(draw.position)].tolist())
        return choose(self.prefixes.logits(ids), draw, self._kinds, never_V, 0.0)[0][0]

    # --- rows ---

    def _seat(self, start: int, group: list[Row]) -> None:
        """Sets the state of rows to prefill."""
        limits = [limit(row.prompt, self.renderer.context) for row in group]
        if max(limits) > self._ids.shape[1]:
            self._ids, self._logprobs = (_wider(tensor, max(limits)) for tensor in (self._ids, self._logprobs))
        values: dict[str, Sequence[float]] = {
            "length": [len(row.ids) for row in group],
            "count": [0] * len(group),
            "limit": limits,
            "seed": [row.prompt.seed for row in group],
            "top_k": [row.prompt.sampling.top_k for row in group],
            "temperature": [row.prompt.sampling.temperature for row in group],
            "top_p": [row.prompt.sampling.top_p for row in group],
        }
        for name, value in values.items():
            state = self._state[name]
            state[start : start + len(group)] = torch.tensor(value, dtype=state.dtype, device=self.device)
        for row in group:
            row.born = self.clock

    def _count(self, row: Row) -> int:
        """The number of tokens sampled for the row's reply."""
        return 1 + self.clock - row.born

    def _sampled(self, i: int) -> list[int]:
        return self._ids[i, : self._count(self.rows[i])].tolist()

    def _finished(self) -> list[Completion]:
        state = {name: value[: len(self.rows)] for name, value in self._state.items()}
        done_B = self._stop_V[state["token"]] | (state["count"] >= state["limit"])
        done = set(done_B.nonzero()[:, 0].tolist())
        done |= {
            i
            for i, row in enumerate(self.rows)
            if row.prompt.options.stop and stopped(row.prompt, self.renderer, self._sampled(i))
        }
        replies = [self._completion(i) for i in sorted(done)]
        self._leave(sorted(done))
        return replies

    def _completion(self, i: int) -> Completion:
        ids, row = self._sampled(i), self.rows[i]
        logprobs = self._logprobs[i, : len(ids)].tolist() if row.guide is None else None
        return completed(row.prompt, self.renderer, ids, logprobs, self.version)

    def _leave(self, gone: list[int]) -> None:
        """Removes rows: keeps their streams for the next turn, and moves the last rows into the gaps."""
        if not gone:
            return
        if self.kept.room:
            for i in gone:
                ids = self.rows[i].ids + tuple(self._sampled(i)[:-1])  # the last token was sampled but never read
                self.kept.keep(self.rows[i].prompt.stream, self.slots.stash(i, len(ids)), ids)
        n = len(self.rows) - len(gone)
        holes = [i for i in gone if i < n]
        movers = sorted(set(range(n, len(self.rows))) - set(gone))
        if holes:
            self.slots.move(movers, holes, [len(self.rows[i].ids) + self._count(self.rows[i]) for i in movers])
            source, target = self._long(movers), self._long(holes)
            for tensor in (*self._state.values(), self._ids, self._logprobs):
                tensor[target] = tensor[source]
            for i, j in zip(movers, holes, strict=True):
                self.rows[j] = self.rows[i]
        del self.rows[n:]

    def _zeros(self, dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(self.max_batch, *shape, dtype=dtype, device=self.device)

    def _long(self, values: Sequence[object]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def _wider(tensor: Tensor, columns: int) -> Tensor:
    wider = tensor.new_zeros(tensor.shape[0], columns)
    wider[:, : tensor.shape[1]] = tensor
    return wider
