"""The plain comparator: training as the published systems do it, to measure parley's engine against.

One right-padded row per utterance, micro-batches of a fixed number of rows, a frozen copy of the model as the reference
in every step, the logits of all tokens. The objective, its normalisation over the global batch, the optimiser and the
clipping are parley's own, so that both give the same losses.

Legend: B rows, T tokens of the longest row, V vocabulary, N supervised tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from parley.data.sample import Sample, Utterance
from parley.learners.optim import OptimizerConfig
from parley.learners.training import columns
from parley.objectives.base import Objective
from parley.system.seeds import rng
from torch import Tensor, nn

Row = tuple[tuple[int, ...], Utterance]


class Comparator:
    """Trains `model` in place. `rows` is the size of a micro-batch, `clip` the largest gradient norm.

    `mask` gives the model a padding mask, as is usual. With padding on the right it changes nothing that counts;
    without it attention takes a faster kernel.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Objective,
        optimizer: OptimizerConfig,
        rows: int = 8,
        clip: float = 1.0,
        mask: bool = True,
    ) -> None:
        self.model, self.reference = model.train(), copy.deepcopy(model).eval().requires_grad_(False)
        self.loss, self.rows, self.clip, self.mask = loss, rows, clip, mask
        (self.optimizer,) = optimizer.build(model.named_parameters())
        self.tokens = 0  # computed so far, padding included

    def step(self, samples: Sequence[Sample]) -> tuple[float, float]:
        """One optimiser step on the utterances of `samples`, in random order: (loss, gradient norm before clipping)."""
        rows = [(sample.token_ids[: each.end], each) for sample in samples for each in sample.utterances]
        rng(0, "rows").shuffle(rows)
        totals = self.loss.totals([each for _, each in rows])
        total = 0.0
        for at in range(0, len(rows), self.rows):
            part = rows[at : at + self.rows]
            logprob_N, ref_N, utterance_N = self._logprobs(part)
            given = columns([each for _, each in part], utterance_N, {"old": ref_N})
            loss, _ = self.loss(logprob_N, given, totals)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, norm.item()

    def _logprobs(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs of the supervised tokens under model and reference, and the row that each stands in: [N] each."""
        device = next(self.model.parameters()).device
        ids_BT = nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in rows], batch_first=True).to(device)
        there_BT, supervised_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT, dtype=torch.bool)
        for at, (ids, each) in enumerate(rows):
            there_BT[at, : len(ids)] = 1
            supervised_BT[at, each.start : each.end] = True
        self.tokens += ids_BT.numel()
        with torch.no_grad():
            ref_N = all_logprobs(self.reference, ids_BT, there_BT if self.mask else None)[supervised_BT[:, 1:]]
        logprob_N = all_logprobs(self.model, ids_BT, there_BT if self.mask else None)[supervised_BT[:, 1:]]
        return logprob_N, ref_N, supervised_BT.nonzero()[:, 0]


def all_logprobs(model: nn.Module, ids_BT: Tensor, there_BT: Tensor | None = None) -> Tensor:
    """Log-probs [B, T - 1] of every token but the first, from all logits."""
    logits_BTV = model(input_ids=ids_BT, attention_mask=there_BT, use_cache=False).logits[:, :-1].float()
    return -F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none").view(len(ids_BT), -1)
