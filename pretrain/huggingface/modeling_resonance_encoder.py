"""Encoders and classifiers under transformers' interface.

The computation is in Resonance's own files, copied next to this one.

Shape letters: B batch, T time (tokens), D channels, V vocabulary, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    SequenceClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from kernels.precision import full_precision
from pretrain.huggingface.backbone.pretrained_base import ResonancePreTrainedModel
from pretrain.huggingface.backbone.resonance_model import ResonanceModel
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from spectral.modules.class_head import ClassHead
from spectral.modules.linear import Linear, linear
from spectral.modules.pooling import pool_documents


class ResonanceEncoderModel(ResonanceModel):
    """Hidden states of texts, and the vector of each text."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPooling:
        """Hidden states `last_hidden_state` [B, T, D] and their pooled vectors `pooler_output`.

        Args:
            input_ids: Tokens [B, T].
            attention_mask: 0 for padding, anywhere in a row.
            inputs_embeds: Vectors [B, T, D] instead of tokens.
            output_hidden_states: Whether to return hidden states of all layers.
            output_attentions: Not true.
            options: Other arguments of `ResonanceModel.forward`.
        """
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **options,
        )
        hidden_BTD = outputs.last_hidden_state
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_BTD,
            pooler_output=pooled(hidden_BTD, attention_mask, self.config.pooling),
            hidden_states=outputs.hidden_states,
        )


class ResonanceForMaskedLM(ResonancePreTrainedModel):
    """Logits of the tokens behind masks, for `pipeline("fill-mask")` and fine-tuning."""

    def __init__(self, config: ResonanceConfig):
        super().__init__(config)
        self.model = ResonanceModel(config)
        if config.embedding != "harmonic":
            self._tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}
            self.lm_head: nn.Module = Linear(config.dim, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module | None:
        """The output layer; None if the embedding is harmonic."""
        return getattr(self, "lm_head", None)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output layer."""
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> MaskedLMOutput:
        """Logits of the token at every position [B, T, V], with loss on request.

        Args:
            input_ids: Tokens [B, T].
            attention_mask: 0 for padding, anywhere in a row.
            inputs_embeds: Vectors [B, T, D] instead of tokens.
            labels: The token at each position; -100 is ignored.
            output_hidden_states: Whether to return hidden states of all layers.
            output_attentions: Not true.
            options: Other arguments of `ResonanceModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **options,
        )
        weight_VD = self._table()
        hidden_BTD = outputs.last_hidden_state.to(weight_VD.dtype)
        logits = full_precision(linear(hidden_BTD, weight_VD))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def _table(self) -> Tensor:
        head: Any = self.get_output_embeddings()
        embedding: Any = self.model.embedding
        table: Tensor = embedding.table() if head is None else head.weight
        return table


class ResonanceForSequenceClassification(ResonancePreTrainedModel):
    """Logits of the labels of texts, for `pipeline("text-classification")` and fine-tuning.

    A folder of an encoder gives it the encoder's parameters, and a new head of `num_labels`.
    """

    def __init__(self, config: ResonanceConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ResonanceModel(config)
        self.head = ClassHead(config.dim, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **options: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, C] of the labels, with loss on request.

        Args:
            input_ids: Tokens [B, T]: BOS, the text, EOS, as the tokenizer gives them.
            attention_mask: 0 for padding, anywhere in a row.
            inputs_embeds: Vectors [B, T, D] instead of tokens.
            labels: Label of each text [B], or with several labels 1.0 for each of a text's [B, C].
            output_hidden_states: Whether to return hidden states of all layers.
            output_attentions: Not true.
            options: Other arguments of `ResonanceModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **options,
        )
        pooled_BD = pooled(outputs.last_hidden_state, attention_mask, self.config.pooling)
        logits = full_precision(self.head(pooled_BD))
        loss = None
        if labels is not None and labels.is_floating_point():
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels.flatten())
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states
        )


def pooled(x_BTD: Tensor, attention_mask: Tensor | None, kind: Any) -> Tensor:
    """A vector [B, D] of each row, without its padding."""
    padding_BT = None
    if attention_mask is not None:
        padding_BT = (attention_mask[:, -x_BTD.shape[1] :] == 0).to(torch.long)
    return pool_documents(x_BTD, padding_BT, kind)[:, 0]
