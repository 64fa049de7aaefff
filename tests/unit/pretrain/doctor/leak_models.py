"""Tiny models for the leak checks: sound ones of transformers, and copies that are broken."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
)
from transformers.modeling_outputs import CausalLMOutput

VOCAB = 64


def spread(model: Any) -> Any:
    """The model with parameters large enough for every part to matter."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model.eval()


def llama() -> Any:
    """Attention, by PyTorch's own kernel."""
    return spread(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=512,
            )
        )
    )


def mamba2() -> Any:
    """A selective state-space model, in chunks of 16 tokens."""
    return spread(
        Mamba2ForCausalLM(
            Mamba2Config(
                vocab_size=VOCAB,
                hidden_size=32,
                num_hidden_layers=2,
                num_heads=8,
                head_dim=8,
                state_size=8,
                n_groups=1,
                chunk_size=16,
            )
        )
    )


def delta_net() -> Any:
    """A layer of Gated DeltaNet and a layer of attention, as Qwen 3.5 alternates them."""
    return spread(
        Qwen3_5ForCausalLM(
            Qwen3_5TextConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                head_dim=16,
                linear_num_key_heads=2,
                linear_num_value_heads=2,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
                layer_types=["linear_attention", "full_attention"],
                max_position_embeddings=512,
            )
        )
    )


def mamba2_shifted() -> Any:
    """Mamba-2 whose convolution is shifted by a token, as with padding on the wrong side."""
    model = mamba2()
    for layer in model.backbone.layers:
        layer.mixer.in_proj.register_forward_hook(lambda *call: call[-1].roll(-1, dims=1))
    return model


def delta_net_shared_state() -> Any:
    """Gated DeltaNet whose keys are divided by a mean over the rows of the batch."""
    model = delta_net()
    for layer in model.model.layers[:1]:
        layer.linear_attn.in_proj_qkv.register_forward_hook(
            lambda *call: call[-1] - call[-1].mean(0, keepdim=True) * 0.5
        )
    return model


class FFTConfig(PretrainedConfig):
    """Configuration of `FFTMixerLM`."""

    model_type = "fft-mixer"

    def __init__(self, vocab_size: int = VOCAB, padded: bool = True, **kwargs: Any):
        self.vocab_size, self.padded = vocab_size, padded
        super().__init__(**kwargs)


class FFTMixerLM(PreTrainedModel):
    """One long convolution by FFT: causal if the signal is padded with zeros, else circular."""

    config_class = FFTConfig

    def __init__(self, config: FFTConfig):
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, 16)
        self.decay = nn.Parameter(torch.linspace(0.01, 0.5, 16))
        self.head = nn.Linear(16, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> CausalLMOutput:
        """Logits; padding and documents are not to be had."""
        del use_cache
        x_BTD = self.embedding(input_ids)
        T = x_BTD.shape[1]
        size = 2 * T if self.config.padded else T
        taps_TD = (-self.decay * torch.arange(T)[:, None]).exp()
        spectrum = torch.fft.rfft(x_BTD, n=size, dim=1) * torch.fft.rfft(taps_TD, n=size, dim=0)
        y_BTD = torch.fft.irfft(spectrum, n=size, dim=1)[:, :T]
        return CausalLMOutput(logits=self.head(x_BTD + y_BTD))


def fft_mixer(padded: bool = True) -> Any:
    """The FFT mixer, by default sound."""
    return spread(FFTMixerLM(FFTConfig(padded=padded)))
