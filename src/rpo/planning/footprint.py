"""What a computation would hold in memory and how much it computes, found without computing it.

The function runs on PyTorch's meta device, where tensors have shapes and no numbers. Every storage
that an operation makes is noted when it appears and when it is freed, the backward pass included,
so the peak is that of the real program. Three things differ from what the meta device would do by
itself, to be as on a GPU: attention is the memory-efficient kernel (arXiv 2112.05682), which keeps
q, k, v, the output and one number a row and no N x N matrix; autocast's choice of types is
imitated; and workspaces of convolution kernels are not seen (estimate.OVERHEAD stands for
them).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Footprint:
    """Memory and work of one call.

    Attributes:
        moments: (fixed, growing) bytes alive at the moments that can be the peak. The growing part
            is proportional to the batch; the fixed part (gradients, cast weights) is not.
        flops: floating-point operations, a multiplication and an addition being two; proportional
            to the batch.
    """

    moments: tuple[tuple[int, int], ...]
    flops: int

    @property
    def growing(self) -> int:
        """The most bytes that one measured batch has alive of what grows with it."""
        return max((growing for _, growing in self.moments), default=0)

    def peak(self, batch: int = 1) -> int:
        """Bytes at the peak, where the batch is so many times the measured one."""
        return max((fixed + batch * growing for fixed, growing in self.moments), default=0)

    def bound(self, batch: int = 1) -> int:
        """Bytes at the peak if all that is fixed were alive throughout."""
        if not self.moments:
            return 0
        return max(fixed for fixed, _ in self.moments) + batch * self.growing


def footprint(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    modules: Iterable[nn.Module] = (),
    autocast: torch.dtype | None = None,
) -> Footprint:
    """The footprint of `function(*inputs)`; all tensors in it must be on the meta device.

    inputs: the tensors in them, in lists and dicts too, are what grows with the batch. modules:
    whose parameters' gradients, where the function makes some, count as fixed. autocast: the lower
    precision of the computation, None for none. Neither inputs nor parameters are counted.
    """
    with _Allocations(inputs) as allocations, _OnAccelerator(autocast):
        result = function(*inputs)
        del result
    gradients = [p.grad for module in modules for p in module.parameters() if p.grad is not None]
    moments = allocations.moments(gradients)
    for module in modules:
        module.zero_grad(set_to_none=True)
    return Footprint(moments, allocations.flops)


def recomputing(autocast: torch.dtype | None) -> Callable[..., Any]:
    """What diffusers' `enable_gradient_checkpointing` takes: it recomputes as `footprint` does."""

    def contexts() -> tuple[Any, Any]:  # of the computation and of its repetition
        return nullcontext(), _OnAccelerator(autocast, keeps=False)

    return partial(checkpoint, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def parameter_count(module: nn.Module | None) -> int:
    """All parameters, each once; 0 for a part that is absent."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def module_bytes(module: nn.Module | None, element: int) -> int:
    """Bytes of parameters and floating-point buffers at `element` bytes each."""
    if module is None:
        return 0
    buffers = sum(b.numel() for b in module.buffers() if b.is_floating_point())
    return (parameter_count(module) + buffers) * element


class _Allocations(TorchDispatchMode):
    """Notes the life of every storage, and counts floating-point operations."""

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.flops = 0
        self._events: list[tuple[int, int]] = []  # (number of the storage, +bytes or -bytes)
        self._numbers: dict[int, int] = {}  # of the living ones, by address
        self._grows: dict[int, bool] = {}  # by number
        self._inputs = [t.untyped_storage() for t in tree_leaves(inputs) if _is_tensor(t)]
        self._growing = {storage._cdata for storage in self._inputs}  # addresses
        self._count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=output)
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        for tensor in tree_leaves(output):
            if _is_tensor(tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:  # else a view, of a weight perhaps
                    self._note(storage, not given.isdisjoint(self._growing))
        return output

    def _note(self, storage: Any, grows: bool) -> None:
        address = storage._cdata
        if address in self._numbers:
            return
        number, size = self._count, storage.nbytes()
        self._count += 1
        self._numbers[address], self._grows[number] = number, grows
        if grows:
            self._growing.add(address)
        self._events.append((number, size))
        weakref.finalize(storage, self._freed, address, size).atexit = False

    def _freed(self, address: int, size: int) -> None:
        self._events.append((self._numbers.pop(address), -size))
        self._growing.discard(address)

    def moments(self, gradients: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
        """(fixed, growing) of `Footprint`; the gradients are alive and fixed."""
        for gradient in gradients:
            self._grows[self._numbers[gradient.untyped_storage()._cdata]] = False
        alive, seen = [0, 0], {(0, 0)}
        for number, size in self._events:
            alive[self._grows[number]] += size
            if size > 0:
                seen.add((alive[0], alive[1]))
        return tuple(_undominated(seen))


def _undominated(points: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The points than which no other is at least as large in both coordinates."""
    highest = -1
    for fixed, growing in sorted(points, reverse=True):
        if growing > highest:
            highest = growing
            yield fixed, growing


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


# What CUDA's autocast does in the lower precision and what in float32 (ATen/autocast_mode.h of
# PyTorch), as far as diffusion models use it; other operations take what they are given.
_LOWER = {"linear", "conv1d", "conv2d", "matmul", "__matmul__", "bmm", "baddbmm", "addmm", "mm"}
_FULL = {
    "layer_norm",
    "rms_norm",
    "group_norm",
    "softmax",
    "norm",
    "exp",
    "pow",
    "sum",
    "mse_loss",
    "rsqrt",
}
_ATTENTION = "scaled_dot_product_attention"


class _OnAccelerator(TorchFunctionMode):
    """Attention by the memory-efficient kernel, and autocast to `lower` where it is given."""

    def __init__(self, lower: torch.dtype | None, keeps: bool = True) -> None:
        super().__init__()
        self._lower, self._keeps = lower, keeps
        self._cast: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "backward":
            self._cast.clear()  # autocast has ended; what the graph saved lives on
        if self._lower is not None and name in (*_LOWER, _ATTENTION):
            args, kwargs = tree_map_only(Tensor, self._to_lower, (args, kwargs))
        elif self._lower is not None and name in _FULL:
            args, kwargs = tree_map_only(Tensor, _to_full, (args, kwargs))
        if name == _ATTENTION:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _to_lower(self, tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        if not (self._keeps and tensor.requires_grad and tensor.is_leaf):
            return tensor.to(self._lower)
        # Autocast keeps the casts of weights that learn, for as long as it is on.
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = tensor, tensor.to(self._lower)
        return self._cast[id(tensor)][1]


def _to_full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """(..., H, N, D) -> (..., H, N, D), as F.scaled_dot_product_attention."""
    shape = query.shape
    query, key, value = (t.reshape(-1, *t.shape[-3:]) for t in (query, key, value))
    needed = torch.is_grad_enabled() and query.requires_grad
    # The mask adds nothing that is kept: it is broadcast, not repeated for each head.
    result = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, needed, dropout_p, is_causal, scale=scale
    )
    return result[0].reshape(*shape[:-1], value.shape[-1])
