"""Sharding: each rank holds its rows of every weight, and a block's weights are whole only while the block is at work.

FSDP2 (`fully_shard`). Parameters, gradients and optimiser states are DTensors, cut along their first dimension.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from .. import ranks
from .dropout import blocks
from .policy import Policy


def shard(policy: Policy, device: str, mixed: bool) -> None:
    """Shards a policy over all ranks, block by block, onto their `device`s; only `forward` and `whole` may be called then.

    `mixed`: weights are gathered and used in bfloat16, while each rank keeps its shards, and adds up gradients, in float32.
    """
    mesh = init_device_mesh(device, (ranks.world(),))
    how: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True}
    if mixed:
        how["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in blocks(policy.causal_lm):
        fully_shard(block, **how)
    fully_shard(policy, **how)
    register_fsdp_forward_method(policy, "whole")


def gathered_state(model: nn.Module, trained: bool) -> dict[str, Tensor] | None:
    """The whole weights of a sharded model (the `trained` ones alone, where asked for), on rank 0's CPU and {} on the others;
    None where nothing is sharded. Every rank is needed."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=trained)
    return cast("dict[str, Tensor]", get_model_state_dict(model, options=options))
