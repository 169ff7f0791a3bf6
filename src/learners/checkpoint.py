"""Checkpoints within an iteration: after a kill, training continues at the saved optimiser step with the same result.

    <folder>/<steps>/<policy>/0.safetensors …   of each rank: trained weights, optimiser state, random states,
                                                reference log-probs of the round
    <folder>/<steps>/state.json                 written last, after all files of all policies and ranks: without it
                                                there is no checkpoint

One checkpoint holds all policies of a run. A rank writes its own shards; rank 0 writes all that is the same on every
rank. Nothing is pickled. If the number of ranks or the sharding has changed, the shards are merged on reading.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ..system import preempt, ranks
from ..system.files import InputError, read_json, sync_folder, write_json

STATE, SHARDED = "state.json", "sharded"
RANDOM, COLUMN = "random", "column/"


@dataclass(frozen=True)
class Part:
    """One policy's part of a complete checkpoint: its folder, the number of ranks that wrote it, and its session's
    state."""

    folder: Path
    world: int
    state: dict[str, Any]

    def columns(self) -> dict[str, Tensor]:
        """Log-probs under other models for the current round, by name: [M], on the CPU."""
        with safe_open(self.folder / "0.safetensors", framework="pt") as file:
            names = [name for name in list(file.keys()) if name.startswith(COLUMN)]
            return {name.removeprefix(COLUMN): file.get_tensor(name) for name in names}


class Kept(Protocol):
    """The interface of a session that checkpoints need."""

    @property
    def done(self) -> int:
        """Optimiser steps so far."""

    def state(self) -> dict[str, Any]:
        """Its state as plain JSON."""

    def save(self, folder: Path) -> None:
        """Writes this rank's tensors."""

    def load(self, part: Part) -> None:
        """Restores the saved state."""


class Saving:
    """The checkpoints of one call or stage, and the signals to stop while it runs (a context manager).

    folder, inputs   their folder, and a digest of their inputs; checkpoints of other inputs are refused (InputError)
    every_s          seconds between two checkpoints
    position         plain JSON of the caller (the round, the credits' states at its beginning), saved in each
                     checkpoint; initially read from the checkpoint that was found, None without one
    stop             whether a stop signal came; from the first optimiser step on, signals are only noted
    """

    def __init__(self, folder: Path, inputs: str, every_s: float) -> None:
        self.folder, self.inputs, self.every_s = folder, inputs, every_s
        self.sessions: dict[str, Kept] = {}
        self.begun = ranks.shared(lambda: newest(folder, inputs))
        self.position: Any = self.begun[1]["position"] if self.begun else None
        self.stop = preempt.Stop()
        self.last = time.monotonic()
        self._open = ExitStack()

    def __enter__(self) -> Saving:
        self.stop = self._open.enter_context(preempt.listening())
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, policy: str, session: Kept) -> None:
        """Registers a session, and restores it from the checkpoint that was found."""
        self.sessions[policy] = session
        if self.begun is not None:
            folder, state = self.begun
            if policy not in state["policies"]:
                raise InputError(f"{folder} holds no policy {policy}, only {', '.join(state['policies'])}")
            session.load(Part(folder / policy, state["world"], state["policies"][policy]))

    def asks(self) -> tuple[float, float]:
        """(1 if rank 0 finds that it is time to save, 1 if this rank was asked to stop), else 0; the caller sums over
        ranks."""
        return float(ranks.rank() == 0 and time.monotonic() - self.last >= self.every_s), float(self.stop.asked)

    def save(self) -> None:
        """Writes a checkpoint of all policies and ranks atomically, and then removes the older ones. Every rank calls
        it."""
        mine = self.folder / str(sum(session.done for session in self.sessions.values()))
        for policy, session in self.sessions.items():
            session.save(mine / policy)
        ranks.barrier()
        if ranks.rank() == 0:
            policies = {policy: session.state() for policy, session in self.sessions.items()}
            state = {"inputs": self.inputs, "world": ranks.world(), "position": self.position, "policies": policies}
            write_json(mine / STATE, state)
            for other in self.folder.iterdir():
                if other != mine:
                    shutil.rmtree(other)
        ranks.barrier()
        self.last = time.monotonic()

    def remove(self) -> None:
        """Removes all checkpoints, once the result exists."""
        if ranks.rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def newest(folder: Path, inputs: str) -> tuple[Path, dict[str, Any]] | None:
    """The last complete checkpoint in `folder` and its state. InputError if it belongs to a call with other inputs."""
    whole = [path for path in folder.glob(f"*/{STATE}") if path.parent.name.isdecimal()]
    if not whole:
        return None
    whole.sort(key=lambda path: int(path.parent.name))
    state = _state(whole[-1], inputs=str, world=int, policies=Mapping)
    if state["inputs"] != inputs:
        raise InputError(
            f"{whole[-1].parent} is a checkpoint of other inputs (samples, snapshot, seed or learner): "
            "use those inputs again, or remove it to train from the beginning"
        )
    return whole[-1].parent, state


def carry(folder: Path, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Saves optimisers, random states and weights in `folder` for the next session. Every rank calls it."""
    write(folder, module, optimizers, {})
    ranks.barrier()
    if ranks.rank() == 0:
        write_json(folder / STATE, {"world": ranks.world()})


def carried(folder: Path) -> Part | None:
    """The state that `carry` saved there, if it finished."""
    if not (folder / STATE).exists():
        return None
    return Part(folder, _state(folder / STATE, world=int)["world"], {})


def _state(path: Path, **kinds: type) -> dict[str, Any]:
    """The stored state, with values of these types. InputError for anything else."""
    state = read_json(path)
    if not isinstance(state, dict) or not all(isinstance(state.get(name), kind) for name, kind in kinds.items()):
        raise InputError(f"{path} is no state of a checkpoint: remove {path.parent}, and training goes on without it")
    return state


def write(folder: Path, module: nn.Module, optimizers: Sequence[Optimizer], columns: Mapping[str, Tensor]) -> None:
    """Writes this rank's file of a policy's part."""
    folder.mkdir(parents=True, exist_ok=True)
    held = {f"{COLUMN}{name}": column for name, column in columns.items()}
    _write(folder / f"{ranks.rank()}.safetensors", {**_tensors(module, optimizers), **_random(), **held})


def restore(checkpoint: Part, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Restores weights, optimiser state and random states."""
    with _Files(checkpoint) as files:
        named = {
            id(parameter): (name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        with torch.no_grad():
            for name, parameter in named.values():
                parameter.copy_(files.like(f"weight/{name}", parameter))
        for optimizer in optimizers:
            given = optimizer.state_dict()
            order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            given["state"] = {at: files.state(*named[id(parameter)]) for at, parameter in enumerate(order)}
            optimizer.load_state_dict(given)
        files.random()


def _tensors(module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    found: dict[str, Tensor] = {f"weight/{name}": parameter.detach() for name, parameter in named.items()}
    for optimizer in optimizers:
        for name, parameter in named.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                found[f"state/{name}/{key}"] = torch.as_tensor(value)
    return found


def _random() -> dict[str, Tensor]:
    """The states of PyTorch's generators. (Plans and samples use their own seeds.)"""
    found = {f"{RANDOM}/cpu": torch.get_rng_state()}
    return found | ({f"{RANDOM}/cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes this rank's part of `tensors`: its shards and random states; rank 0 adds everything else."""
    sharded = [name for name, tensor in tensors.items() if isinstance(tensor, DTensor)]
    mine = {
        name: tensor
        for name, tensor in tensors.items()
        if name in sharded or name.startswith(RANDOM) or ranks.rank() == 0
    }
    local = {name: tensor.to_local() if isinstance(tensor, DTensor) else tensor for name, tensor in mine.items()}
    draft = path.with_name(f".{path.name}.tmp")
    save_file(
        {name: tensor.cpu().contiguous() for name, tensor in local.items()},
        draft,
        metadata={SHARDED: json.dumps(sharded)},
    )
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    sync_folder(path.parent)


class _Files:
    """The files of all ranks that wrote a checkpoint, opened on demand."""

    def __init__(self, checkpoint: Part) -> None:
        self.checkpoint = checkpoint
        self.opened: dict[int, Any] = {}

    def __enter__(self) -> _Files:
        self.sharded: set[str] = set(json.loads(self._file(0).metadata()[SHARDED]))
        self.names: list[str] = list(self._file(0).keys())
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.clear()

    def _file(self, rank: int) -> Any:
        if rank not in self.opened:
            self.opened[rank] = safe_open(self.checkpoint.folder / f"{rank}.safetensors", framework="pt")
        return self.opened[rank]

    def _get(self, name: str) -> Tensor:
        """The whole tensor. (Shards are consecutive rows.)"""
        of = range(self.checkpoint.world if name in self.sharded else 1)
        return (
            torch.cat([self._file(rank).get_tensor(name) for rank in of])
            if len(of) > 1
            else self._file(0).get_tensor(name)
        )

    def like(self, name: str, parameter: Tensor) -> Tensor:
        """A tensor of `parameter`'s shape, with its sharding and device."""
        if not isinstance(parameter, DTensor):
            return self._get(name).to(parameter.device)
        mesh, placements = parameter.device_mesh, parameter.placements
        if name in self.sharded and self.checkpoint.world == ranks.world():
            local = self._file(ranks.rank()).get_tensor(name).to(parameter.device)
            return DTensor.from_local(
                local, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
            )
        return distribute_tensor(self._get(name).to(parameter.device), mesh, placements, src_data_rank=None)

    def state(self, name: str, parameter: Tensor) -> dict[str, Tensor]:
        """The optimiser's state of a parameter: tensors of its shape, and scalars such as the step count."""
        prefix = f"state/{name}/"
        keys = [each.removeprefix(prefix) for each in self.names if each.startswith(prefix)]
        single = {
            key
            for key in keys
            if f"{prefix}{key}" not in self.sharded and self._get(f"{prefix}{key}").shape != parameter.shape
        }
        return {
            key: self._get(f"{prefix}{key}") if key in single else self.like(f"{prefix}{key}", parameter)
            for key in keys
        }

    def random(self) -> None:
        """Restores this process's random generators from the rank of the same number, if there was one."""
        if ranks.rank() < self.checkpoint.world:
            file = self._file(ranks.rank())
            torch.set_rng_state(file.get_tensor(f"{RANDOM}/cpu"))
            if f"{RANDOM}/cuda" in self.names and torch.cuda.is_available():
                torch.cuda.set_rng_state(file.get_tensor(f"{RANDOM}/cuda"))
