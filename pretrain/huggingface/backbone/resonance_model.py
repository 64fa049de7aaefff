"""Hidden states of a spectral language model under transformers' interface.

Shape letters: B batch, T time (tokens), D channels, R rows of a group, C columns.
"""

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from pretrain.huggingface.backbone.pretrained_base import ResonancePreTrainedModel
from pretrain.huggingface.backbone.recurrent_cache import RecurrentCache, RowGroup, whole_batch
from pretrain.huggingface.backbone.row_packing import RowPacking, pack_rows
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from spectral.backbone import Backbone, LMState
from spectral.gates.spectral_gate import uses_gates
from spectral.input_checks import check_tokens


class ResonanceModel(Backbone, ResonancePreTrainedModel):
    """Hidden states of a spectral language model."""

    def __init__(self, config: ResonanceConfig):
        super().__init__(config)
        self.gradient_checkpointing = False
        self.build(config)
        self.mark_float32(self)
        if not next(self.parameters()).is_meta:
            self.reset_parameters()
            for parameter in self.parameters():
                # transformers must not initialise it again
                parameter._is_hf_initialized = True  # type: ignore[attr-defined]
        self.post_init()

    def adopt(self, other: Backbone) -> None:
        """Take over the parts of another backbone, without copying their parameters."""
        self.embedding, self.blocks, self.final_norm = (
            other.embedding,
            other.blocks,
            other.final_norm,
        )
        self.mark_float32(self)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: RecurrentCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        seq_idx: Tensor | None = None,
        cu_seq_lens: Tensor | None = None,
        cu_seq_lens_q: Tensor | None = None,
        cu_seq_lens_k: Tensor | None = None,
        max_length_q: int | None = None,
        max_length_k: int | None = None,
    ) -> BaseModelOutputWithPast:
        """Hidden states of tokens: `last_hidden_state` [B, T, D], and the cache on request.

        Args:
            input_ids: Tokens [B, T].
            attention_mask: 0 for padding, anywhere in a row: the other tokens are computed as if
                it were not there. May have more columns than tokens, for those in the cache.
                Numbers above 1 separate packed documents.
            position_ids: [B, T] or [1, T]; a document begins where a position is not the last
                one plus 1.
            past_key_values: Cache of the tokens before; None at a beginning.
            inputs_embeds: Vectors [B, T, D] instead of tokens.
            use_cache: Whether to return the cache after these tokens; by default if one was given.
            output_hidden_states: Whether to return the vectors before the first block and after
                each one, the last of them normalised.
            output_attentions: Not true: there is no attention.
            seq_idx: [B, T] or [1, T], another number for each packed document.
            cu_seq_lens: First token of every packed document among all B T, and their number.
            cu_seq_lens_q: The same.
            cu_seq_lens_k: The same.
            max_length_q: Length of the longest document, which is not needed.
            max_length_k: The same.

        Raises:
            ValueError: Arguments do not fit together.
        """
        del max_length_q, max_length_k
        if output_attentions:
            raise ValueError("output_attentions: expected false: the model has no attention")
        x_BTD = self._inputs(input_ids, inputs_embeds)
        _check_cache(past_key_values, position_ids, len(x_BTD))
        packing = pack_rows(
            x_BTD.shape[:2],
            attention_mask,
            position_ids,
            seq_idx,
            _only(cu_seq_lens, cu_seq_lens_q, cu_seq_lens_k),
        )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        layers: list[Tensor] | None = [] if output_hidden_states else None
        if use_cache is None:
            use_cache = past_key_values is not None
        cache = None
        if past_key_values is not None or (use_cache and packing and self._sees_chunks()):
            hidden_BTD, cache = self._by_groups(x_BTD, packing, past_key_values, layers)
        else:
            if packing is not None and use_cache:
                packing = packing.at_the_end()
            hidden_BTD, state = self._moved(x_BTD, packing, layers)
            if use_cache:
                self._check_causal()
                groups = whole_batch(len(x_BTD), state, x_BTD.device)
                cache = RecurrentCache(groups, x_BTD.shape[1])
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_BTD,
            past_key_values=cache if use_cache else None,
            hidden_states=None if layers is None else (x_BTD, *layers[:-1], hidden_BTD),
        )

    def _inputs(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            check_tokens(input_ids, 2)
            return self.embed(input_ids)
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != self.config.dim:
            raise ValueError(
                f"inputs_embeds: expected [B, T, {self.config.dim}], got "
                f"{list(inputs_embeds.shape)}"
            )
        return self.as_residual(inputs_embeds)

    def _sees_chunks(self) -> bool:
        """Whether the output depends on where chunks begin."""
        return uses_gates(self.config.gates) or "fft" in self.config.mixers

    def _moved(
        self, x_BTD: Tensor, packing: RowPacking | None, layers: list[Tensor] | None
    ) -> tuple[Tensor, LMState]:
        """Output for a batch that has no cache."""
        if packing is None:
            return self.hidden(x_BTD, None, None, layers)[:2]
        index_BTD = packing.column_BT[..., None].expand_as(x_BTD)
        outputs: list[Tensor] = []
        hidden_BTD, state, _ = self.hidden(
            x_BTD.gather(1, index_BTD), packing.segment_ids_BT, None, outputs
        )
        back_BTD = packing.column_BT.argsort(1)[..., None].expand_as(x_BTD)
        if layers is not None:
            layers.extend(output.gather(1, back_BTD) for output in outputs)
        return hidden_BTD.gather(1, back_BTD), state

    def _by_groups(
        self,
        x_BTD: Tensor,
        packing: RowPacking | None,
        cache: RecurrentCache | None,
        layers: list[Tensor] | None,
    ) -> tuple[Tensor, RecurrentCache]:
        """Output for rows that have different numbers of tokens, now or before."""
        self._check_causal()
        B, T, _ = x_BTD.shape
        num_columns = T
        if cache is None:
            cache = RecurrentCache(whole_batch(B, None, x_BTD.device), 0)
        else:
            num_columns += cache.num_columns
        hidden_BTD = x_BTD
        outputs = None if layers is None else [x_BTD] * len(self.blocks)
        groups = []
        for (row_R, state), count in cache.split(packing.count_B if packing else None):
            if count == 0 and state is not None:
                groups.append(RowGroup(row_R, state))
                continue
            column_RC = torch.arange(T, device=x_BTD.device).expand(len(row_R), -1)
            segments_RC = None
            if packing is not None:
                # a row of nothing but padding is computed as if that were tokens
                column_RC = packing.column_BT[row_R, : count or T]
                segments_RC = packing.segment_ids_BT[row_R, : count or T]
            place = row_R[:, None], column_RC
            parts: list[Tensor] | None = None if outputs is None else []
            x_RCD = x_BTD[place]
            if state is not None and x_RCD.shape[1] == 1:
                x_RD, state = self.hidden_step(x_RCD[:, 0], state, parts)
                part_RCD = x_RD[:, None]
                parts = None if parts is None else [part[:, None] for part in parts]
            else:
                if segments_RC is not None and bool((segments_RC == segments_RC[:, :1]).all()):
                    segments_RC = None
                part_RCD, state = self.continue_hidden(x_RCD, segments_RC, state, parts)
            groups.append(RowGroup(row_R, state))
            hidden_BTD = hidden_BTD.index_put(place, part_RCD)
            if outputs is not None and parts is not None:
                outputs = [
                    output.index_put(place, part)
                    for output, part in zip(outputs, parts, strict=True)
                ]
        if layers is not None and outputs is not None:
            layers.extend(outputs)
        return hidden_BTD, RecurrentCache(groups, num_columns)

    def _check_causal(self) -> None:
        if not self.config.causal:
            raise ValueError("use_cache: expected false for a bidirectional model")


def _check_cache(cache: RecurrentCache | None, position_ids: Tensor | None, batch: int) -> None:
    """Refuse a cache that is not the model's own, or that new documents would have to end.

    Raises:
        ValueError: It is.
    """
    if cache is None:
        return
    if not isinstance(cache, RecurrentCache):
        raise ValueError(
            f"past_key_values: expected a cache that this model returned, got {type(cache)}"
        )
    rows = sum(len(group.row_R) for group in cache.groups)
    if rows != batch:
        raise ValueError(f"past_key_values: expected {batch} rows, as the tokens have, got {rows}")
    if position_ids is not None and bool((position_ids[:, 0] == 0).any()):
        raise ValueError(
            "position_ids: expected the first token to continue the cache, got position 0; pass a "
            "new document without the cache"
        )


def _only(*values: Tensor | None) -> Tensor | None:
    """The one value, which may be given several times.

    Raises:
        ValueError: They differ.
    """
    given = [value for value in values if value is not None]
    if any(not torch.equal(given[0], value) for value in given[1:]):
        raise ValueError("cu_seq_lens: expected equal numbers for queries and keys")
    return given[0] if given else None
