"""Base class of Resonance's models in transformers: precision, initialisation, embeddings."""

import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kernels.precision import is_half
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from spectral.backbone import Backbone
from spectral.embedding import HarmonicEmbedding
from spectral.mixers.base import SequenceMixer


class ResonancePreTrainedModel(PreTrainedModel):
    """Base class of all models.

    In half precision, the matrices of linear layers and of the embedding are half. Decays, phases,
    norms and all else that is small stays in float32, whichever way the model became half.
    """

    config_class = ResonanceConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _input_embed_layer = "embedding"
    _is_stateful = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]

    def mark_float32(self, backbone: Backbone) -> None:
        """Remember which parameters of a backbone never become half."""
        names = set()
        for prefix, part in backbone.parts():
            for path, module in part.named_modules(prefix=prefix):
                own = [name for name, _ in module.named_parameters(recurse=False)]
                if own and not getattr(module, "rounds_weight", False):
                    # on the module itself: adapters may move it to another name
                    module.keeps_float32 = True  # type: ignore[assignment]
                    names |= {f"{path}.{name}" for name in own}
        # one pattern for all layers
        self._keep_in_fp32_modules_strict = {
            re.sub(r"\.\d+\.", r"\\.\\d+\\.", name) for name in names
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        if not recurse or not is_half(fn(torch.zeros(1))):
            return super()._apply(fn, recurse)
        for module in self.modules():
            kept = getattr(module, "keeps_float32", False)
            nn.Module._apply(module, _unless_half(fn) if kept else fn, recurse=False)
        return self

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Backbone):
            if not any(map(_is_initialized, module.parameters())):
                module.reset_parameters()
        elif not hasattr(module, "keeps_float32") and not hasattr(module, "rounds_weight"):
            super()._init_weights(module)
        elif any(map(_is_initialized, self.parameters())):
            # a file that lacks some of the parameters
            if isinstance(module, SequenceMixer):
                nn.init.ones_(module.head_norm)
            elif not all(map(_is_initialized, module.parameters(recurse=False))):
                _reset(module)

    def _set_gradient_checkpointing(
        self, enable: bool = True, every_n_layers: int = 1, **_: Any
    ) -> None:
        for module in self.modules():
            if isinstance(module, Backbone):
                module.activation_checkpointing = every_n_layers if enable else 0
                # read by transformers
                module.gradient_checkpointing = enable  # type: ignore[attr-defined]

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """Change the number of ids, all of which may then be generated."""
        embedding: nn.Module = self.get_input_embeddings()
        if not isinstance(embedding, HarmonicEmbedding):
            embedding = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        elif new_num_tokens is not None:
            embedding = embedding.resized(new_num_tokens)
            self.set_input_embeddings(embedding)
            self.config.vocab_size = new_num_tokens
        if new_num_tokens is not None:
            self.config.tokenizer_size = new_num_tokens
        return embedding

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False


def _unless_half(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def moved(tensor: Tensor) -> Tensor:
        changed = fn(tensor)
        return tensor.to(changed.device) if is_half(changed) else changed

    return moved


def _is_initialized(parameter: Tensor) -> bool:
    return bool(getattr(parameter, "_is_hf_initialized", False))


def _reset(module: nn.Module) -> None:
    reset: Any = getattr(module, "reset_parameters", None)
    if reset is not None and not inspect.signature(reset).parameters:
        reset()
    else:
        for parameter in module.parameters(recurse=False):
            nn.init.normal_(parameter, std=0.02)
