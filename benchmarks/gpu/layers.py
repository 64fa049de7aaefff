"""Layers that are timed: ours, and one of attention with equal projections.

Shape letters: B batch, T time (tokens), D channels, H heads, K channels of a head.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.gates.keys import GATE_PARTS
from spectral.layer_pattern import layer_period
from spectral.layout import SINGLE_DEVICE
from spectral.lm import SpectralLM
from spectral.mixers.base import SequenceMixer
from spectral.mixers.build import build_mixer
from spectral.mixers.context import sequence_context

Pass = Callable[[], None]


class Attention(nn.Module):
    """Causal attention by torch's `scaled_dot_product_attention`, without position codes."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.in_proj = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out_proj = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        heads = self.in_proj(x_BTD).unflatten(-1, (3, self.num_heads, -1))
        q_BHTK, k_BHTK, v_BHTK = heads.permute(2, 0, 3, 1, 4).unbind(0)
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        return self.out_proj(y_BHTK.transpose(1, 2).flatten(-2))


def mixer_pass(
    config: ModelConfig, layer: int, T: int, device: torch.device, dtype: torch.dtype
) -> Pass:
    """Forward and backward pass of a layer's mixer, projections included."""
    with torch.device(device):
        mixer: SequenceMixer = build_mixer(config, layer)
        mixer.reset_parameters(config.dim**-0.5, config.dim**-0.5)
        x_BTD = torch.randn(1, T, config.dim)
    context = sequence_context(config, SINGLE_DEVICE, x_BTD, 0, T, None)
    return _training_pass(mixer.train(), lambda x: mixer(x, context)[0], x_BTD, dtype)


def every_op_pass(config: ModelConfig, T: int, device: torch.device, dtype: torch.dtype) -> Pass:
    """Forward and backward passes of two small models in which every op has its part.

    They have a layer of each kind, with either rule of recall heads, gates, two documents and the
    loss.
    """
    gates = {name: True for name in GATE_PARTS if isinstance(getattr(config.gates, name), bool)}
    changes = {"num_layers": layer_period(config), "gates": gates}
    with torch.device(device):
        models = [
            SpectralLM(
                ModelConfig.model_validate(config.model_dump() | changes | {"recall_rule": rule})
            ).train()
            for rule in ("decay", "delta")
        ]
        tokens_BT = torch.randint(config.vocab_size, (1, T))
        # the second document begins inside of a chunk
        segment_ids_BT = (torch.arange(T)[None] > T // 2).long()

    def run() -> None:
        for model in models:
            model.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                loss = model(tokens_BT, segment_ids_BT, tokens_BT)
            (loss.nll + loss.auxiliary).backward()

    return run


def attention_pass(config: ModelConfig, T: int, device: torch.device, dtype: torch.dtype) -> Pass:
    """The same of attention."""
    with torch.device(device):
        attention, x_BTD = Attention(config), torch.randn(1, T, config.dim)
    return _training_pass(attention, attention, x_BTD, dtype)


def _training_pass(
    module: nn.Module, forward: Callable[[Tensor], Tensor], x_BTD: Tensor, dtype: torch.dtype
) -> Pass:
    x_BTD.requires_grad_()
    grad_BTD = torch.randn_like(x_BTD)

    def run() -> None:
        x_BTD.grad = None
        module.zero_grad(set_to_none=True)
        with torch.autocast(x_BTD.device.type, dtype=dtype, enabled=dtype != torch.float32):
            y_BTD = forward(x_BTD)
        y_BTD.backward(grad_BTD.to(y_BTD.dtype))

    return run
