"""Activation checkpointing: activations are recomputed in the backward pass to save memory.

By fairscale's `checkpoint_wrapper`, which also moves the kept inputs to the CPU: DeepSpeed's needs
CUDA for that, torch's has no such option. It saves whether autocast was on, but not its dtype (it
would recompute in float16 what ran in bfloat16), so the dtype is passed with the inputs.
"""

from typing import Any, cast

import torch
from fairscale.nn.checkpoint import checkpoint_wrapper
from torch import Tensor, nn

from pretrain.runtime.precision import autocast, current_autocast
from pretrain.train_config import TrainConfig
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


def recomputed_module(module: nn.Module) -> nn.Module | None:
    """The module that is recomputed, inside of its wrapper; None if the module is not."""
    if not isinstance(module, _Checkpointed):
        return None
    return module.wrapped


class CheckpointedBlock(nn.Module):
    """A block that keeps only its input, for training only: it returns no state."""

    def __init__(self, block: Block, *, offload: bool):
        super().__init__()
        self.flat = _Checkpointed(_FlatBlock(block), offload=offload)

    def forward(
        self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None
    ) -> tuple[Tensor, None, Tensor | None]:
        """Output of `Block.forward`, without a state."""
        if state is not None:
            raise ValueError("a model with activation checkpointing cannot continue from a state")
        outputs = self.flat(x_BTD, context)
        return outputs[0], None, outputs[1] if len(outputs) > 1 else None


class _Checkpointed(nn.Module):
    """A module that is recomputed in the precision in which it was computed."""

    def __init__(self, module: nn.Module, *, offload: bool):
        super().__init__()
        self.inner = checkpoint_wrapper(_InPrecision(module), offload_to_cpu=offload)

    @property
    def wrapped(self) -> nn.Module:
        """The module inside."""
        return self.inner.module

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
    """A block with flat outputs: the wrapper passes no gradients through nested tuples."""

    def __init__(self, block: Block):
        super().__init__()
        self.block = block

    def forward(self, x_BTD: Tensor, context: SequenceContext) -> tuple[Tensor, ...]:
        y_BTD, _, auxiliary = self.block(x_BTD, context)
        return (y_BTD,) if auxiliary is None else (y_BTD, auxiliary)
