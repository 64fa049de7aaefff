"""Activation checkpointing: recompute in the backward pass what would fill the memory.

By fairscale's `checkpoint_wrapper`, which also moves the kept inputs to the CPU: DeepSpeed's own
needs CUDA for that, torch's has no such option. It remembers of autocast only that there was one
(it would recompute in float16 what ran in bfloat16), so the dtype is handed on with the inputs.
"""

from typing import Any, cast

import torch
from fairscale.nn.checkpoint import checkpoint_wrapper
from torch import Tensor, nn

from pretrain.config import TrainConfig
from pretrain.runtime.precision import autocast, current_autocast
from spectral.block import Block
from spectral.mixers.base import MixerState
from spectral.mixers.context import SequenceContext


def checkpoint_activations(blocks: nn.ModuleList, config: TrainConfig) -> None:
    """Wrap blocks, or their feed-forwards, in place."""
    kind, offload = config.activation_checkpointing, config.activation_offload
    for index in range(0, len(blocks), config.activation_checkpoint_every):
        block = cast(Block, blocks[index])
        if kind == "full":
            blocks[index] = CheckpointedBlock(block, offload=offload)
        elif kind == "selective":
            block.feed_forward = _Checkpointed(block.feed_forward, offload=offload)  # type: ignore[assignment]


class CheckpointedBlock(nn.Module):
    """A block of which only the input is kept. Training only: it remembers no state."""

    def __init__(self, block: Block, *, offload: bool):
        super().__init__()
        self.flat = _Checkpointed(_FlatBlock(block), offload=offload)

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None
    ) -> tuple[Tensor, None, Tensor | None]:
        """As `Block.forward`, without a state."""
        if state is not None:
            raise ValueError("a model that recomputes its activations goes on from no state")
        outputs = self.flat(x_BTD, context)
        return outputs[0], None, outputs[1] if len(outputs) > 1 else None


class _Checkpointed(nn.Module):
    """A module that is recomputed in the precision in which it was computed."""

    def __init__(self, module: nn.Module, *, offload: bool):
        super().__init__()
        self.inner = checkpoint_wrapper(_InPrecision(module), offload_to_cpu=offload)

    def forward(self, *inputs: Any) -> Any:
        return self.inner(current_autocast(), *inputs)


class _InPrecision(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, dtype: torch.dtype | None, *inputs: Any) -> Any:
        with autocast(dtype):
            return self.module(*inputs)


class _FlatBlock(nn.Module):
    """The wrapper lets gradients through tensors only, not through tuples of them."""

    def __init__(self, block: Block):
        super().__init__()
        self.block = block

    def forward(self, x_BTD: Tensor, context: SequenceContext) -> tuple[Tensor, ...]:
        y_BTD, _, auxiliary = self.block(x_BTD, context)
        return (y_BTD,) if auxiliary is None else (y_BTD, auxiliary)
