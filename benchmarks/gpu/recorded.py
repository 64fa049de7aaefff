"""Every op of a layer at the sizes at which a training pass calls it: its cost by count."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.kernels.roofline import TrafficMode
from pretrain.runtime.flops import op_formulas


class Work(NamedTuple):
    """Operations and bytes of a call, counted operator by operator."""

    flops: int
    num_bytes: int


class Recorder(TorchDispatchMode):
    """Keeps the largest call of each of our operators.

    Attributes:
        calls: (operator, its arguments) by the operator's name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        if function.namespace == "resonance":
            name = function._opname
            if name not in self.calls or _numel(args) > _numel(self.calls[name][1]):
                self.calls[name] = function, tree_map(_kept, args)
        return function(*args, **(kwargs or {}))


def recorded_calls(run: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """The calls of our operators in a pass, by name: each can be repeated."""
    with Recorder() as recorder:
        run()
    return {
        name: lambda operator=operator, args=args: operator(*args)
        for name, (operator, args) in sorted(recorder.calls.items())
    }


def counted(run: Callable[[], object]) -> Work:
    """Operations and bytes of a pass.

    Bytes are those of every operator's inputs and outputs, as often as it is called: what a GPU
    moves that keeps nothing in its caches.
    """
    flop_counter = FlopCounterMode(display=False, custom_mapping=op_formulas())
    with flop_counter, TrafficMode() as traffic:
        run()
    return Work(flop_counter.get_total_flops(), traffic.num_bytes)


def _numel(args: Any) -> int:
    return sum(i.numel() for i in tree_leaves(args) if isinstance(i, Tensor))


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
