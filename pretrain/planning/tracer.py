"""A record of everything that code does to fake tensors: memory, operations, collectives.

Tensors are fake (shapes only), so a rank of a model of any size runs in seconds.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrain.planning.records import Allocation, Collective, OpaqueError, OpCost, Segment
from pretrain.planning.traffic import sent_bytes
from pretrain.runtime.fake_values import RESULTS, without_masks
from pretrain.runtime.flops import formulas

aten = torch.ops.aten
# outputs that nothing writes
UNWRITTEN = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_"}


class Tracer(TorchDispatchMode):
    """Context that records what happens to tensors in it; inside of a `FakeTensorMode`.

    Attributes:
        clock: Number of operations so far.
        allocations: Every storage that was made.
        segments: Operations by segment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        self.allocations: list[Allocation] = []
        self.segments: dict[str, Segment] = {}
        self._formulas = formulas()
        self._living: dict[int, tuple[Any, Allocation]] = {}
        self._labels = [""]
        self._inside_op, self._launches, self._weight = False, 0, 1
        self._name = ""
        self.start("build")

    def start(self, name: str) -> None:
        """Begin a segment, or continue it."""
        self._name = name
        self._segment = self.segments.setdefault(name, Segment())

    @contextmanager
    def during(self, name: str) -> Iterator[None]:
        """A segment inside of another."""
        before = self._name
        self.start(name)
        try:
            yield
        finally:
            self.start(before)

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Storages that are made in this context have a label."""
        self._labels.append(label)
        try:
            yield
        finally:
            self._labels.pop()

    @contextmanager
    def repeated(self, number: int) -> Iterator[None]:
        """Context whose records count `number` times, one after the other."""
        before, self._weight = self._weight, self._weight * number
        try:
            yield
        finally:
            self._weight = before

    def label(self, tensors: Iterable[Tensor], label: str) -> None:
        """Label the storages of tensors."""
        for tensor in tensors:
            if allocation := self._find(tensor):
                allocation.label = label

    def leave(self, tensors: Iterable[Tensor]) -> None:
        """Record that the storages of tensors are moved to the host."""
        for tensor in tensors:
            allocation = self._find(tensor)
            if allocation is not None and allocation.left is None:
                allocation.left = self.clock

    def launch(self, arguments: Iterable[Any]) -> None:
        """Record the launch of a kernel, which reads or writes each of its tensors once."""
        tensors = [x for x in arguments if isinstance(x, Tensor)]
        dtype = str(tensors[0].dtype) if tensors else ""
        self._launches += 1
        self._segment.ops[OpCost("other", dtype, 0, sum(map(_touched, tensors)))] += self._weight

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Record an operation, and run it."""
        kwargs = kwargs or {}
        self.clock += 1
        if func in RESULTS:
            return RESULTS[func](*args, **kwargs)
        if func is aten.index.Tensor:
            args = (args[0], without_masks(args[1]))
        if func.namespace == "c10d":
            return self._communicate(func, args, kwargs)
        if func.namespace == "resonance":
            return self._run_operator(func, args, kwargs)
        if self._inside_op and func.namespace == "aten" and func._can_decompose():
            # below autograd, composed operators arrive whole
            with self:
                return func.decompose(*args, **kwargs)
        known = len(self.allocations)
        out = func(*args, **kwargs)
        self._register(out)
        self._count(func, args, kwargs, out, is_new=len(self.allocations) > known)
        return out

    def _run_operator(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The work inside one of our operators, which is opaque to others."""
        inside, self._inside_op, launches = self._inside_op, True, self._launches
        is_loss = "cross_entropy" in func._schema.name
        whole = False
        try:
            with self, self.labelled("logits" if is_loss else self._labels[-1]):
                out = OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        except OpaqueError:
            out, whole = func(*args, **kwargs), True
            self._register(out)
        finally:
            self._inside_op = inside
        results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        if is_loss:
            # the loss and its gradients are not logits
            self.label(results, self._labels[-1])
        flops = self._flops(func, args, kwargs, out)
        self._segment.model_flops += flops * self._weight
        # the products of its kernels; those of a reference were counted as they ran
        if whole or self._launches > launches:
            operands = [x for x in args if isinstance(x, Tensor)]
            moved = sum(map(_touched, [*operands, *results])) if whole else 0
            self._segment.ops[OpCost("matrix", str(operands[0].dtype), flops, moved)] += (
                self._weight
            )
        return out

    def _communicate(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        name = func._schema.name.split("::")[1].strip("_")
        tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
        sent = sent_bytes(name, args)
        if sent is not None:
            group = next(x for x in args if isinstance(x, torch.ScriptObject) and _is_group(x))
            ranks = dist.get_process_group_ranks(dist.ProcessGroup.unbox(group))
            self._segment.collectives[Collective(name, sent, tuple(ranks))] += self._weight
        for tensor in tensors:
            allocation = self._find(tensor)
            if allocation is not None and not allocation.label:
                allocation.label = "communication"
        # all ranks do the same: what arrives is what this rank has
        constants = [getattr(x, "constant", None) for x in tensors]
        out = func(*args, **kwargs)
        for tensor, constant in zip(tensors, constants, strict=True):
            if constant is not None:
                tensor.constant = constant  # type: ignore[attr-defined]
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any, *, is_new: bool) -> None:
        name = func._schema.name.split("::")[1]
        if name in UNWRITTEN or not (is_new or func._schema.is_mutable):
            return
        flops = self._flops(func, args, kwargs, out)
        if not self._inside_op:
            self._segment.model_flops += flops * self._weight
        kind = "fft" if name.startswith("_fft") else "matrix" if flops else "other"
        tensors = [x for x in (*tree_leaves(args), *tree_leaves(out)) if isinstance(x, Tensor)]
        dtype = str(tensors[0].dtype) if tensors else ""
        self._segment.ops[OpCost(kind, dtype, flops, sum(map(_touched, tensors)))] += self._weight

    def _flops(self, func: Any, args: Any, kwargs: Any, out: Any) -> int:
        formula = self._formulas.get(func._overloadpacket)
        return int(formula(*args, **kwargs, out_val=out)) if formula else 0

    def _register(self, out: Any) -> None:
        for tensor in tree_leaves(out):
            # a tensor without data is no memory
            if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._living:
                size = storage.nbytes()
                allocation = Allocation(size, self.clock, self._name, self._labels[-1])
                self.allocations.append(allocation)
                self._living[key] = (weakref.ref(storage, self._burial(key)), allocation)

    def _burial(self, key: int) -> Callable[[Any], None]:
        def bury(_reference: Any) -> None:
            self._living.pop(key)[1].death = self.clock

        return bury

    def _find(self, tensor: Tensor) -> Allocation | None:
        entry = self._living.get(tensor.untyped_storage()._cdata)
        return entry[1] if entry else None


def _touched(tensor: Tensor) -> int:
    """Bytes that reading or writing a tensor moves; an expanded one is smaller than its shape."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _is_group(script: Any) -> bool:
    return "ProcessGroup" in str(script._type())
