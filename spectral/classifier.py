"""`SpectralClassifier`: labels of texts, from a linear map of pooled hidden states.

Labels are those of documents in packed rows, at the places of their tokens (`LABEL_AT_START`), so
that a batch of labelled texts has the form of every other batch.

Shape letters: B batch, T time (tokens), D channels, S documents of a row, C classes, N documents.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectral.config import ModelConfig
from spectral.encoder import SpectralEncoder
from spectral.input_checks import check_labels, check_tokens
from spectral.lm import LMLoss
from spectral.modules.class_head import ClassHead
from spectral.modules.pooling import pool_documents

# A document's label is at its first token. With several labels, 0 is there, and label c is
# MORE_LABELS - c at one of the tokens after it; -100 is no label.
MORE_LABELS = -101


class SpectralClassifier(SpectralEncoder):
    """Embedding, blocks, norm, pooling, and a linear map to classes."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.head = ClassHead(config.dim, config.classes)
        self.head.reset_parameters()

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """As of `SpectralLM`, then the head."""
        yield from super().parts()
        if hasattr(self, "head"):
            yield "head", self.head

    def forward(
        self,
        tokens_BT: Tensor,
        segment_ids_BT: Tensor | None = None,
        labels_BT: Tensor | None = None,
    ) -> Tensor | LMLoss:
        """Logits of the classes of every document or, given labels, the loss.

        Args:
            tokens_BT: Token ids.
            segment_ids_BT: As of `SpectralLM.forward`, from 0 in each row.
            labels_BT: Labels of documents, as `MORE_LABELS` says.

        Returns:
            logits_BSC or, given labels, the losses, summed over documents.

        Raises:
            ValueError: As `SpectralLM.forward`.
        """
        if labels_BT is not None:
            check_labels(labels_BT, tokens_BT.shape)
        check_tokens(tokens_BT, 2)
        x_BTD, _, auxiliary = self.hidden(
            self.embed(tokens_BT), segment_ids_BT, num_tokens=tokens_BT.shape[1]
        )
        if labels_BT is None:
            return self.classify(x_BTD, segment_ids_BT)
        return self.losses(x_BTD, labels_BT, segment_ids_BT, auxiliary)

    def classify(self, x_BTD: Tensor, segment_ids_BT: Tensor | None) -> Tensor:
        """Logits logits_BSC of every document, from normalised hidden states."""
        pooled_BSD = pool_documents(x_BTD, segment_ids_BT, self.config.pooling, self.layout.span)
        logits: Tensor = self.head(pooled_BSD)
        return logits

    def losses(
        self, x_BTD: Tensor, labels_BT: Tensor, segment_ids_BT: Tensor | None, auxiliary: Tensor
    ) -> LMLoss:
        """Losses of the documents that begin in this span, and how many are classified right."""
        logits_BSC = self.classify(x_BTD, segment_ids_BT)
        if segment_ids_BT is None:
            segment_ids_BT = torch.zeros_like(labels_BT)
        row_N, time_N = (labels_BT >= 0).nonzero(as_tuple=True)
        logits_NC = logits_BSC[row_N, segment_ids_BT[row_N, time_N]]
        if not self.config.multi_label:
            label_N = labels_BT[row_N, time_N]
            nll = F.cross_entropy(logits_NC, label_N, reduction="sum")
            return LMLoss(nll, auxiliary, (logits_NC.argmax(-1) == label_N).sum())
        B, S, C = logits_BSC.shape
        row_M, time_M = (labels_BT <= MORE_LABELS).nonzero(as_tuple=True)
        target_BSC = logits_BSC.new_zeros(B, S, C)
        target_BSC[row_M, segment_ids_BT[row_M, time_M], MORE_LABELS - labels_BT[row_M, time_M]] = (
            1.0
        )
        # those of a document may lie in two spans
        target_NC = self.layout.span.total(target_BSC)[row_N, segment_ids_BT[row_N, time_N]]
        nll = F.binary_cross_entropy_with_logits(logits_NC, target_NC, reduction="sum")
        return LMLoss(nll, auxiliary, ((logits_NC > 0) == (target_NC > 0)).all(-1).sum())
