"""A model split over tensor or sequence ranks: its loss and every gradient, as on one device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.config import RunConfig
from spectral.classifier import MORE_LABELS
from spectral.config import ModelConfig
from tests.distributed.features import EVERYTHING, GATES, RECALL, config
from tests.distributed.ranks import run_ranks

T = 64
CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "convolution": {"conv_heads": (4,)},
    "recall": {"conv_heads": (0,)},
    "delta": {"conv_heads": (0,), "recall_rule": "delta"},
    "every recall key": RECALL,
    "turning": {"conv_heads": (0,), "recall_phase": "data"},
    "alternating": {"conv_heads": (4, 0)},
    "everything": EVERYTHING,
    "fft": {"mixers": ("fft",)},
    "gated fft": GATES | {"mixers": ("fft",)},
    "wavelet": {"mixers": ("wavelet",)},
    **{name: {"gates": {name: value}} for name, value in GATES["gates"].items()},
}


def _batch(model: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Two rows: one document, and short ones of which several lie across or at span borders."""
    torch.manual_seed(5)
    tokens = torch.randint(model.vocab_size, (2, T))
    labels = torch.randint(model.vocab_size, (2, T)).where(torch.rand(2, T) > 0.1, -100)
    segments = torch.zeros(2, T, dtype=torch.long)
    for start in (3, 15, 16, 31, 32, 33, 47, 60):
        segments[1, start:] += 1
    if model.source_layers:
        # labels of targets only
        labels = torch.where(segments % 2 == 1, labels, -100)
    if model.classes:
        starts = torch.diff(segments, prepend=segments[:, :1] - 1) != 0
        first = torch.zeros_like(labels) if model.multi_label else tokens % model.classes
        labels = torch.where(starts, first, -100)
        if model.multi_label:
            # further labels in the span of their document's first token and, at 48, in the next
            labels[0, 1:3] = MORE_LABELS - torch.tensor([0, 3])
            labels[0, 48] = labels[1, 17] = labels[1, 34] = MORE_LABELS - 1
    return tokens, segments, labels


def compare(
    rank: int, models: dict[str, dict[str, object]], cases: list[tuple[dict[str, int], list[str]]]
) -> None:
    """On every rank, the whole model beside this rank's part."""
    problems = []
    for layout, names in cases:
        some = {name: models[name] for name in names}
        problems += [f"{layout}: {problem}" for problem in _problems(layout, some)]
    assert not problems, f"rank {rank}: {problems}"


def _problems(layout: dict[str, int], models: dict[str, dict[str, object]]) -> Iterator[str]:
    from pretrain.parallel.mesh import build_mesh
    from pretrain.runtime.ranks import init_ranks

    run = RunConfig.model_validate({"parallel": layout})
    mesh = build_mesh(run.parallel, init_ranks())
    for name, model in models.items():
        run = RunConfig.model_validate(
            {
                "parallel": layout,
                "model": config(**model).model_dump(),
                "objective": {"kind": _objective(model)},
            }
        )
        loss, expected = _gradients(run.model_copy(update={"parallel": RunConfig().parallel}), None)
        found_loss, found = _gradients(run, mesh)
        if found_loss != pytest.approx(loss, rel=1e-5):
            yield f"{name}: loss {found_loss} for {loss}"
        for key, (placement, gradient) in found.items():
            whole = expected[key][1]
            part = placement.part_of(whole)
            error = (gradient - part).norm() / (part.norm() + 1e-6 * whole.norm() + 1e-9)
            if not error < 1e-4:
                yield f"{name}: gradient of {key} is off by {error:.1e}"


def _objective(model: dict[str, object]) -> str:
    if model.get("source_layers"):
        return "text_to_text"
    if model.get("classes"):
        return "classify"
    return "next_token" if model.get("causal", True) else "masked_token"


def _gradients(run: RunConfig, mesh: Any) -> tuple[float, dict[str, Any]]:
    """Loss of the whole batch, and each parameter's gradient summed over spans."""
    import torch.distributed as dist

    from data_pipeline.stream.batch import Batch
    from pretrain.loss import batch_loss, count_labels, objective
    from pretrain.parallel.build_model import build_model
    from pretrain.parallel.mesh import Axis, Mesh
    from pretrain.parallel.placement import placements
    from pretrain.parallel.sequence_parallel import own_span

    alone = Axis(1, 0, None)
    mesh = mesh or Mesh(alone, alone, alone, alone, alone)
    model = build_model(run, mesh).double()
    _shake(model)
    tokens, segments, labels = _batch(run.model)
    batch = own_span(Batch(tokens, labels, segments, ()), mesh.sequence)
    torch.manual_seed(7)
    losses = batch_loss(model, batch)
    loss = objective(losses, count_labels(batch))
    loss.backward()
    total = loss.detach()
    if mesh.sequence.size > 1:
        dist.all_reduce(total, group=mesh.sequence.group)
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad, group=mesh.sequence.group)
    return float(total), {p.name: (p, parameter.grad) for p, parameter in placements(model)}


def _shake(model: torch.nn.Module) -> None:
    """Gates begin as the identity: move every parameter, the same way in every layout."""
    from pretrain.parallel.placement import placements

    for placement, parameter in placements(model):
        generator = torch.Generator().manual_seed(sum(map(ord, placement.name)))
        noise = 0.1 * torch.randn(placement.shape, generator=generator)
        with torch.no_grad():
            parameter += placement.part_of(noise)


SHARDED = {"tensor": 2, "shard_activations": True}


def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    every = list(CASES)
    some = ["plain", "everything", "gated fft", "every recall key"]
    cases = [({"tensor": 2}, every), ({"sequence": 2}, every), (SHARDED, some)]
    run_ranks(compare, 2, tmp_path, CASES, cases)


def test_four_ranks_compute_what_one_does(tmp_path: Path) -> None:
    some = ["plain", "everything", "every recall key", "turning"]
    layouts = [({"sequence": 4}, some), (SHARDED | {"sequence": 2}, some)]
    run_ranks(compare, 4, tmp_path, CASES, layouts)
