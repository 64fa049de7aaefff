"""The vocabulary split over tensor ranks: embedding, output layer and loss.

A vocabulary that does not divide is padded with rows that are no token; their logits are masked.

Shape letters: N tokens, D channels, V vocabulary, U rows of this rank.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel.cross_entropy import vocab_parallel_cross_entropy
from megatron.core.tensor_parallel.layers import VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kernels.linear_cross_entropy.reference import BLOCK, IGNORE
from kernels.precision import as_signal, full_precision
from pretrain.parallel.mesh import Axis
from pretrain.parallel.placement import Placement, place
from spectral.embedding import HarmonicEmbedding, TableEmbedding
from spectral.modules.linear import linear


def split_embedding(
    embedding: TableEmbedding | HarmonicEmbedding, name: str, axis: Axis
) -> "VocabParallelTable | VocabParallelHarmonic":
    """This rank's rows of an embedding, which stays the output layer too."""
    local_embedding: VocabParallelTable | VocabParallelHarmonic
    if isinstance(embedding, TableEmbedding):
        local_embedding = VocabParallelTable(embedding, axis)
    else:
        local_embedding = VocabParallelHarmonic(embedding, axis)
    for key, whole in embedding.named_parameters():
        vocab, rows = whole.shape[0], _rows(whole.shape[0], axis)
        begin = min(axis.rank * rows, vocab)
        placement = Placement(
            f"{name}.{key}",
            tuple(whole.shape),
            0,
            ((begin, min(begin + rows, vocab)),),
            padding=rows - (min(begin + rows, vocab) - begin),
        )
        part = nn.Parameter(placement.part_of(whole.detach()).clone())
        place(part, placement)
        setattr(local_embedding, key, part)
    return local_embedding


def _rows(vocab: int, axis: Axis) -> int:
    return -(-vocab // axis.size)


class VocabParallelTable(VocabParallelEmbedding):
    """A free vector for each of this rank's tokens."""

    weight_decays = rounds_weight = True

    def __init__(self, embedding: TableEmbedding, axis: Axis):
        super().__init__(
            _rows(embedding.num_embeddings, axis) * axis.size,
            embedding.embedding_dim,
            init_method=lambda weight: weight,
            config=ModelParallelConfig(use_cpu_initialization=True, perform_initialization=False),
            tp_group=axis.group,
        )
        self.axis = axis

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of token ids: [...] -> [..., D], the same on every rank."""
        return _summed(tokens, self.weight.shape[0], self.axis, self._lookup)

    def _lookup(self, local: Tensor) -> Tensor:
        return F.embedding(local, self.weight)

    def table(self) -> Tensor:
        """This rank's vectors [U, D]."""
        weight: Tensor = self.weight
        return weight


class VocabParallelHarmonic(HarmonicEmbedding):
    """Sums of sinusoids for this rank's tokens."""

    def __init__(self, embedding: HarmonicEmbedding, axis: Axis):
        super().__init__(_rows(embedding.amplitude.shape[0], axis), embedding.dim)
        self.axis = axis

    def forward(self, tokens: Tensor) -> Tensor:
        """Vectors of token ids: [...] -> [..., D], the same on every rank."""
        return _summed(tokens, self.amplitude.shape[0], self.axis, super().forward)


def _summed(
    tokens: Tensor, num_rows: int, axis: Axis, lookup: Callable[[Tensor], Tensor]
) -> Tensor:
    """Vectors of all ranks' rows: each is that of one rank and zero on the others."""
    local = tokens - axis.rank * num_rows
    is_local = (local >= 0) & (local < num_rows)
    vectors = as_signal(lookup(torch.where(is_local, local, 0)) * is_local[..., None])
    total: Tensor = reduce_from_tensor_model_parallel_region(vectors, axis.group)
    return total


class VocabParallelLoss:
    """`linear_cross_entropy` over a vocabulary that is split; a block of tokens at a time."""

    def __init__(self, axis: Axis, vocab_size: int, *, shard: bool):
        self.axis, self.vocab_size, self.shard = axis, vocab_size, shard

    def __call__(
        self, x_ND: Tensor, weight_UD: Tensor, labels_N: Tensor, z_weight: float = 0.0
    ) -> Tensor:
        """Sum of the negative log-likelihoods in nats; a z-loss is in its gradient only.

        The logits of a block are recomputed in the backward pass: at most BLOCK * U of them exist.
        """
        if not self.shard:
            # with shards, their gather sums the gradients
            x_ND = copy_to_tensor_model_parallel_region(x_ND, self.axis.group)
        losses = [
            checkpoint(self._block, x_nD, weight_UD, labels_n, z_weight, use_reentrant=False)
            for x_nD, labels_n in zip(x_ND.split(BLOCK), labels_N.split(BLOCK), strict=True)
        ]
        return torch.stack(losses).sum()

    def _block(self, x_nD: Tensor, weight_UD: Tensor, labels_n: Tensor, z_weight: float) -> Tensor:
        logits_nU = linear(x_nD, weight_UD)
        rows = weight_UD.shape[0]
        row_U = self.axis.rank * rows + torch.arange(rows, device=logits_nU.device)
        logits_nU = logits_nU.masked_fill(row_U >= self.vocab_size, float("-inf"))
        valid_n = labels_n != IGNORE
        z_loss = None
        if z_weight:
            z_loss = z_weight * self._squared_lse(full_precision(logits_nU), valid_n)
        # it takes the logits' memory
        nll_n = vocab_parallel_cross_entropy(
            logits_nU[:, None], torch.where(valid_n, labels_n, 0)[:, None]
        )[:, 0]
        nll = torch.where(valid_n, nll_n, 0.0).sum()
        return nll if z_loss is None else nll + (z_loss - z_loss.detach())

    def _squared_lse(self, logits_nU: Tensor, valid_n: Tensor) -> Tensor:
        """Sum over the tokens of logsumexp(logits)^2, over the rows of all ranks."""
        top_n = logits_nU.detach().amax(-1)
        dist.all_reduce(top_n, dist.ReduceOp.MAX, group=self.axis.group)
        part_n = (logits_nU - top_n[:, None]).exp().sum(-1)
        total_n = reduce_from_tensor_model_parallel_region(part_n, self.axis.group)
        return torch.where(valid_n, (total_n.log() + top_n).square(), 0.0).sum()
