"""Both kinds of classifiers, with equally many parameters, and the linear one.

Shape letters: B batch, T time (tokens), D channels, S documents of a row, C classes, N texts.
"""

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from benchmarks.tasks.data import Budget, Task, batches_of
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.tokenizer import load_tokenizer
from spectral.classifier import SpectralClassifier
from spectral.config import ModelConfig
from spectral.modules.class_head import ClassHead
from spectral.modules.pooling import pool_documents


class Transformer(nn.Module):
    """transformers' Llama without its causal mask, the same pooling and head."""

    def __init__(self, config: ModelConfig, numbers: int):
        super().__init__()
        per_layer = numbers / config.num_layers - 4 * config.dim**2
        self.model = LlamaModel(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.dim,
                intermediate_size=max(1, round(per_layer / (3 * config.dim))),
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                use_cache=False,
            )
        )
        self.head = ClassHead(config.dim, config.classes)
        self.head.reset_parameters()

    def logits(self, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """Logits [B, S, C] of every document, which attends to itself alone."""
        same = segments_BT[:, None, :, None] == segments_BT[:, None, None, :]
        mask = torch.zeros(same.shape).masked_fill(~same, float("-inf"))
        x_BTD = self.model(tokens_BT, attention_mask=mask).last_hidden_state
        logits: Tensor = self.head(pool_documents(x_BTD, segments_BT, "mean"))
        return logits


class Spectral(nn.Module):
    """A `SpectralClassifier` behind the same interface."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.model = SpectralClassifier(config)

    def logits(self, tokens_BT: Tensor, segments_BT: Tensor) -> Tensor:
        """Logits [B, S, C] of every document."""
        return self.model.classify(self.model.encode(tokens_BT, segments_BT), segments_BT)


def build_model(kind: str, task: Task, budget: Budget, seed: int) -> Spectral | Transformer:
    """A model of a kind; both have equally many parameters."""
    manifest = load_manifest(str(task.folder / "train"))
    config = ModelConfig(
        vocab_size=manifest.tokenizer.vocab_size,
        dim=budget.dim,
        num_layers=budget.layers,
        num_heads=4,
        conv_heads=(2,),
        ffn_dim=2 * budget.dim,
        causal=False,
        classes=len(manifest.labels),
        max_time_constant=float(budget.length),
    )
    torch.manual_seed(seed)
    spectral = Spectral(config)
    if kind == "spectral":
        return spectral
    numbers = sum(p.numel() for p in spectral.model.blocks.parameters())
    torch.manual_seed(seed)
    return Transformer(config, numbers)


def linear_floor(task: Task, budget: Budget) -> float:
    """Accuracy of a linear SVM of TF-IDF of words and pairs of words, on the same split."""
    tokenizer, texts = load_tokenizer(task.tokenizer), {}
    for split in ("train", "valid"):
        rows: list[tuple[str, int]] = []
        for batch in batches_of(task, split, budget, 1):
            starts = (batch.labels[0] >= 0).nonzero()[:, 0].tolist()
            for start in starts:
                inside = batch.segment_ids[0] == batch.segment_ids[0, start]
                ids = batch.tokens[0][inside].tolist()
                rows.append((tokenizer.decode(ids[1:-1]), int(batch.labels[0, start])))
        texts[split] = rows
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LinearSVC())
    model.fit(*zip(*texts["train"], strict=True))
    inputs, labels = zip(*texts["valid"], strict=True)
    return float(model.score(inputs, labels))
