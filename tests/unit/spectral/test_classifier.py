"""Pooling and labels of packed documents: as of each document alone."""

import pytest
import torch

from spectral.classifier import MORE_LABELS, SpectralClassifier
from spectral.encoder import SpectralEncoder
from spectral.models import model_class
from tests.unit.spectral.causality.checks import SEGMENTS, T, small_config, some_tokens

POOLINGS = ("mean", "max", "cls")


def _model(**keys: object) -> SpectralClassifier:
    torch.manual_seed(0)
    model = model_class(small_config(causal=False, **keys))(small_config(causal=False, **keys))
    assert isinstance(model, SpectralClassifier)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_packed_document_is_pooled_as_if_alone(pooling: str) -> None:
    model, tokens = _model(classes=3, pooling=pooling), some_tokens(2, T)
    segments = SEGMENTS - SEGMENTS.min()
    packed = model.pooled(tokens, segments.expand(2, -1))
    assert packed.shape[1] == int(segments.max()) + 1
    for document in segments.unique():
        inside = segments[0] == document
        alone = model.pooled(tokens[:, inside])
        torch.testing.assert_close(packed[:, document], alone[:, 0])
        hidden = model.encode(tokens[:, inside])
        expected = {"mean": hidden.mean(1), "max": hidden.amax(1), "cls": hidden[:, 0]}[pooling]
        torch.testing.assert_close(alone[:, 0], expected)


def test_the_loss_is_that_of_every_labelled_document() -> None:
    model, tokens = _model(classes=3), some_tokens(1, T)
    segments = SEGMENTS[:1] - SEGMENTS.min()
    starts = (torch.diff(segments, prepend=segments[:, :1] - 1) != 0).nonzero()[:, 1]
    labels = torch.full_like(segments, -100)
    # the last document has no label, like padding
    labels[0, starts[:-1]] = torch.arange(len(starts) - 1) % 3
    loss = model(tokens, segments, labels)
    logits = model(tokens, segments)[0, :-1]
    truth = torch.arange(len(starts) - 1) % 3
    expected = torch.nn.functional.cross_entropy(logits, truth, reduction="sum")
    torch.testing.assert_close(loss.nll, expected)
    assert int(loss.correct) == int((logits.argmax(-1) == truth).sum())


def test_several_labels_are_separate_decisions() -> None:
    model, tokens = _model(classes=4, multi_label=True), some_tokens(1, T)
    labels = torch.full((1, T), -100)
    labels[0, 0] = 0
    labels[0, 1:3] = MORE_LABELS - torch.tensor([3, 1])
    loss = model(tokens, None, labels)
    target = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        model(tokens)[0, 0], target, reduction="sum"
    )
    torch.testing.assert_close(loss.nll, expected)


def test_models_are_of_the_class_of_their_configuration() -> None:
    assert model_class(small_config(causal=False)) is SpectralEncoder
    assert model_class(small_config()).__name__ == "SpectralLM"
    assert model_class(small_config(classes=2)) is SpectralClassifier
    with pytest.raises(ValueError, match="pooling 'cls' takes the first token"):
        small_config(classes=2, pooling="cls")
    with pytest.raises(ValueError, match="multi_label is true with classes 0"):
        small_config(multi_label=True)
