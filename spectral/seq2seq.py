"""`SpectralSeq2Seq`: text to text, by an encoder, a causal decoder and spectral fusion.

Shape letters: B batch, T time (tokens), D channels, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from spectral.backbone import Backbone, LMState
from spectral.block import Block, PairBlock
from spectral.config import ModelConfig
from spectral.input_checks import check_tokens
from spectral.lm import SpectralLM
from spectral.mixers.fusion import SourceStates, source_tokens
from spectral.modules.linear import linear
from spectral.modules.norm import RMSNorm


class PairState(NamedTuple):
    """State of pairs whose target is being written: constant in size.

    Attributes:
        sources: State of the source in each layer.
        target: State of the decoder; None before the first target token.
    """

    sources: tuple[Tensor, ...]
    target: LMState | None = None


class SpectralSeq2Seq(SpectralLM):
    """A decoder that predicts every next token of a target, from it and from its source.

    Packed rows hold pairs one after the other: pair n is the segments 2 n, its source, and
    2 n + 1, its target. A bidirectional encoder reads every source, the decoder's layers read what
    it computed by `SpectralFusion`. Linear in both lengths; `start` and `step` write a target in
    constant time and memory per token.
    """

    def build(self, config: ModelConfig) -> None:
        """Make the parts."""
        super().build(config)
        decoder = [PairBlock(config, layer) for layer in range(config.num_layers)]
        self.blocks = nn.ModuleList(decoder)
        encoder = config.model_copy(
            update={"causal": False, "num_layers": config.source_layers, "source_layers": 0}
        )
        self.source_config = encoder
        blocks = [Block(encoder, layer) for layer in range(encoder.num_layers)]
        self.source_blocks = nn.ModuleList(blocks)
        self.source_norm = RMSNorm(config.dim, eps=config.norm_eps)

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """As of `SpectralLM`, then the encoder's blocks and norm."""
        yield from super().parts()
        for layer, block in enumerate(self.source_blocks):
            yield f"source_blocks.{layer}", block
        yield "source_norm", self.source_norm

    def hidden(
        self,
        x_BTD: Tensor,
        segment_ids_BT: Tensor | None = None,
        state: LMState | None = None,
        layers: list[Tensor] | None = None,
        num_tokens: int | None = None,
    ) -> tuple[Tensor, LMState, Tensor]:
        """As of `Backbone`, of packed pairs.

        Raises:
            ValueError: There are no segment ids, or a state.
        """
        if segment_ids_BT is None or state is not None:
            raise ValueError(
                "segment_ids: expected those of pairs (2 n of a source, 2 n + 1 of its target), "
                "got none; targets are continued by start and step"
            )
        source_BTD, source_losses = self._read(x_BTD, segment_ids_BT)
        source = source_tokens(source_BTD, segment_ids_BT, self.layout, self.config.recall_chunk)
        T = x_BTD.shape[1] if num_tokens is None else num_tokens
        position = self.layout.span.position(T)
        x_BTD, states, auxiliary = self.run_blocks(
            x_BTD, position, T, segment_ids_BT, None, layers, source=source
        )
        state = LMState(position + T, states)
        return self.final_norm(x_BTD), state, auxiliary + source_losses

    def _read(self, x_BTD: Tensor, segment_ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised hidden states of the encoder, which reads every segment by itself."""
        T = x_BTD.shape[1]
        encoder = _Encoder(self)
        x_BTD, _, losses = encoder.run_blocks(
            x_BTD, self.layout.span.position(T), T, segment_ids_BT
        )
        return self.source_norm(x_BTD), losses

    def start(self, sources_BT: Tensor, lengths_B: Tensor) -> PairState:
        """The state after sources, before their targets.

        Args:
            sources_BT: BOS, text and EOS of a source in each row, then padding.
            lengths_B: Tokens of each source.

        Raises:
            ValueError: There are no tokens, or ids beyond the vocabulary.
        """
        check_tokens(sources_BT, 2)
        time_T = torch.arange(sources_BT.shape[1], device=sources_BT.device)
        # padding is no source: an odd segment
        segments_BT = (time_T >= lengths_B[:, None]).long()
        x_BTD, _ = self._read(self.embed(sources_BT), segments_BT)
        source = source_tokens(x_BTD, segments_BT, self.layout, self.config.recall_chunk)
        return PairState(tuple(cast(PairBlock, b).fusion.states(source) for b in self.blocks))

    def step_pair(self, tokens_B: Tensor, state: PairState) -> tuple[Tensor, PairState]:
        """Logits [B, V] after one target token, of which the first is BOS, and the new state.

        Cost: O(D^2) and the size of the state, whatever the lengths of source and target.
        """
        check_tokens(tokens_B, 1)
        x_BD, target = self.embed(tokens_B), state.target
        position = 0 if target is None else target.position
        place_B1 = torch.full_like(tokens_B, position)[:, None]
        source = SourceStates(state.sources, place_B1)
        if target is None:
            x_BTD, states, _ = self.run_blocks(x_BD[:, None], 0, 1, None, source=source)
            x_BD, target = self.final_norm(x_BTD)[:, 0], LMState(1, states)
        else:
            x_BD, target = self.hidden_step(x_BD, target, source=source)
        return linear(x_BD, self.table()), PairState(state.sources, target)


class _Encoder(Backbone):
    """The encoder of a model: its own blocks, and the model's layout."""

    def __init__(self, model: SpectralSeq2Seq):
        self.config, self.layout = model.source_config, model.layout
        self.training = model.training
        self.activation_checkpointing = model.activation_checkpointing
        self.blocks = model.source_blocks
