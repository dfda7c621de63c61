"""A device that is none: its tensors compute on the CPU, and refuse to meet the CPU's own, as a GPU's do.

For tests of what only a GPU would notice: a table left on the CPU, a CPU's generator asked for a GPU's tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# The name of a device that every build of torch knows and that holds nothing itself.
ELSEWHERE = torch.device("meta")
# What a GPU takes from both sides: copies, and a tensor there indexed by one from here, but not filled with one.
_MIXING = {"_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_"}
_JOINING = {"stack", "cat"}


class _Far(Tensor):
    """A tensor elsewhere; `near` holds its numbers."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, near: Tensor) -> _Far:
        made = Tensor._make_wrapper_subclass(
            cls, near.size(), strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype,
            device=ELSEWHERE, requires_grad=near.requires_grad,
        )  # fmt: skip
        made.near = near
        return made

    def tolist(self) -> Any:
        return self.near.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Elsewhere(TorchDispatchMode):
    """While it is entered, `ELSEWHERE` is a device that computes; `torch.tensor(..., device=)` alone does not know it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name.split("::")[1]
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, _Far)]
    # A single number from the CPU is welcome everywhere but in a row of others.
    near = [t for t in tensors if not isinstance(t, _Far) and (t.dim() > 0 or name in _JOINING)]
    # Of what is indexed: itself, and what it is filled with; not the indices.
    indexed = [args[0], *args[2:3]] if "index" in name and name in _MIXING else []
    if far and near and (name not in _MIXING or any(value is tensor for value in indexed for tensor in near)):
        raise RuntimeError(f"{func}: tensors of two devices, {[tuple(tensor.shape) for tensor in near]} here")
    device = kwargs.get("device")
    result_is_far = bool(far) if device is None else torch.device(device) == ELSEWHERE
    if name == "copy_":
        result_is_far = isinstance(args[0], _Far)
    if result_is_far and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func}: the CPU's generator cannot fill a tensor elsewhere")

    def bring(value: Any) -> Any:
        if isinstance(value, _Far):
            return value.near
        return torch.device("cpu") if isinstance(value, torch.device) else value

    changed = {id(tensor.near): tensor for tensor in far} if func._schema.is_mutable else {}

    def send(value: Any) -> Any:
        if id(value) in changed:
            return changed[id(value)]
        return _Far(value) if result_is_far and isinstance(value, Tensor) else value

    return tree_map(send, func(*tree_map(bring, args), **tree_map(bring, kwargs)))
