"""Predicts the memory of a training step, by part, by rehearsing the step without data.

Forward, backward and optimiser run on fake tensors, which have shapes and dtypes but no contents (PyTorch's
FakeTensorMode), while a ledger tracks the live storage. So all that the model, the adapter or the attention kernel keep
for the backward is counted as the real code keeps it, and a model of billions of weights needs neither weights nor a
GPU.

On W ranks of a sharded strategy a rank holds 1/W of the weights, gradients and optimiser states (Rajbhandari et al.
2020, "ZeRO", arXiv:1910.02054, section 5, stage 3), and gathers whole blocks while it computes with them (`_exchange`).
Where these shares lie in host memory the device holds the whole blocks alone.

Legend: B rows, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, PretrainedConfig

from ..batches.packing import Batch, Budget
from ..models.adapter import LoRA
from ..models.dropout import Dropout, blocks
from ..models.policy import Policy
from .device import Hardware, budget
from .ledger import REHEARSED, Ledger, stored_bytes
from .optim import OptimizerConfig

GIB = 2**30
PARTS = (*REHEARSED, "exchange", "beside")
MOVED = ("weights", "gradients", "optimizer")  # what fsdp_offload keeps in host memory
CONTEXT_GIB, SLACK = 1.0, 1.05  # of a GPU: memory of the driver and libraries, and fragmentation of the allocator


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory of one device in bytes, reached in the `backward` or in the optimiser's `step`.

    weights      parameters and buffers as they are stored, and copies of them in a lower precision
    gradients    of the trained parameters; optimizer: its states (AdamW keeps two numbers per trained parameter), and
                 averages
    activations  all that the forward keeps for the backward, and temporary tensors of both
    logits       tensors with the vocabulary as their last dimension
    exchange     buffers of communication between ranks: gathered blocks, buckets of gradients
    beside       other models on the device during training: other policies, fixed models, a backend's copy
    most_logits  peak of the logits alone, often at another moment of the step
    host         bytes that the rank keeps in host memory instead (fsdp_offload), where the optimiser works, too
    """

    moment: str
    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    exchange: float = 0.0
    beside: float = 0.0
    most_logits: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        """Bytes allocated by PyTorch (on a GPU `torch.cuda.max_memory_allocated`)."""
        return float(sum(getattr(self, part) for part in PARTS))

    def needed(self, accelerator: str) -> float:
        """Bytes that the device must have: on a GPU including the driver's share and fragmentation."""
        return self.total * SLACK + CONTEXT_GIB * GIB if accelerator == "gpu" else self.total


@dataclass(frozen=True, slots=True)
class Model:
    """A model without weights: its architecture, and the adapter to train on it (None: all weights are trained)."""

    config: PretrainedConfig
    adapter: LoRA | None = None

    def policy(self, hardware: Hardware) -> Policy:
        """The policy as `device.load` builds it, on PyTorch's meta device; with fsdp in the precision of its gathered
        blocks."""
        mixed = hardware.precision == "bf16-mixed" and (
            self.adapter is not None or hardware.strategy.startswith("fsdp")
        )
        half = hardware.precision == "bf16-true" or mixed
        model = self._model(torch.bfloat16 if half else torch.float32)
        if self.adapter is not None and self.adapter.four_bit is not None:
            _in_four_bits(model, self.adapter.four_bit.double)
        policy = Policy(model, hardware.head_chunk).train()
        if hardware.accelerator == "gpu":
            policy.use_block_sparse_attention()
        else:
            policy.use_path_attention()
        if hardware.activation_checkpointing:
            policy.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return policy

    def budget(self, hardware: Hardware, dropout: float = 0.0) -> Budget:
        """The token budget of micro-batches for this model under a profile."""
        return budget(self.policy(hardware), hardware, dropout)

    def parameters(self) -> tuple[int, int]:
        """(all, trained) parameters."""
        every = list(self._model(torch.float32).parameters())
        return sum(each.numel() for each in every), sum(each.numel() for each in every if each.requires_grad)

    def stored(self, hardware: Hardware) -> float:
        """Bytes of its weights that a rank of the profile holds on its device."""
        if hardware.strategy == "fsdp_offload":
            return 0.0
        return _share(self, hardware) * sum(map(stored_bytes, self.policy(hardware).parameters()))

    def _model(self, dtype: torch.dtype) -> Any:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(self.config, dtype=dtype)
            if self.adapter is None:
                return model
            from peft import get_peft_model

            return get_peft_model(model, self.adapter.config(), low_cpu_mem_usage=True)


def predict(
    model: Model,
    optimizer: OptimizerConfig,
    hardware: Hardware,
    batches: Sequence[Batch],
    *,
    dropout: float = 0.0,
    average: float = 0.0,
) -> Memory:
    """The peak of one rank over an optimiser step with these micro-batches. Nothing is computed.

    Before the first micro-batch there are no gradients, before later ones all, so a later one can set the peak.
    `dropout` and `average` are the learner's.
    """
    world = hardware.devices * hardware.nodes
    share = _share(model, hardware)
    policy = model.policy(hardware)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _with_memory(policy)
        if dropout:
            Dropout(policy.causal_lm, dropout)
        if hardware.accelerator == "gpu" and policy.causal_lm._supports_flex_attn:
            # the fused kernel keeps the same tensors for its backward as flex attention
            policy.causal_lm.set_attn_implementation("sdpa")
            batches = [replace(batch, causal=True) for batch in batches]
        with Ledger(policy.causal_lm.config.get_text_config(), share) as ledger:
            ledger.weights(policy)
            trained = [each for each in policy.parameters() if each.requires_grad]
            step = _step(policy, trained, optimizer, hardware, ledger, averaged=average > 0)
            for each in trained:
                each.grad = None
            worst = [batches[0], *sorted(batches[1:], key=lambda batch: -batch.tokens_BT.numel())[:1]]
            backward = _backward(policy, trained, worst, hardware, ledger)
        exchange = _exchange(policy, trained, hardware) if world > 1 else {"backward": 0.0, "step": 0.0}
        logits = ledger.most["logits"]
    if hardware.strategy == "fsdp_offload":
        host = max(sum(each[part] for part in MOVED) for each in (backward, step))
        left = backward | dict.fromkeys(MOVED, 0.0)
        return Memory("backward", **left, exchange=exchange["backward"], most_logits=logits, host=host)
    parts = {"backward": backward, "step": step}
    moments = [Memory(name, **parts[name], exchange=exchange[name], most_logits=logits) for name in parts]
    return max(moments, key=lambda memory: memory.total)


def _share(model: Model, hardware: Hardware) -> float:
    """The share of weights, gradients and optimiser states on one rank. With sharding in mixed precision they are
    stored in float32 and gathered in bfloat16; the rehearsal runs in bfloat16."""
    if not hardware.strategy.startswith("fsdp"):
        return 1.0
    stored = 2.0 if hardware.precision == "bf16-mixed" and model.adapter is None else 1.0
    return stored / (hardware.devices * hardware.nodes)


def _with_memory(policy: Policy) -> None:
    """Replaces meta tensors by tensors of the current mode, on the CPU. Tied weights stay tied."""
    made: dict[Tensor, Tensor] = {}
    for module in policy.modules():
        for name, each in list(module._parameters.items()):
            if each is not None:
                if each not in made:
                    made[each] = nn.Parameter(torch.empty_like(each, device="cpu"), each.requires_grad)
                    made[each].__dict__.update(vars(each))
                module._parameters[name] = made[each]  # type: ignore[assignment]
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def _step(
    policy: Policy,
    trained: list[nn.Parameter],
    optimizer: OptimizerConfig,
    hardware: Hardware,
    ledger: Ledger,
    averaged: bool,
) -> dict[str, float]:
    """The parts at the peak of an optimiser step. Its states, the averages and the gradients stay alive afterwards."""
    for parameter in trained:
        parameter.grad = ledger.mark(torch.empty_like(parameter), "gradients")
    optimizers = optimizer.build(policy.named_parameters())
    with ledger.sharing():
        for each in optimizers:
            for group in each.param_groups:
                if hardware.accelerator == "gpu" and "foreach" in group:
                    group["foreach"] = True  # PyTorch's choice there: all parameters at once, with copies of that size
            each.step()
            if averaged:
                for weight, state in each.state.items():
                    state["average"] = torch.empty_like(weight)
            for tensor in tree_leaves([list(state.values()) for state in each.state.values()]):
                if isinstance(tensor, Tensor):
                    ledger.mark(tensor, "optimizer")
        ledger.keep = optimizers
        ledger.peak_since()
        for each in optimizers:
            each.step()
    return ledger.peak_since()


def _backward(
    policy: Policy, trained: list[nn.Parameter], batches: Sequence[Batch], hardware: Hardware, ledger: Ledger
) -> dict[str, float]:
    """The parts at the peak of the forward and backward passes of a step."""

    def taken(parameter: Tensor) -> None:
        ledger.mark(parameter.grad, "gradients")

    for each in trained:
        each.register_post_accumulate_grad_hook(taken)
    ledger.peak_since()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=hardware.precision == "bf16-mixed"):
            loss = policy(batch).sum()
        loss.backward()
    return ledger.peak_since()


def _exchange(policy: Policy, trained: Iterable[nn.Parameter], hardware: Hardware) -> dict[str, float]:
    """Bytes of communication buffers for weights and gradients, in the backward and in the step.

    ddp: buckets that hold another copy of the gradients. fsdp: everything outside the blocks is gathered from the first
    forward to the last backward; of the blocks, the current one and the prefetched next one; and a block's gradients
    before the reduce-scatter, twice (as computed, and in the send buffer, in mixed precision as float32).
    """
    if not hardware.strategy.startswith("fsdp"):
        copies = float(sum(each.numel() * each.element_size() for each in trained))
        return {"backward": copies, "step": copies}
    inside = [list(block.parameters()) for block in blocks(policy.causal_lm)]
    known = {id(each) for block in inside for each in block}
    outside = sum(stored_bytes(each) for each in policy.parameters() if id(each) not in known)
    block = max(sum(map(stored_bytes, each)) for each in inside)
    sent = 4 if hardware.precision == "bf16-mixed" else None
    taking = [[each for each in some if each.requires_grad] for some in inside]
    gradients = max(
        sum(each.numel() * (each.element_size() + (sent or each.element_size())) for each in some) for some in taking
    )
    return {"backward": outside + 2 * block + gradients, "step": 0.0}


# --- weights in four bits -------------------------------------------------------------------------------------------


def four_bit_bytes(weights: int, double: bool) -> float:
    """Bytes that bitsandbytes stores for a matrix of so many weights: half a byte each, and a scale for every 64.

    A scale is a float32; with `double` (quantization) it is one byte, plus a float32 for every 256 scales. The two code
    books, of 16 and (with `double`) 256 float32, and an offset come once a matrix. Dettmers et al. 2023,
    arXiv:2305.14314, section 3.
    """
    blocks = -(-weights // 64)
    scales = blocks + 4 * -(-blocks // 256) + 4 * 256 + 4 if double else 4 * blocks
    return weights / 2 + scales + 4 * 16


class _Unpacked(torch.autograd.Function):
    """A linear layer whose weight is dequantized for each product, and which saves no activation for its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.weight = weight
        return nn.functional.linear(x, torch.empty_like(weight, dtype=x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ torch.empty_like(ctx.weight, dtype=grads[0].dtype), None


def _in_four_bits(model: Any, double: bool) -> None:
    """Makes the linear layers of a rehearsed model, except its head, count and compute as 4-bit layers."""
    base = model.get_base_model()
    head = base.get_output_embeddings()
    for name, module in base.named_modules():
        if type(module) is nn.Linear and module is not head and "lora_" not in name:
            module.weight.stored_bytes = four_bit_bytes(module.weight.numel(), double)  # type: ignore[attr-defined]
            module.forward = partial(_linear, module)  # type: ignore[method-assign]


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    y: Tensor = _Unpacked.apply(x.to(module.weight.dtype), module.weight)  # type: ignore[no-untyped-call]
    return y if module.bias is None else y + module.bias
