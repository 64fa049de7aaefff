"""`delta_write` as a torch operator with its own backward."""

from typing import Any

import torch
from torch import Tensor

from kernels.delta.reference import delta_write as delta_write_reference
from kernels.delta.reference import delta_write_backward as delta_write_backward_reference
from kernels.dispatch import check_tensors, run
from kernels.precision import work_dtype


@torch.library.custom_op("resonance::delta_write", mutates_args=())
def _delta_write(
    k: Tensor, e: Tensor, u: Tensor, total: Tensor, read: Tensor, segment: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return run(delta_write_reference, k, e, u, total, read, segment)


@torch.library.custom_op("resonance::delta_write_backward", mutates_args=())
def _delta_write_backward(
    grad_written: Tensor,
    grad_lost: Tensor,
    k: Tensor,
    e: Tensor,
    total: Tensor,
    read: Tensor,
    segment: Tensor | None,
    written: Tensor,
    lost: Tensor,
    inverse: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return run(
        delta_write_backward_reference,
        *(grad_written, grad_lost, k, e, total, read, segment, written, lost, inverse),
    )


@_delta_write.register_fake
def _(
    k: Tensor, e: Tensor, u: Tensor, total: Tensor, read: Tensor, segment: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    inverse = total.new_empty(*total.shape, total.shape[-1])
    return u.new_empty(u.shape), e.new_empty(e.shape), inverse


@_delta_write_backward.register_fake
def _(
    grad_written: Tensor,
    grad_lost: Tensor,
    k: Tensor,
    e: Tensor,
    total: Tensor,
    read: Tensor,
    *others: Tensor | None,
) -> tuple[Tensor, ...]:
    return tuple(i.new_empty(i.shape) for i in (k, e, grad_written, total, read))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    k, e, _, total, read, segment = inputs
    ctx.save_for_backward(k, e, total, read, segment, *output)
    ctx.mark_non_differentiable(output[2])


def _backward(
    ctx: Any, grad_written: Tensor, grad_lost: Tensor, _inverse: Tensor
) -> tuple[Tensor | None, ...]:
    return *_delta_write_backward(grad_written, grad_lost, *ctx.saved_tensors), None


_delta_write.register_autograd(_backward, setup_context=_setup_context)


def delta_write(
    k_NHCK: Tensor,
    e_NHCK: Tensor,
    u_NHCV: Tensor,
    total_NHC: Tensor,
    read_NHC: Tensor,
    segment_NC: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Values that tokens write, and their loss per state; see `reference.delta_write`.

    Raises:
        ValueError: Shapes, dtypes or devices do not fit together.
    """
    shapes = [tuple(i.shape) for i in (k_NHCK, e_NHCK, u_NHCV, total_NHC, read_NHC)]
    if k_NHCK.ndim != 4 or shapes[1] != shapes[0] or shapes[2][:3] != shapes[0][:3]:
        raise ValueError(
            f"delta_write: expected k and e [N, H, C, K] and u [N, H, C, V], got {shapes[:3]}"
        )
    N, _, C, _ = shapes[0]
    if {*shapes[3:]} != {shapes[0][:3]}:
        raise ValueError(f"delta_write: expected total and read {shapes[0][:3]}, got {shapes[3:]}")
    if segment_NC is not None and segment_NC.shape != (N, C):
        raise ValueError(f"delta_write: expected segments {(N, C)}, got {tuple(segment_NC.shape)}")
    work = work_dtype(k_NHCK)
    dtypes = [i.dtype for i in (k_NHCK, e_NHCK, u_NHCV, total_NHC, read_NHC)]
    if dtypes != [k_NHCK.dtype] * 3 + [work] * 2:
        raise ValueError(
            f"delta_write: expected k, e and u of one dtype and total and read of {work}, got "
            f"{dtypes}"
        )
    check_tensors(
        "delta_write", k_NHCK, e=e_NHCK, u=u_NHCV, total=total_NHC, read=read_NHC,
        segment=segment_NC,
    )  # fmt: skip
    written, lost, _ = _delta_write(k_NHCK, e_NHCK, u_NHCV, total_NHC, read_NHC, segment_NC)
    return written, lost
