"""A spectral language model under transformers' interface, with a recurrent cache.

The computation is in Resonance's own files, copied next to this one.

Shape letters: B batch, T time (tokens), D channels, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from kernels.precision import full_precision
from pretrain.huggingface.backbone.pretrained_base import ResonancePreTrainedModel
from pretrain.huggingface.backbone.recurrent_cache import RecurrentCache
from pretrain.huggingface.backbone.resonance_model import ResonanceModel
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.search.coverage_penalty import CoveragePenalty
from pretrain.huggingface.search.diverse_beam_search import diverse_beam_search
from spectral.modules.linear import Linear, linear


class ComputedHead(nn.Module):
    """The output layer of a harmonic or quantized embedding, for tools that read its weight."""

    bias = None

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding = embedding

    @property
    def weight(self) -> Tensor:
        """The vectors of all tokens [V, D]."""
        table: Tensor = self.embedding.table()  # type: ignore[operator]
        return table

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Logits."""
        weight_VD = self.weight
        return linear(hidden_BTD.to(weight_VD.dtype), weight_VD)


class ResonanceForCausalLM(ResonancePreTrainedModel, GenerationMixin):
    """A spectral language model for `generate`, `pipeline` and fine-tuning.

    The output layer is the embedding (tied).
    """

    # read by transformers' Trainer
    accepts_loss_kwargs = True

    def __init__(self, config: ResonanceConfig):
        super().__init__(config)
        self.model = ResonanceModel(config)
        if config.has_output_weight():
            self._tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}
            self.lm_head: nn.Module = Linear(config.dim, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The output layer; that of a computed embedding has a `weight` that is computed."""
        if self.config.has_output_weight():
            return self.lm_head
        return ComputedHead(self.model.embedding)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.lm_head = new_embeddings

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: RecurrentCache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 1,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """The keyword arguments of `forward` for the tokens that are not yet in the cache."""
        inputs: dict[str, Any] = {
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "logits_to_keep": logits_to_keep,
            "output_hidden_states": output_hidden_states,
        }
        if past_key_values is None:
            if inputs_embeds is None:
                return inputs | {"input_ids": input_ids}
            new_BTD = self.get_input_embeddings()(input_ids).to(inputs_embeds.dtype)
            return inputs | {"inputs_embeds": torch.cat([inputs_embeds, new_BTD], dim=1)}
        num_columns = input_ids.shape[1] if attention_mask is None else attention_mask.shape[1]
        # after `inputs_embeds` without a mask, their number is unknown
        num_new = max(num_columns - past_key_values.get_seq_length(), 1)
        return inputs | {"input_ids": input_ids[:, -num_new:]}

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: RecurrentCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | None = None,
        max_length_k: int | None = None,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token at every position [B, T, V], with loss and cache on request.

        Args:
            input_ids: Tokens [B, T].
            attention_mask: As in `ResonanceModel.forward`, and so are all arguments that are not
                listed here.
            position_ids: Where documents begin, among other ways to say it.
            past_key_values: Cache of the tokens before.
            inputs_embeds: Vectors instead of tokens.
            labels: The tokens again; they are shifted here. -100 is ignored.
            use_cache: Whether to return the cache.
            logits_to_keep: Number of last positions to return logits for, or their indices; 0 for
                all. Not applied if there are labels.
            output_hidden_states: Whether to return hidden states.
            output_attentions: Not true.
            shift_labels: The token after each token, instead of labels.
            num_items_in_batch: Number by which the summed loss is divided; by default that of the
                labels here.
            ignore_index: Label without loss, -100 by default.
            seq_idx: Numbers of documents.
            cu_seq_lens: Beginnings of documents.
            cu_seq_lens_q: The same.
            cu_seq_lens_k: The same.
            max_length_q: Not needed.
            max_length_k: Not needed.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            seq_idx=seq_idx,
            cu_seq_lens=cu_seq_lens,
            cu_seq_lens_q=cu_seq_lens_q,
            cu_seq_lens_k=cu_seq_lens_k,
            max_length_q=max_length_q,
            max_length_k=max_length_k,
            return_dict=True,
        )
        hidden_BTD = outputs.last_hidden_state
        has_labels = labels is not None or shift_labels is not None
        if not has_labels and isinstance(logits_to_keep, Tensor):
            hidden_BTD = hidden_BTD[:, logits_to_keep]
        elif not has_labels and logits_to_keep:
            hidden_BTD = hidden_BTD[:, -logits_to_keep:]
        logits = self._logits(hidden_BTD)
        loss = None
        if has_labels:
            options = {
                "shift_labels": shift_labels,
                "num_items_in_batch": num_items_in_batch,
                "ignore_index": ignore_index,
            }
            given = {key: value for key, value in options.items() if value is not None}
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **given)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
        )

    def _logits(self, hidden_BTD: Tensor) -> Tensor:
        head = self.get_output_embeddings()
        if isinstance(head, ComputedHead):
            return full_precision(head(hidden_BTD))
        weight: Any = head.weight
        if not torch.is_autocast_enabled(hidden_BTD.device.type):
            hidden_BTD = hidden_BTD.to(weight.dtype)
        return full_precision(head(hidden_BTD))

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
