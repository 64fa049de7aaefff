"""Sequence parallelism: every rank holds a span of each sequence, and states pass between them.

Each rank runs its chunks from a zero state. Ranks exchange their span's contribution to the state
and its decay of an older one, a small all-gather whose size does not depend on the length, and then
compute the state that reaches their span. Exact: the recurrence is linear.

Shape letters: B batch, T time (tokens of the span), J chunk, N independent decays, F features that
share a decay, H heads, K rows and V columns of a state, D channels, W tokens before the span, P
ranks.

Source: the exchange of LASP-2 (Sun et al. 2025, arXiv 2502.07563), for decaying complex states.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_pipeline.stream.batch import Batch
from kernels.matrix_scan.op import matrix_scan
from kernels.state_scan.op import state_scan
from pretrain.parallel.collectives import gathered_along, shifted, summed_over
from pretrain.parallel.mesh import Axis
from spectral.sequence.span import Carry, Span


class RankSpan(Span):
    """This rank's span; spans are equally long and in the order of the ranks.

    Args:
        axis: The ranks.
        backward: Whether the sequence is read backwards, the last rank's span first.
    """

    def __init__(self, axis: Axis, *, backward: bool = False):
        self.axis, self.backward = axis, backward
        self.rank = axis.size - 1 - axis.rank if backward else axis.rank
        self._other = None if backward else RankSpan(axis, backward=True)

    def reversed(self) -> Span:
        """The same span of the sequence that is read backwards."""
        return self if self._other is None else self._other

    def position(self, length: int) -> int:
        """Tokens of the sequence before this span of `length` tokens."""
        return self.rank * length

    def start_carry(self, decay_BJN: Tensor, update_BJNF: Tensor, initial_BNF: Tensor) -> Carry:
        """Start the exchange of states; the caller may compute until it waits for them.

        Cost: an all-gather of P B N (F + 1) numbers, and as many in the backward pass.
        """
        _, final_BNF = state_scan(decay_BJN, update_BJNF, torch.zeros_like(initial_BNF))
        total_BN1 = decay_BJN.prod(dim=1)[..., None]
        local = torch.cat([final_BNF, total_BN1], dim=-1)
        arrive = self._start_exchange(local, initial_BNF, _decayed)
        return Carry(lambda: state_scan(decay_BJN, update_BJNF, arrive()))

    def start_matrix_carry(
        self, transition_BJHKK: Tensor, update_BJHKV: Tensor, initial_BHKV: Tensor
    ) -> Carry:
        """Start the exchange of states that chunks multiply by matrices.

        Cost: an all-gather of P B H K (K + V) numbers, and as many in the backward pass.
        """
        K = transition_BJHKK.shape[-1]
        # what the span makes of no state and, in K more columns, of each row of a state
        updates = torch.cat([update_BJHKV, torch.zeros_like(transition_BJHKK)], dim=-1)
        rows_KK = torch.eye(K, dtype=updates.dtype, device=updates.device)
        nothing = torch.zeros_like(initial_BHKV)
        start = torch.cat([nothing, rows_KK.expand(*nothing.shape[:-1], K)], dim=-1)
        _, local = matrix_scan(transition_BJHKK, updates, start)
        arrive = self._start_exchange(local, initial_BHKV, _transformed)
        return Carry(lambda: matrix_scan(transition_BJHKK, update_BJHKV, arrive()))

    def _start_exchange(
        self, local: Tensor, initial: Tensor, follow: "_Follow"
    ) -> Callable[[], Tensor]:
        """Send what this span does to a state; the result waits for the state that arrives here."""
        exchange = _Exchange(self.axis, follow, self.backward)
        started = _Begin.apply(local, exchange)

        def arrive() -> Tensor:
            incoming: Tensor = _Finish.apply(started, initial, exchange)
            return incoming

        return arrive

    def before(self, x_BTD: Tensor, width: int) -> Tensor | None:
        """The last `width` tokens of the previous rank; zeros, or None for integers, on the first.

        Raises:
            ValueError: The span is shorter than `width`.
        """
        if x_BTD.shape[1] < width:
            raise ValueError(
                f"a span of {x_BTD.shape[1]} tokens is shorter than the {width} that the next one "
                "reads of it: use fewer sequence ranks"
            )
        step = -1 if self.backward else 1
        if x_BTD.is_floating_point():
            past: Tensor = _Past.apply(x_BTD, width, self.axis, step)
            return past
        previous = shifted(x_BTD[:, -width:], self.axis, step)
        return previous if self.rank else None

    def total(self, part: Tensor) -> Tensor:
        """The sum over all spans, differentiably: each rank's loss may depend on every part."""
        return summed_over(part, self.axis)

    def largest(self, part: Tensor) -> Tensor:
        """The elementwise maximum over all spans; each rank's loss may depend on every part."""
        return gathered_along(part[None], 0, self.axis).amax(0)

    def num_documents(self, segment_ids_BT: Tensor) -> int:
        """Largest number of documents in a row of whole sequences."""
        highest = segment_ids_BT.max()
        dist.all_reduce(highest, dist.ReduceOp.MAX, group=self.axis.group)
        return int(highest) + 1

    def uniform(self, like_R: Tensor, batch: int) -> Tensor:
        """The random numbers that a single rank would draw for these chunks."""
        size, rank = self.axis.size, self.rank
        chunks, shape = like_R.shape[0] // batch, like_R.shape[1:]
        drawn = torch.rand(batch, size * chunks, *shape, dtype=like_R.dtype, device=like_R.device)
        return drawn[:, rank * chunks : (rank + 1) * chunks].flatten(0, 1)


class _Exchange:
    """An all-gather under way, and in the backward pass the reduce-scatter of its gradient."""

    def __init__(self, axis: Axis, follow: "_Follow", backward: bool):
        self.axis, self.follow, self.backward = axis, follow, backward
        self.shape = torch.Size()
        self.gathered = self.gradient = torch.empty(0)
        self.work: Any = None

    def begin(self, local: Tensor) -> None:
        self.shape, self.dtype = local.shape, local.dtype
        numbers = _as_real(local)
        self.gathered = numbers.new_empty(self.axis.size, *numbers.shape)
        self.work = dist.all_gather_single(
            self.gathered.flatten(0, 1), numbers, group=self.axis.group, async_op=True
        )

    def end(self) -> Tensor:
        self.work.wait()
        return _as(self.dtype, self.gathered)

    def begin_backward(self, grads: Tensor) -> None:
        numbers = _as_real(grads)
        self.gradient = numbers.new_empty(numbers.shape[1:])
        self.work = dist.reduce_scatter_single(
            self.gradient, numbers.flatten(0, 1), group=self.axis.group, async_op=True
        )

    def end_backward(self) -> Tensor:
        self.work.wait()
        return _as(self.dtype, self.gradient)


class _Begin(torch.autograd.Function):
    """Starts the all-gather; in the backward pass, waits for the gradient."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.begin(local)
        # a handle: the result has not arrived yet
        return local.new_empty(0)

    @staticmethod
    def backward(ctx: Any, _handle: Tensor) -> tuple[Tensor, None]:
        return ctx.exchange.end_backward(), None


class _Finish(torch.autograd.Function):
    """The state that reaches this span; in the backward pass, starts the reduce-scatter."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, initial: Tensor, exchange: _Exchange) -> Tensor:
        gathered = exchange.end()
        ctx.exchange, ctx.handle = exchange, handle.new_empty(0)
        ctx.save_for_backward(gathered, initial)
        return _incoming(gathered, initial, exchange)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        saved = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        with torch.enable_grad():
            state = _incoming(saved[0], saved[1], ctx.exchange)
        dgathered, dinitial = torch.autograd.grad(
            state, saved, grad, allow_unused=True, materialize_grads=True
        )
        ctx.exchange.begin_backward(dgathered)
        return ctx.handle, dinitial, None


# (what a span does to a state, the state before it) -> the state after it
_Follow = Callable[[Tensor, Tensor], Tensor]


def _decayed(span: Tensor, state_BNF: Tensor) -> Tensor:
    return torch.addcmul(span[..., :-1], span[..., -1:], state_BNF)


def _transformed(span: Tensor, state_BHKV: Tensor) -> Tensor:
    V = state_BHKV.shape[-1]
    return span[..., :V] + span[..., V:] @ state_BHKV


def _incoming(gathered: Tensor, initial: Tensor, exchange: _Exchange) -> Tensor:
    state = initial
    spans, rank = gathered.unbind(), exchange.axis.rank
    for earlier in reversed(spans[rank + 1 :]) if exchange.backward else spans[:rank]:
        state = exchange.follow(earlier, state)
    return state.clone()


class _Past(torch.autograd.Function):
    """The end of the previous span; its gradient is sent back to that rank."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, width: int, axis: Axis, step: int) -> Tensor:
        ctx.shape, ctx.width, ctx.axis, ctx.step = x_BTD.shape, width, axis, step
        return shifted(x_BTD[:, x_BTD.shape[1] - width :], axis, step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        grad_BTD = grad.new_zeros(ctx.shape)
        grad_BTD[:, ctx.shape[1] - ctx.width :] = shifted(grad, ctx.axis, -ctx.step)
        return grad_BTD, None, None, None


def _as_real(x: Tensor) -> Tensor:
    # NCCL has no complex numbers
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.contiguous()


def _as(dtype: torch.dtype, numbers: Tensor) -> Tensor:
    return torch.view_as_complex(numbers) if dtype.is_complex else numbers


def own_span(batch: Batch, axis: Axis) -> Batch:
    """This rank's tokens of a batch."""
    if axis.size == 1:
        return batch
    length = batch.tokens.shape[1] // axis.size
    span = slice(axis.rank * length, (axis.rank + 1) * length)
    tensors = batch.tokens[:, span], batch.labels[:, span], batch.segment_ids[:, span]
    return Batch(*tensors, batch.documents)
