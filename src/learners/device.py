"""A policy on a hardware profile: how it is loaded, how samples are packed for it, and Lightning Fabric around it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FSDPModule

from ..batches.packing import Budget
from ..models.load import load_policy
from ..models.policy import EVEN, Policy, check_packable
from ..models.sharding import load_sharded
from ..models.snapshot import Snapshot
from ..system import ranks


class Hardware(Protocol):
    """What the learner reads of a hardware profile."""

    accelerator: str
    devices: int
    nodes: int
    strategy: str
    precision: str
    threads: int
    micro_tokens: int
    row_tokens: int
    head_chunk: int
    activation_checkpointing: bool


def load(snapshot: Snapshot, hardware: Hardware) -> Policy:
    """The policy of a snapshot on the profile's device, with the attention kernel that suits packed rows there.

    Of an adapter's snapshot the adapter alone takes gradients; in mixed precision its frozen base is held in bfloat16.
    With the strategies fsdp and fsdp_offload the policy is sharded over the ranks, all of which must load it.
    """
    device = kind(hardware)
    mixed, sharded = hardware.precision == "bf16-mixed", hardware.strategy.startswith("fsdp")
    half = hardware.precision == "bf16-true" or (mixed and snapshot.base is not None)
    dtype = "bfloat16" if half else "float32"
    if sharded:
        offload = hardware.strategy == "fsdp_offload"
        policy = load_sharded(snapshot, dtype, device, hardware.head_chunk, mixed, offload)
    else:
        policy = Policy(load_policy(snapshot, dtype, device, trainable=True), hardware.head_chunk)
    if device == "cuda":
        policy.use_block_sparse_attention()
    else:
        policy.use_path_attention()
    check_packable(policy, 0.05 if sharded and mixed else None)
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a trunk that refused a packed row has left its forward half-way
    return policy


def kind(hardware: Hardware) -> str:
    """The profile's kind of device, as torch names it."""
    return "cuda" if hardware.accelerator in ("gpu", "cuda") else "cpu"


def budget(policy: Policy, hardware: Hardware, dropout: float = 0.0) -> Budget:
    """The profile's budget for samples that `policy` will see.

    Rows have few lengths where kernels are compiled for each that they meet: attention's on a GPU, and on a CPU
    oneDNN's for products in half precision, which it also keeps, a thousand of them.
    """
    multiple = EVEN if kind(hardware) == "cuda" or hardware.precision != "32-true" else 1
    return Budget(
        hardware.row_tokens, hardware.micro_tokens, policy.packable, policy.attention_tokens, dropout > 0, multiple
    )


def fabric(hardware: Hardware) -> Fabric:
    """Fabric of a hardware profile, over the process group that is there."""
    made = Fabric(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        num_nodes=hardware.nodes,
        strategy=_strategy(hardware.strategy),
        precision=hardware.precision,  # type: ignore[arg-type]
        plugins=[TorchElasticEnvironment()] if ranks.world() > 1 else None,
    )
    made.launch()
    return made


def _strategy(name: str) -> Any:
    match name:
        case "ddp":
            return DDPStrategy(gradient_as_bucket_view=True)
        case "fsdp" | "fsdp_offload":  # `load` has sharded the policy already
            return ModelParallelStrategy(lambda policy, mesh: policy, ranks.world(), 1)
    return "auto"


def autocast(hardware: Hardware) -> torch.autocast:
    """Products in bfloat16 where the profile mixes precisions. Weights are cast anew for each, so that gradients of one
    that is used twice are added up in float32 (Fabric's own keeps the cast ones)."""
    mixed = hardware.precision == "bf16-mixed"
    return torch.autocast(kind(hardware), torch.bfloat16, enabled=mixed, cache_enabled=False)


@contextmanager
def working(hardware: Hardware) -> Iterator[None]:
    """The profile's threads inside an operator, and no advice of Lightning's, while the block runs."""
    before, logger = torch.get_num_threads(), logging.getLogger("lightning_fabric")
    level = logger.level
    torch.set_num_threads(hardware.threads)
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning_fabric")
            yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(before)
