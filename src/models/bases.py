"""The loaded models of a backend: adapters share their base, and weights in training are shared in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .folders import check_adapted, check_adapter, reading
from .fourbit import FourBit
from .load import load_model, load_policy
from .snapshot import Snapshot

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Weights: TypeAlias = "Iterable[tuple[str, Tensor]]"
"""Full tensors by name: a model's under its Hugging Face names, an adapter's under peft's."""


class Bases:
    """The models of one backend, by version. Adapters share the weights of an equally stored base in memory.

    Only one of these adapters is active at a time, so a single thread must do all the work.
    """

    def __init__(self, dtype: str, device: str) -> None:
        self.dtype, self.device = dtype, device
        self._whole: dict[str, PreTrainedModel] = {}
        self._shared: dict[tuple[str, FourBit | None], _Shared] = {}

    def load(self, snapshot: Snapshot) -> tuple[PreTrainedModel, Callable[[], None]]:
        """The snapshot's model, and a function to call before each use, which activates its adapter."""
        if snapshot.base is None:
            model = self._whole[snapshot.version] = load_model(snapshot.path, self.dtype, self.device)
            return model, lambda: None
        key = (snapshot.base, FourBit.read(snapshot.path))
        if key not in self._shared:
            self._shared[key] = _Shared(load_policy(snapshot, self.dtype, self.device), snapshot.version)
        shared = self._shared[key]
        return shared.model.get_base_model(), partial(shared.use, shared.add(snapshot, self.device))

    def update(self, old: str, new: str, weights: Weights) -> None:
        """Replaces the weights of the model `old` and renames it to version `new`; see `take_over`.

        An adapter's weights may come with those of its unchanged base: if device and dtype agree, backend and learner
        share them in memory.
        """
        if old in self._whole:
            model = self._whole[new] = self._whole.pop(old)
            take_over(model, weights)
        else:
            shared = next(shared for shared in self._shared.values() if old in shared.names)
            shared.update(old, new, weights)

    def unload(self, version: str) -> None:
        """Frees a model, or an adapter and its base if no other adapter uses it."""
        self._whole.pop(version, None)
        for key, shared in list(self._shared.items()):
            shared.remove(version)
            if not shared.names:
                del self._shared[key]


class _Shared:
    """A base and its adapters: version -> peft's name."""

    def __init__(self, model: Any, version: str) -> None:
        self.model, self.names, self.count = model, {version: "default"}, 1
        self.active = "default"

    def add(self, snapshot: Snapshot, device: str) -> str:
        if snapshot.version not in self.names:
            name = f"adapter_{self.count}"
            self.count += 1
            check_adapter(Path(snapshot.path))
            with reading(snapshot.path):
                self.model.load_adapter(
                    snapshot.path, name, torch_device=device, autocast_adapter_dtype=False, local_files_only=True
                )
            check_adapted(snapshot.path, self.model, name)
            self.model.eval()
            self.names[snapshot.version] = name
        return self.names[snapshot.version]

    def use(self, name: str) -> None:
        if self.active != name:
            self.model.set_adapter(name, inference_mode=True)
            self.active = name

    def update(self, old: str, new: str, weights: Weights) -> None:
        name = self.names[new] = self.names.pop(old)
        take_over(self.model, weights, name)

    def remove(self, version: str) -> None:
        name = self.names.pop(version, None)
        if name is not None and self.names:
            self.use(next(iter(self.names.values())))
            self.model.delete_adapter(name)


def take_over(model: Any, weights: Weights, adapter: str | None = None) -> None:
    """Sets the weights of `model`, or of the `adapter` of a peft model, to `weights`.

    A tensor of the same device, dtype and shape is shared, not copied, so that the learner's updates are visible here
    at once. Others are copied. ValueError for missing or unknown names.
    """
    own = _own(model, adapter)
    base = {} if adapter is None else _base(model)
    missing = {id(tensor): name for name, tensor in own.items()}  # tied weights are one tensor with several names
    for name, tensor in weights:
        if name in own:
            _give(own[name], tensor, name)
            missing.pop(id(own[name]), None)
        elif name not in base:
            raise ValueError(f"the given weights hold {name}, which the model does not have")
        elif _alike(base[name], tensor):
            base[name].data = tensor.detach()
    if missing:
        raise ValueError(f"the given weights lack {len(missing)} of the model, such as {min(missing.values())}")


def _own(model: Any, adapter: str | None) -> Mapping[str, Tensor]:
    """The tensors of a model or an adapter, by their names in its files."""
    from peft import get_peft_model_state_dict

    state: Mapping[str, Tensor] = model.state_dict(keep_vars=True)
    if adapter is None:
        return state
    found: Mapping[str, Tensor] = get_peft_model_state_dict(model, state, adapter, save_embedding_layers=False)
    return found


def _base(model: Any) -> Mapping[str, Tensor]:
    """The base's weights, by their names without adapters."""
    named = model.get_base_model().named_parameters(remove_duplicate=False)
    return {name.replace(".base_layer.", "."): tensor for name, tensor in named if ".lora_" not in name}


def _give(own: Tensor, tensor: Tensor, name: str) -> None:
    if own.shape != tensor.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, and the model's own is {tuple(own.shape)}")
    if _alike(own, tensor):
        own.data = tensor.detach()
    else:
        own.data.copy_(tensor.detach())


def _alike(own: Tensor, tensor: Tensor) -> bool:
    return (own.device, own.dtype, own.shape) == (tensor.device, tensor.dtype, tensor.shape)
