"""A spectral language model under transformers' interface, with a recurrent cache.

The computation is in Resonance's own files, copied next to this one.

Shape letters: B batch, T time (tokens), V vocabulary.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import GenerationMixin, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.output_capturing import capture_outputs

from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.coverage_penalty import CoveragePenalty
from pretrain.huggingface.diverse_beam_search import diverse_beam_search
from spectral.block import Block
from spectral.embedding import TableEmbedding
from spectral.lm import LMState, SpectralLM
from spectral.modules.polar import make_polar


class RecurrentCache:
    """The model's state after the tokens so far; its size does not depend on their number."""

    is_compileable = False

    def __init__(self, state: LMState):
        self.state = state

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens so far, the same in every layer."""
        del layer_idx
        return self.state.position

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give row i the state of row beam_idx[i]."""
        layers = tree_map(lambda tensor: tensor.index_select(0, beam_idx), self.state.layers)
        self.state = LMState(self.state.position, layers)


class ResonanceForCausalLM(PreTrainedModel, GenerationMixin):
    """`SpectralLM` for `generate` and `pipeline`."""

    config_class = ResonanceConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _is_stateful = True
    _can_record_outputs: ClassVar[dict[str, Any]] = {"hidden_states": Block}

    def __init__(self, config: ResonanceConfig):
        super().__init__(config)
        self.model = SpectralLM(config)
        if polar := getattr(config, "polar", None):
            make_polar(self.model, polar["bits"], polar["rotate"], polar["names"])
        # read by transformers; the layers read the model's own attribute
        self.gradient_checkpointing = False
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, SpectralLM):
            module.reset_parameters()

    def _set_gradient_checkpointing(self, enable: bool = True, **_: Any) -> None:
        self.gradient_checkpointing = self.model.activation_checkpointing = enable

    def get_input_embeddings(self) -> nn.Module:
        """The embedding, which is also the output layer."""
        return self.model.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the embedding, and with it the output layer."""
        self.model.embedding = TableEmbedding.from_pretrained(value.weight, freeze=False)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Module:
        """Change the number of ids, all of which may then be generated."""
        embedding: nn.Module = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        if new_num_tokens is not None:
            self.config.tokenizer_size = new_num_tokens
        return embedding

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: RecurrentCache | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 1,
        **_: Any,
    ) -> dict[str, Any]:
        """The keyword arguments of `forward` for the tokens that are not yet in the cache."""
        num_cached = 0 if past_key_values is None else past_key_values.get_seq_length()
        return {
            "input_ids": input_ids[:, num_cached:],
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
        }

    @capture_outputs
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: RecurrentCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token at every position [B, T, V], with loss and cache on request.

        Args:
            input_ids: Tokens [B, T].
            attention_mask: 0 for padding, on either side; padding is a separate document. May be
                longer than input_ids, by the number of cached tokens. The output of a model with
                spectral gates depends on where its chunks begin, so padding changes its logits
                (but passes it no information).
            past_key_values: State after the tokens before input_ids; None at a beginning.
            labels: The tokens again; they are shifted here. -100 is ignored.
            use_cache: Whether to return the state after input_ids.
            logits_to_keep: Number of last positions to return logits for; 0 for all.
        """
        state = None if past_key_values is None else past_key_values.state
        if state is not None and input_ids.shape[1] == 1:
            logits_BV, state = self.model.step(input_ids[:, 0], state)
            logits = logits_BV[:, None]
        else:
            if attention_mask is not None:
                attention_mask = attention_mask[:, -input_ids.shape[1] :]
            keep = logits_to_keep if labels is None else 0
            logits, state = self.model.prefill(input_ids, _segments(attention_mask), state, keep)
        logits = logits.float()
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size)
        cache = RecurrentCache(state) if use_cache else None
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)

    def generate(
        self,
        inputs: Tensor | None = None,
        coverage_penalty: float = 0.0,
        beam_groups: int = 1,
        diversity_penalty: float = 0.0,
        **options: Any,
    ) -> Any:
        """Output of transformers' `generate`, extended by a coverage penalty and diverse beams.

        Args:
            inputs: Prompts [B, T], or `input_ids` among the options.
            coverage_penalty: See `CoveragePenalty`; 0 for none.
            beam_groups: See `diverse_beam_search`; 1 for beam search.
            diversity_penalty: See `diverse_beam_search`.
            options: Options of transformers' `generate`.
        """
        if beam_groups > 1:
            options["custom_generate"] = diverse_beam_search
            options |= {"beam_groups": beam_groups, "diversity_penalty": diversity_penalty}
        if coverage_penalty:
            prompt = inputs if inputs is not None else options.get("input_ids")
            tokens = 1 if prompt is None else prompt.shape[1]
            processors = LogitsProcessorList(options.pop("logits_processor", None) or [])
            processors.append(CoveragePenalty(coverage_penalty, tokens))
            options["logits_processor"] = processors
        padding = list(range(self.config.tokenizer_size, self.config.vocab_size))
        if padding:
            # before sampling filters; a processor of ours would come after them
            config = options.get("generation_config") or self.generation_config
            given = options.get("suppress_tokens") or config.suppress_tokens or []
            options["suppress_tokens"] = [*given, *padding]
        return super().generate(inputs, **options)


def _segments(attention_mask: Tensor | None) -> Tensor | None:
    """Document numbers from a padding mask: a new one wherever the mask changes."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    changes = attention_mask[:, 1:] != attention_mask[:, :-1]
    return torch.nn.functional.pad(changes.long().cumsum(1), (1, 0))
