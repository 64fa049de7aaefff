"""What this rank sees while the model computes a fixed probe: fingerprints, some logits, the loss.

Shape letters: T time (tokens of this rank's span), D channels, N tokens, V rows of the table here.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretrain.config import RunConfig
from pretrain.parallel.evaluator import evaluator
from pretrain.parallel.placement import placements
from spectral.block import Block
from spectral.layout import Layout
from spectral.lm import LMLoss

# sequences up to this long are probed whole, longer ones by a number of chunks that divides well
MAX_PROBE_TOKENS, PROBE_CHUNKS = 16_384, 1_200
PROBE_LOGITS = 8
WAVES = ((0.7548776662, 0.5698402910), (1.3247179572, 2.2195699481), (2.0945514815, 1.1220546420))


class ProbeReading(NamedTuple):
    """What one rank saw.

    Attributes:
        position: Where its span begins.
        layers: By layer, sums over the outputs of its span: squares, and projections on waves.
        logits: Of the last token of its span, by token id, for the ids that it has.
        nll: Summed over its span; None if the loss is computed elsewhere.
    """

    position: int
    layers: dict[str, list[float]]
    logits: dict[int, float]
    nll: float | None


def probe_length(run: RunConfig) -> int:
    """Tokens of a run's probe: they can be cut into spans like its sequences."""
    length = run.data.sequence_length
    if length <= MAX_PROBE_TOKENS:
        return length
    return min(length, PROBE_CHUNKS * run.model.conv_chunk)


def probe_tokens(vocab_size: int, length: int) -> Tensor:
    """The probe: one row of tokens [1, T + 1], the same everywhere."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (1, length + 1), generator=generator)


class ProbeTarget(NamedTuple):
    """A model to look at.

    Attributes:
        model: This rank's part of it, a `SpectralLM`.
        loss: (tokens, segment ids, labels) -> the loss of all parts together.
        is_last: Whether the loss that it gives here is one.
    """

    model: Any
    loss: Callable[[Tensor, Tensor, Tensor], LMLoss]
    is_last: bool


@contextmanager
def probe_target(model: Any) -> Iterator[ProbeTarget]:
    """What to look at in a model, or in an engine of any layout; in float32 and without dropout.

    Whatever the training does; everything is left as it was.
    """
    inner = getattr(model, "module", model)
    device = next(inner.parameters()).device
    was_training = inner.training
    inner.eval()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, enabled=False))
            for module in inner.modules():
                if hasattr(module, "precision"):
                    stack.enter_context(module.precision.off())
            if hasattr(model, "eval_batch"):
                yield ProbeTarget(inner.stage.model, evaluator(model), inner.stage.is_last)
            else:
                yield ProbeTarget(inner, inner, is_last=True)
    finally:
        inner.train(was_training)


@torch.no_grad()
def run_probe(target: ProbeTarget, vocab_size: int, length: int) -> ProbeReading:
    """Compute the probe and watch this rank's part of the model; a collective of all ranks.

    Args:
        target: What to look at.
        vocab_size: Of the whole model.
        length: Tokens of the whole probe.
    """
    module = target.model
    device = next(module.parameters()).device
    span: Any = module.layout.span
    spans = getattr(getattr(span, "axis", None), "size", 1)
    position = int(span.position(length // spans))
    tokens = probe_tokens(vocab_size, length).to(device)
    own = slice(position, position + length // spans)
    layers: dict[str, list[float]] = {}
    logits: dict[int, float] = {}
    inputs, labels = tokens[:, :-1][:, own], tokens[:, 1:][:, own]
    with _watched(module, position, layers), _overheard(module, vocab_size, logits):
        loss = target.loss(inputs, torch.zeros_like(inputs), labels)
    return ProbeReading(position, layers, logits, float(loss.nll) if target.is_last else None)


@contextmanager
def _watched(module: nn.Module, position: int, found: dict[str, list[float]]) -> Iterator[None]:
    """Note the sums of every layer's output, under the layer's name in the whole model."""
    with ExitStack() as stack:
        for name, layer in _layers(module):

            def note(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                x = output[0] if isinstance(output, tuple) else output
                found[name] = sums(x[0], position)

            stack.callback(layer.register_forward_hook(note).remove)
        yield


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    names = {id(parameter): placement.name for placement, parameter in placements(module)}
    for layer in module.modules():
        own = [names[id(p)] for p in layer.parameters() if id(p) in names]
        if isinstance(layer, Block):
            yield ".".join(own[0].split(".")[:2]), layer
        elif own and layer is not module:
            for name in ("embedding", "final_norm"):
                if all(key.startswith(f"{name}.") for key in own):
                    yield name, layer


def sums(x_TD: Tensor, position: int) -> list[float]:
    """Squares of a span's outputs, and projections on waves over positions and channels.

    They add up over spans. A wave along each tells apart swapped positions and swapped channels.
    """
    x_TD = x_TD.detach().double()
    T, D = x_TD.shape
    t = torch.arange(position, position + T, device=x_TD.device, dtype=torch.float64)
    d = torch.arange(D, device=x_TD.device, dtype=torch.float64)
    waves = [torch.cos(a * t + 1.0) @ x_TD @ torch.cos(b * d + 2.0) for a, b in WAVES]
    return [float(x_TD.square().sum()), *(float(wave) for wave in waves), float(T * D)]


@contextmanager
def _overheard(module: Any, vocab_size: int, found: dict[int, float]) -> Iterator[None]:
    """Note some logits of the last token when the loss asks for all of them."""
    start = next(
        (
            p.ranges[0][0]
            for p, _ in placements(module)
            if p.name.startswith("embedding.") and p.ranges
        ),
        0,
    )
    layout: Layout = module.layout
    original = layout.cross_entropy

    def note(x_ND: Tensor, table_VD: Tensor) -> None:
        for token in range(0, vocab_size, max(1, vocab_size // PROBE_LOGITS)):
            if start <= token < start + table_VD.shape[0]:
                found[token] = float(x_ND[-1] @ table_VD[token - start])

    def listening(x_ND: Tensor, table_VD: Tensor, labels_N: Tensor) -> Tensor:
        note(x_ND, table_VD)
        return original(x_ND, table_VD, labels_N)

    if isinstance(original, nn.Module):
        handle = original.register_forward_pre_hook(lambda _, inputs: note(*inputs[:2]))
        yield
        handle.remove()
        return
    module.layout = layout._replace(cross_entropy=listening)
    try:
        yield
    finally:
        module.layout = layout


def merge_readings(readings: list[ProbeReading], length: int) -> dict[str, list[float]]:
    """What all ranks saw, as one: each span once.

    Returns:
        By layer, in order: root mean square of its output, and projections per root element. Then
        "logits" of the last token and "loss", nats per token.
    """
    spans: dict[str, dict[int, list[float]]] = {}
    nll: dict[int, float] = {}
    last = max(reading.position for reading in readings)
    logits: dict[int, float] = {}
    for reading in readings:
        for name, numbers in reading.layers.items():
            spans.setdefault(name, {}).setdefault(reading.position, numbers)
        if reading.nll is not None:
            nll.setdefault(reading.position, reading.nll)
        if reading.position == last:
            logits = reading.logits | logits
    result = {}
    for name in sorted(spans, key=_order):
        square, *waves, count = (sum(column) for column in zip(*spans[name].values(), strict=True))
        result[name] = [math.sqrt(square / count), *(wave / math.sqrt(count) for wave in waves)]
    result["logits"] = [logits[token] for token in sorted(logits)]
    result["loss"] = [sum(nll.values()) / length]
    return result


def _order(name: str) -> tuple[int, int]:
    """Embedding, blocks, final norm."""
    if name.startswith("blocks."):
        return 1, int(name.split(".")[1])
    return (0, 0) if name == "embedding" else (2, 0)
