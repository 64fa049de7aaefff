"""`SpectralLM`: a strictly causal language model without attention.

Shape letters: B batch, T time (tokens), D channels, V vocabulary.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.precision import as_signal, is_half, work_dtype
from spectral.block import Block
from spectral.config import ModelConfig
from spectral.embedding import HarmonicEmbedding, TableEmbedding
from spectral.gates.spectral_gate import uses_gates
from spectral.input_checks import (
    check_finite,
    check_label_range,
    check_labels,
    check_state,
    check_tokens,
    check_vocabulary,
)
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.mixers.base import MixerState
from spectral.mixers.context import sequence_context
from spectral.modules.linear import linear
from spectral.modules.norm import RMSNorm


class LMState(NamedTuple):
    """State of a model after the tokens so far: constant in size.

    Attributes:
        position: Number of tokens so far.
        layers: Mixer state of each layer.
    """

    position: int
    layers: tuple[MixerState, ...]


class LMLoss(NamedTuple):
    """Losses of a batch: scalars with gradient.

    Attributes:
        nll: Sum of the negative log-likelihoods in nats.
        auxiliary: Weighted auxiliary losses of all layers' gates and routers; to be added per
            token.
        correct: Number of texts whose label is predicted right; None without such labels.
    """

    nll: Tensor
    auxiliary: Tensor
    correct: Tensor | None = None


class SpectralLM(nn.Module):
    """Embedding, blocks, norm, and the embedding again as output layer (tied).

    The same parameters serve every sequence length. Parallel form: `forward`; recurrent form:
    `step`, with constant time and memory per token. Both give the same logits.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # recompute each block in the backward pass instead of keeping its activations
        self.activation_checkpointing = False
        self.layout: Layout = SINGLE_DEVICE
        # weight of logsumexp(logits)^2 per token
        self.z_weight = 0.0
        kind = HarmonicEmbedding if config.embedding == "harmonic" else TableEmbedding
        self.embedding = kind(config.vocab_size, config.dim)
        blocks = [Block(config, layer) for layer in range(config.num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = RMSNorm(config.dim, eps=config.norm_eps)
        self.reset_parameters()

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

    def forward(
        self,
        tokens_BT: Tensor,
        segment_ids_BT: Tensor | None = None,
        labels_BT: Tensor | None = None,
    ) -> Tensor | LMLoss:
        """Logits of every next token or, given labels, the loss without making the logits.

        Args:
            tokens_BT: Token ids.
            segment_ids_BT: Document number of each token, never falling along a row; documents do
                not affect one another. None: every row is one document.
            labels_BT: The token that follows each token; -100 where there is none to learn.

        Returns:
            logits_BTV or, given labels, the losses.

        Raises:
            ValueError: An empty sequence, segment ids that go back, labels of another shape, or
                half-precision parameters; outside of training, whose guard checks losses, also
                ids and labels beyond the vocabulary and embeddings that are not finite.
        """
        if labels_BT is not None:
            check_labels(labels_BT, tokens_BT.shape)
            if not self._is_hot():
                check_label_range(labels_BT, self.config.vocab_size)
        x_BTD, _, auxiliary = self._hidden(tokens_BT, segment_ids_BT, None)
        if labels_BT is None:
            return linear(x_BTD, self.embedding.table())
        return self.losses(x_BTD, labels_BT, segment_ids_BT, auxiliary)

    def losses(
        self, x_BTD: Tensor, labels_BT: Tensor, segment_ids_BT: Tensor | None, auxiliary: Tensor
    ) -> LMLoss:
        """Losses of normalised hidden states, with the weighted auxiliary losses of the blocks."""
        del segment_ids_BT
        return LMLoss(self.summed_loss(x_BTD, labels_BT), auxiliary)

    def summed_loss(self, x_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """Negative log-likelihood in nats, summed over the tokens of normalised hidden states.

        In training its gradient has that of the z-loss, too.
        """
        inputs = x_BTD.flatten(0, 1), self.embedding.table(), labels_BT.flatten()
        if self.training and self.z_weight:
            return self.layout.cross_entropy(*inputs, self.z_weight)
        return self.layout.cross_entropy(*inputs)

    def prefill(
        self,
        tokens_BT: Tensor,
        segment_ids_BT: Tensor | None = None,
        state: LMState | None = None,
        num_logits: int = 0,
    ) -> tuple[Tensor, LMState]:
        """Logits as in `forward`, continued from a state, and the state after the last token.

        The first token continues the document in which the state ended.

        Args:
            tokens_BT: Token ids.
            segment_ids_BT: As in `forward`.
            state: State after the preceding tokens; None at the beginning.
            num_logits: Number of last positions whose logits are computed; 0: all. A long prompt's
                logits fill the memory, and generation needs only the last.

        Raises:
            ValueError: As `forward`; or the model is bidirectional, the state has another number
                of rows, or num_logits is negative.

        Cost: O(T (D^2 + D log C)) time per layer, for chunks of C tokens.
        """
        self._check_causal()
        check_tokens(tokens_BT, 2)
        if num_logits < 0:
            raise ValueError(f"num_logits: expected at least 0, got {num_logits}")
        if state is not None:
            _check_rows(state, tokens_BT)
        first = self._tokens_to_chunk_end(state, tokens_BT.shape[1])
        if state is None or first == 0:
            x_BTD, state, _ = self._hidden(tokens_BT, segment_ids_BT, state)
            return linear(x_BTD[:, -num_logits:], self.embedding.table()), state
        if segment_ids_BT is not None and segment_ids_BT[:, 0].ne(segment_ids_BT[:, -1]).any():
            raise ValueError(
                "segment_ids: a gated model continues inside a chunk with one document only, got "
                f"several after position {state.position}"
            )
        logits = []
        for t in range(first):
            logits_BV, state = self.step(tokens_BT[:, t], state)
            logits.append(logits_BV)
        logits_BTV = torch.stack(logits, dim=1)
        if first < tokens_BT.shape[1]:
            tail_BTV, state = self.prefill(tokens_BT[:, first:], None, state, num_logits)
            logits_BTV = torch.cat([logits_BTV, tail_BTV], dim=1)
        return logits_BTV[:, -num_logits:], state

    def _tokens_to_chunk_end(self, state: LMState | None, num_tokens: int) -> int:
        """Number of tokens before the next chunk's beginning, which gates read; 0 without gates."""
        if state is None or not uses_gates(self.config.gates):
            return 0
        return min(-state.position % self.config.conv_chunk, num_tokens)

    def _hidden(
        self, tokens_BT: Tensor, segment_ids_BT: Tensor | None, state: LMState | None
    ) -> tuple[Tensor, LMState, Tensor]:
        check_tokens(tokens_BT, 2)
        T = tokens_BT.shape[1]
        position = self.layout.span.position(T) if state is None else state.position
        x_BTD = self._embed(tokens_BT)
        x_BTD, states, auxiliary = self.run_blocks(x_BTD, position, T, segment_ids_BT, state)
        return self.final_norm(x_BTD), LMState(position + T, states), auxiliary

    def run_blocks(
        self,
        x_BTD: Tensor,
        position: int,
        num_tokens: int,
        segment_ids_BT: Tensor | None,
        state: LMState | None = None,
    ) -> tuple[Tensor, tuple[MixerState, ...], Tensor]:
        """Output of this model's blocks, run one after the other.

        Args:
            x_BTD: Input of the first block.
            position: Number of tokens before the input.
            num_tokens: Number of tokens T.
            segment_ids_BT: As in `forward`.
            state: State after the preceding tokens; None at the beginning.

        Returns:
            (x_BTD, the blocks' states after the last token, weighted auxiliary losses).
        """
        context = sequence_context(
            self.config, self.layout, x_BTD, position, num_tokens, segment_ids_BT
        )
        states = []
        auxiliary = x_BTD.new_zeros((), dtype=work_dtype(x_BTD))
        for layer, block in enumerate(self.blocks):
            past = None if state is None else state.layers[layer]
            if self.training:
                # outside of the recomputed block, which restores the random state it began with
                self.layout.rng.start_layer(layer)
            if self.activation_checkpointing and self.training:
                x_BTD, after, losses = checkpoint(block, x_BTD, context, past, use_reentrant=False)
            else:
                x_BTD, after, losses = block(x_BTD, context, past)
            states.append(after)
            if losses is not None:
                auxiliary = auxiliary + losses
        return x_BTD, tuple(states), auxiliary

    def step(self, tokens_B: Tensor, state: LMState) -> tuple[Tensor, LMState]:
        """Logits and state after one token, by the recurrent form.

        Args:
            tokens_B: The next token of every row.
            state: State from `prefill` or an earlier `step`.

        Returns:
            (logits_BV for the token after it, the new state).

        Raises:
            ValueError: As `prefill`.
        """
        self._check_causal()
        check_tokens(tokens_B, 1)
        _check_rows(state, tokens_B)
        x_BD = self._embed(tokens_B)
        context = sequence_context(self.config, self.layout, x_BD, state.position, 1, None)
        states = []
        for layer, block in enumerate(self.blocks):
            x_BD, after = cast(Block, block).step(x_BD, context, state.layers[layer])
            states.append(after)
        logits_BV = linear(self.final_norm(x_BD), self.embedding.table())
        return logits_BV, LMState(state.position + 1, tuple(states))

    def _embed(self, tokens: Tensor) -> Tensor:
        if not self._is_hot():
            check_vocabulary(tokens, self.config.vocab_size)
        parameter = next(self.embedding.parameters())
        if is_half(parameter):
            raise ValueError(
                f"parameters: expected float32, got {parameter.dtype}: modes need its precision. "
                "Load the model in float32, and use torch.autocast for signals in bfloat16"
            )
        x_D = self.embedding(tokens)
        if not self._is_hot():
            check_finite(x_D, "embedding")
        return as_signal(x_D)

    def _is_hot(self) -> bool:
        """Whether to skip checks of values, which wait for the device and split a graph."""
        return self.training or torch.compiler.is_compiling()

    def _check_causal(self) -> None:
        if not self.config.causal:
            raise ValueError(
                "causal: expected true to decode or to keep a state, got false: a bidirectional "
                "model reads all tokens at once"
            )


def _check_rows(state: LMState, tokens: Tensor) -> None:
    check_state(tokens.shape[0], state.position, state.layers[0].short_BWD.shape[0])
