"""Fingerprints, some logits and the loss of a fixed probe, measured on this rank.

Shape letters: T time (tokens of this rank's span), D channels, N tokens, V rows of the table here.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pretrain.config import RunConfig
from pretrain.parallel.collectives import gathered_along
from pretrain.parallel.evaluator import evaluator
from pretrain.parallel.placement import placements
from pretrain.runtime.wire import exact_parameters
from spectral.block import Block
from spectral.layout import Layout
from spectral.lm import LMLoss

# longer sequences are probed by a part of them: a number of chunks with many divisors
MAX_PROBE_TOKENS, PROBE_CHUNKS = 16_384, 1_200
PROBE_LOGITS = 8
WAVES = ((0.7548776662, 0.5698402910), (1.3247179572, 2.2195699481), (2.0945514815, 1.1220546420))


class ProbeReading(NamedTuple):
    """Measurements of one rank.

    Attributes:
        position: Position of the first token of its span.
        layers: By layer, sums over the outputs of its span: squares, and projections on waves.
        logits: Logits of its span's last token, by token id, for the ids of its part of the table.
        nll: Negative log-likelihood of its span; None if another rank computes the loss.
    """

    position: int
    layers: dict[str, list[float]]
    logits: dict[int, float]
    nll: float | None


def probe_length(run: RunConfig) -> int:
    """Length of a run's probe in tokens; it can be cut into spans like the run's sequences."""
    length = run.data.sequence_length
    if length <= MAX_PROBE_TOKENS:
        return length
    return min(length, PROBE_CHUNKS * run.model.conv_chunk)


def probe_tokens(vocab_size: int, length: int) -> Tensor:
    """The probe: one row of tokens [1, T + 1], the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (1, length + 1), generator=generator)


class ProbeTarget(NamedTuple):
    """A model to be probed.

    Attributes:
        model: This rank's part of it, a `SpectralLM`.
        loss: (tokens, segment ids, labels) -> the loss of all parts together.
        is_last: Whether `loss` returns the true loss on this rank (the last pipeline stage).
    """

    model: Any
    loss: Callable[[Tensor, Tensor, Tensor], LMLoss]
    is_last: bool


@contextmanager
def probe_target(model: Any) -> Iterator[ProbeTarget]:
    """The part of a model, or of an engine of any layout, to be probed in float32, without dropout.

    The model's precision and training mode are restored afterwards.
    """
    inner = getattr(model, "module", model)
    device = next(inner.parameters()).device
    was_training = inner.training
    inner.eval()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(device.type, enabled=False))
            stack.enter_context(exact_parameters(model))
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
    """Compute the probe and measure this rank's part of the model; a collective of all ranks.

    Args:
        target: The model to be probed.
        vocab_size: Vocabulary size of the whole model.
        length: Tokens of the whole probe.
    """
    module = target.model
    device = next(module.parameters()).device
    span: Any = module.layout.span
    spans = getattr(getattr(span, "axis", None), "size", 1)
    position = int(span.position(length // spans))
    tokens = probe_tokens(vocab_size, length).to(device)
    local = slice(position, position + length // spans)
    layers: dict[str, list[float]] = {}
    logits: dict[int, float] = {}
    inputs, labels = tokens[:, :-1][:, local], tokens[:, 1:][:, local]
    if module.config.classes:
        # the label of the row, which is one document
        first = torch.arange(position, position + labels.shape[1], device=device) == 0
        labels = torch.where(first, labels % module.config.classes, -100)
    with (
        _recorded_layers(module, inputs.shape[1], position, layers),
        _recorded_logits(module, vocab_size, logits),
    ):
        segments = torch.zeros_like(inputs)
        if module.config.source_layers:
            # the first half of the row is the source of the second
            time = torch.arange(position, position + inputs.shape[1], device=device)
            segments = (time >= length // 2).long().expand_as(inputs).contiguous()
        loss = target.loss(inputs, segments, labels)
    return ProbeReading(position, layers, logits, float(loss.nll) if target.is_last else None)


@contextmanager
def _recorded_layers(
    module: Any, length: int, position: int, layers: dict[str, list[float]]
) -> Iterator[None]:
    """Record the sums of every layer's output, under the layer's name in the whole model.

    Args:
        module: This rank's part of the model.
        length: Tokens of its span.
        position: Position of the first of them.
        layers: Sums by layer, which are added.
    """
    with ExitStack() as stack:
        for name, layer in _layers(module):

            def record(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                x = output[0] if isinstance(output, tuple) else output
                if x.shape[1] < length:
                    # the other tokens are on other tensor ranks
                    x = gathered_along(x, 1, module.layout.heads.axis)
                layers[name] = sums(x[0], position)

            stack.callback(layer.register_forward_hook(record).remove)
        yield


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    names = {id(parameter): placement.name for placement, parameter in placements(module)}
    for layer in module.modules():
        keys = [names[id(p)] for p in layer.parameters() if id(p) in names]
        if isinstance(layer, Block):
            yield ".".join(keys[0].split(".")[:2]), layer
        elif keys and layer is not module:
            for name in ("embedding", "final_norm"):
                if all(key.startswith(f"{name}.") for key in keys):
                    yield name, layer


def sums(x_TD: Tensor, position: int) -> list[float]:
    """Sum of squares of a span's outputs, projections on waves [3], and number of outputs.

    They add up over spans. Waves along positions and channels make swapped positions and swapped
    channels visible.
    """
    x_TD = x_TD.detach().double()
    T, D = x_TD.shape
    t = torch.arange(position, position + T, device=x_TD.device, dtype=torch.float64)
    d = torch.arange(D, device=x_TD.device, dtype=torch.float64)
    waves = [torch.cos(a * t + 1.0) @ x_TD @ torch.cos(b * d + 2.0) for a, b in WAVES]
    return [float(x_TD.square().sum()), *(float(wave) for wave in waves), float(T * D)]


@contextmanager
def _recorded_logits(module: Any, vocab_size: int, logits: dict[int, float]) -> Iterator[None]:
    """Record some logits of the last token from the inputs of the cross-entropy."""
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

    def record(x_ND: Tensor, table_VD: Tensor) -> None:
        for token in range(0, vocab_size, max(1, vocab_size // PROBE_LOGITS)):
            if start <= token < start + table_VD.shape[0]:
                logits[token] = float(x_ND[-1] @ table_VD[token - start])

    def recording(x_ND: Tensor, table_VD: Tensor, labels_N: Tensor) -> Tensor:
        record(x_ND, table_VD)
        return original(x_ND, table_VD, labels_N)

    if isinstance(original, nn.Module):
        handle = original.register_forward_pre_hook(lambda _, inputs: record(*inputs[:2]))
        yield
        handle.remove()
        return
    module.layout = layout._replace(cross_entropy=recording)
    try:
        yield
    finally:
        module.layout = layout


def merge_readings(readings: list[ProbeReading], length: int) -> dict[str, list[float]]:
    """Measurements of the whole model, from those of all ranks; each span counts once.

    Returns:
        By layer, in order: root mean square of its output, and projections divided by the root of
        the number of elements. Then "logits" of the last token and "loss", nats per token.
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
    if logits:
        result["logits"] = [logits[token] for token in sorted(logits)]
    result["loss"] = [sum(nll.values()) / length]
    return result


def _order(name: str) -> tuple[int, int]:
    """Sort key of a layer: embedding, blocks, final norm."""
    if name.startswith("blocks."):
        return 1, int(name.split(".")[1])
    return (0, 0) if name == "embedding" else (2, 0)
