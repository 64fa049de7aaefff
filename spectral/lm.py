"""`SpectralLM`: a strictly causal language model without attention.

Shape letters: B batch, T time (tokens), D channels, V vocabulary.
"""

from typing import NamedTuple

from torch import Tensor, nn

from spectral.backbone import Backbone, LMState
from spectral.config import ModelConfig
from spectral.input_checks import check_label_range, check_labels, check_tokens
from spectral.modules.linear import linear


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


class SpectralLM(Backbone, nn.Module):
    """Embedding, blocks, norm, and the embedding again as output layer (tied).

    The same parameters serve every sequence length. Parallel form: `forward`; recurrent form:
    `step`, with constant time and memory per token. Both give the same logits.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # weight of logsumexp(logits)^2 per token
        self.z_weight = 0.0
        self.build(config)
        self.reset_parameters()

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
            ValueError: An empty sequence, segment ids that go back, or labels of another shape;
                outside of training, whose guard checks losses, also ids and labels beyond the
                vocabulary and embeddings that are not finite.
        """
        if labels_BT is not None:
            check_labels(labels_BT, tokens_BT.shape)
            if not self.is_hot():
                check_label_range(labels_BT, self.config.vocab_size)
        check_tokens(tokens_BT, 2)
        x_BTD, _, auxiliary = self.hidden(
            self.embed(tokens_BT), segment_ids_BT, num_tokens=tokens_BT.shape[1]
        )
        if labels_BT is None:
            return linear(x_BTD, self.table())
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
        inputs = x_BTD.flatten(0, 1), self.table(), labels_BT.flatten()
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
        x_BTD, state = self.continue_hidden(self.embed(tokens_BT), segment_ids_BT, state)
        return linear(x_BTD[:, -num_logits:], self.table()), state

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
        x_BD, state = self.hidden_step(self.embed(tokens_B), state)
        return linear(x_BD, self.table()), state

    def table(self) -> Tensor:
        """The vectors of all tokens [V, D]."""
        table: Tensor = self.embedding.table()  # type: ignore[operator]
        return table

    def _check_causal(self) -> None:
        if not self.config.causal:
            raise ValueError(
                "causal: expected true to decode or to keep a state, got false: a bidirectional "
                "model reads all tokens at once"
            )
