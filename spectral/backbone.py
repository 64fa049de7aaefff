"""Embedding, blocks and norm of a spectral language model, and its state.

Shape letters: B batch, T time (tokens), D channels.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.precision import as_signal, work_dtype
from spectral.block import Block
from spectral.config import ModelConfig
from spectral.embedding import HarmonicEmbedding, TableEmbedding
from spectral.gates.spectral_gate import uses_gates
from spectral.input_checks import check_finite, check_state, check_vocabulary
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.mixers.base import MixerState
from spectral.mixers.context import sequence_context
from spectral.modules.norm import RMSNorm


class LMState(NamedTuple):
    """State of a model after the tokens so far: constant in size.

    Attributes:
        position: Number of tokens so far.
        layers: Mixer state of each layer.
    """

    position: int
    layers: tuple[MixerState, ...]


class Backbone:
    """Hidden states of tokens; a base class next to `nn.Module`, whose subclass calls `build`.

    Attributes:
        activation_checkpointing: Every how many blocks one is recomputed in the backward pass
            instead of keeping its activations; 0 for none.
        layout: Access to other devices.
    """

    activation_checkpointing: int
    config: ModelConfig
    embedding: nn.Module
    final_norm: nn.Module
    layout: Layout
    training: bool

    def build(self, config: ModelConfig) -> None:
        """Make the parts."""
        self.activation_checkpointing = 0
        self.layout = SINGLE_DEVICE
        kind = HarmonicEmbedding if config.embedding == "harmonic" else TableEmbedding
        self.embedding = kind(config.vocab_size, config.dim)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = RMSNorm(config.dim, eps=config.norm_eps)

    def reset_parameters(self) -> None:
        """Initialise all parameters from the global random state: a seed determines the model."""
        for _, part in self.parts():
            part.reset_parameters()  # type: ignore[operator]

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Embedding, blocks and last norm by name, in the order in which they are initialised."""
        yield "embedding", self.embedding
        for layer, block in enumerate(self.blocks):
            yield f"blocks.{layer}", block
        yield "final_norm", self.final_norm

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors of token ids, [...] -> [..., D], as the blocks exchange them.

        Raises:
            ValueError: Outside of training, an id beyond the vocabulary or a vector that is not
                finite.
        """
        if not self.is_hot():
            check_vocabulary(tokens, self.config.vocab_size)
        x_D: Tensor = self.embedding(tokens)
        if not self.is_hot():
            check_finite(x_D, "embedding")
        return self.as_residual(x_D)

    def as_residual(self, x: Tensor) -> Tensor:
        """Vectors as the blocks exchange them: bfloat16, or float32 and wider."""
        # float16 has too few exponents for sums over the layers
        return x.float() if x.dtype == torch.float16 else as_signal(x)

    def is_hot(self) -> bool:
        """Whether to skip checks of values, which wait for the device and split a graph."""
        return self.training or torch.compiler.is_compiling()

    def hidden(
        self,
        x_BTD: Tensor,
        segment_ids_BT: Tensor | None = None,
        state: LMState | None = None,
        layers: list[Tensor] | None = None,
        num_tokens: int | None = None,
    ) -> tuple[Tensor, LMState, Tensor]:
        """Normalised hidden states of embedded tokens by the parallel form.

        Args:
            x_BTD: Output of `embed`.
            segment_ids_BT: Document number of each token, never falling along a row; documents do
                not affect one another. None: every row is one document.
            state: State after the preceding tokens, at a chunk's beginning if the model has gates;
                None at the beginning.
            layers: List to which the output of each block is appended.
            num_tokens: Number of tokens T, where the input is one rank's part of them; None: as
                many as the input has.

        Returns:
            (x_BTD, state after the last token, weighted auxiliary losses).
        """
        T = x_BTD.shape[1] if num_tokens is None else num_tokens
        position = self.layout.span.position(T) if state is None else state.position
        x_BTD, states, auxiliary = self.run_blocks(
            x_BTD, position, T, segment_ids_BT, state, layers
        )
        return self.final_norm(x_BTD), LMState(position + T, states), auxiliary

    def continue_hidden(
        self,
        x_BTD: Tensor,
        segment_ids_BT: Tensor | None,
        state: LMState | None,
        layers: list[Tensor] | None = None,
    ) -> tuple[Tensor, LMState]:
        """As `hidden`, from any state: gates step to the next chunk, whose beginning they read.

        Raises:
            ValueError: The state has another number of rows, or a gated model would have to begin a
                document before the next chunk.
        """
        if state is not None:
            check_state(x_BTD.shape[0], state.position, state.layers[0].short_BWD.shape[0])
        first = self._tokens_to_chunk_end(state, x_BTD.shape[1])
        if state is None or first == 0:
            x_BTD, state, _ = self.hidden(x_BTD, segment_ids_BT, state, layers)
            return x_BTD, state
        if segment_ids_BT is not None and segment_ids_BT[:, 0].ne(segment_ids_BT[:, -1]).any():
            raise ValueError(
                "segment_ids: a gated model continues inside a chunk with one document only, got "
                f"several after position {state.position}"
            )
        hidden, outputs = [], []
        for t in range(first):
            outputs.append([])
            x_BD, state = self.hidden_step(x_BTD[:, t], state, outputs[-1])
            hidden.append(x_BD)
        pieces = [torch.stack(hidden, dim=1)]
        layer_pieces = [[torch.stack(steps, dim=1)] for steps in zip(*outputs, strict=True)]
        if first < x_BTD.shape[1]:
            tail_layers: list[Tensor] | None = None if layers is None else []
            tail_BTD, state, _ = self.hidden(x_BTD[:, first:], None, state, tail_layers)
            pieces.append(tail_BTD)
            for steps, tail in zip(layer_pieces, tail_layers or (), strict=False):
                steps.append(tail)
        if layers is not None:
            layers.extend(torch.cat(steps, dim=1) for steps in layer_pieces)
        return torch.cat(pieces, dim=1), state

    def _tokens_to_chunk_end(self, state: LMState | None, num_tokens: int) -> int:
        """Number of tokens before the next chunk's beginning, which gates read; 0 without gates."""
        if state is None or not uses_gates(self.config.gates):
            return 0
        return min(-state.position % self.config.conv_chunk, num_tokens)

    def hidden_step(
        self,
        x_BD: Tensor,
        state: LMState,
        layers: list[Tensor] | None = None,
        source: Any = None,
    ) -> tuple[Tensor, LMState]:
        """Normalised hidden state of one embedded token by the recurrent form, and the new state.

        Args:
            x_BD: Output of `embed`.
            state: State after the tokens before.
            layers: As of `hidden`.
            source: As of `run_blocks`.

        Raises:
            ValueError: The state has another number of rows.
        """
        check_state(x_BD.shape[0], state.position, state.layers[0].short_BWD.shape[0])
        context = sequence_context(self.config, self.layout, x_BD, state.position, 1, None)
        context = context._replace(source=source)
        states = []
        for layer, block in enumerate(self.blocks):
            x_BD, after = cast(Block, block).step(x_BD, context, state.layers[layer])
            states.append(after)
            if layers is not None:
                layers.append(x_BD)
        return self.final_norm(x_BD), LMState(state.position + 1, tuple(states))

    def run_blocks(
        self,
        x_BTD: Tensor,
        position: int,
        num_tokens: int,
        segment_ids_BT: Tensor | None,
        state: LMState | None = None,
        layers: list[Tensor] | None = None,
        source: Any = None,
    ) -> tuple[Tensor, tuple[MixerState, ...], Tensor]:
        """Output of this model's blocks, run one after the other.

        Args:
            x_BTD: Input of the first block.
            position: Number of tokens before the input.
            num_tokens: Number of tokens T.
            segment_ids_BT: As in `hidden`.
            state: State after the preceding tokens; None at the beginning.
            layers: List to which the output of each block is appended.
            source: Sources that a decoder's blocks read; see `SequenceContext`.

        Returns:
            (x_BTD, the blocks' states after the last token, weighted auxiliary losses).
        """
        context = sequence_context(
            self.config, self.layout, x_BTD, position, num_tokens, segment_ids_BT
        )
        context = context._replace(source=source)
        states = []
        auxiliary = x_BTD.new_zeros((), dtype=work_dtype(x_BTD))
        every = self.activation_checkpointing if self.training else 0
        for layer, block in enumerate(self.blocks):
            past = None if state is None else state.layers[layer]
            if self.training:
                # outside of the recomputed block, which restores the random state it began with
                self.layout.rng.start_layer(layer)
            if every and layer % every == 0:
                x_BTD, after, losses = checkpoint(block, x_BTD, context, past, use_reentrant=False)
            else:
                x_BTD, after, losses = block(x_BTD, context, past)
            states.append(after)
            if layers is not None:
                layers.append(x_BTD)
            if losses is not None:
                auxiliary = auxiliary + losses
        return x_BTD, tuple(states), auxiliary
