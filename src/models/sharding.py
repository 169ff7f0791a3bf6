"""Sharding: each rank holds its rows of every weight, and a block's weights are whole only while the block is at work.

FSDP2 (`fully_shard`). Parameters, gradients and optimiser states are DTensors, cut along their first dimension.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from ..system import ranks
from .dropout import blocks
from .fourbit import FourBit
from .load import load_policy, outline
from .policy import Policy
from .snapshot import Snapshot


def load_sharded(
    snapshot: Snapshot, dtype: str, device: str, head_chunk: int, mixed: bool, offload: bool = False
) -> Policy:
    """The trainable policy of a snapshot, sharded over all ranks, all of which must load it. With `offload` the rows
    lie in host memory.

    Rank 0 reads the weights, and the others get their rows from it: they hold no more at any time. A base in 4 bits is
    an exception: every rank makes the whole of it, about a quarter of its size in bfloat16, and then keeps its rows.
    """
    if snapshot.base is not None and FourBit.read(snapshot.path) is not None:
        policy = Policy(load_policy(snapshot, dtype, device, trainable=True), head_chunk)
        shard(policy, device, mixed, offload)
        return policy
    policy = Policy(outline(snapshot, dtype), head_chunk)
    shard(policy, device, mixed, offload)
    policy.to_empty(device="cpu" if offload else device)
    if offload:
        _move_buffers(policy, device)
    source = load_policy(snapshot, dtype, trainable=True) if ranks.rank() == 0 else None
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=offload)
    set_model_state_dict(policy.model, {} if source is None else source.state_dict(), options=options)
    given = {} if source is None else dict(source.named_buffers())  # those that no file has, too
    for name, buffer in policy.model.named_buffers():
        buffer.copy_(given.get(name, buffer))
        distributed.broadcast(buffer, src=0)
    if source is not None:
        policy.causal_lm.generation_config = source.generation_config
    return policy


def _move_buffers(policy: Policy, device: str) -> None:
    """Buffers are not sharded, so that nothing else brings them to the device."""
    for module in policy.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def shard(policy: Policy, device: str, mixed: bool, offload: bool = False) -> None:
    """Shards a policy over all ranks, block by block, onto their `device`s; only `forward` and `whole` may be called
    then.

    `mixed`: weights are gathered and used in bfloat16, while each rank keeps its shards, and adds up gradients, in
    float32. `offload`: shards, their gradients and so the optimiser's numbers lie in host memory, and a block's weights
    come to the device to be gathered (Rajbhandari et al. 2021, ZeRO-Infinity, arXiv:2104.07857, without disks).
    """
    mesh = init_device_mesh(device, (ranks.world(),))
    how: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True}
    if mixed:
        how["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    if offload:
        how["offload_policy"] = CPUOffloadPolicy(pin_memory=device == "cuda")
    for block in blocks(policy.causal_lm):
        fully_shard(block, **how)
    fully_shard(policy, **how)
    register_fsdp_forward_method(policy, "whole")


def gathered_state(model: nn.Module, trained: bool) -> dict[str, Tensor] | None:
    """The whole weights of a sharded model (the `trained` ones alone, where asked for), on rank 0's CPU and {} on the
    others; None where nothing is sharded. Every rank is needed."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained)
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))
