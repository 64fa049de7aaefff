"""Experts shared by ranks: the same losses, gradients, training and checkpoints as on one rank."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pretrain.checkpoint.catalog import list_checkpoints
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.parallel.layout_checks import check_layout
from pretrain.parallel.placement import Placement
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.features import GATES, config
from tests.distributed.ranks import run_ranks

TABLE = {"count": 8, "per_token": 2, "balance_weight": 0.1, "router_z_weight": 0.1}
EXPERTS: dict[str, object] = {"feed_forward": "experts", "experts": TABLE}
# rows and tokens of the batch whose gradients are compared
B, T = 4, 32
# of training, and when a checkpoint is written
STEPS, HALF = 6, 3


def _batch(vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(5)
    tokens = torch.randint(vocab, (B, T))
    labels = torch.randint(vocab, (B, T)).where(torch.rand(B, T) > 0.1, -100)
    segments = torch.zeros(B, T, dtype=torch.long)
    for start in (3, 15, 16, 31):
        segments[1:, start:] += 1
    return tokens, segments, labels


def _compare(rank: int, layouts: list[dict[str, int]], cases: dict[str, dict[str, object]]) -> None:
    """On every rank, the whole model beside this rank's part."""
    from pretrain.parallel.mesh import Axis, Mesh, build_mesh
    from pretrain.runtime.ranks import init_ranks

    one = Axis(1, 0, None)
    alone = Mesh(one, one, one, one, one)
    problems = []
    for layout, (name, changes) in itertools.product(layouts, cases.items()):
        run = RunConfig.model_validate({"parallel": layout, "model": config(**EXPERTS | changes)})
        mesh = build_mesh(run.parallel, init_ranks())
        # float64; but the loss over a vocabulary that is split is float32
        limit = 1e-9 if mesh.tensor.size == 1 else 1e-6
        loss, expected = _gradients(run, alone, micro_batches=mesh.data.size)
        found_loss, found = _gradients(run, mesh, micro_batches=1)
        if found_loss != pytest.approx(loss, rel=limit):
            problems.append(f"{layout} {name}: loss {found_loss} for {loss}")
        errors = {
            key: float((gradient - placement.part_of(expected[key][1])).norm())
            / float(expected[key][1].norm())
            for key, (placement, gradient) in found.items()
        }
        worst = max(errors, key=lambda key: errors[key])
        if not errors[worst] < limit:
            problems.append(f"{layout} {name}: gradient of {worst} is off by {errors[worst]:.1e}")
    assert not problems, f"rank {rank}: {problems}"


def _gradients(
    run: RunConfig, mesh: Any, micro_batches: int
) -> tuple[float, dict[str, tuple[Placement, Tensor]]]:
    """Loss of the whole batch, and each parameter's gradient, summed over ranks.

    Args:
        run: The run.
        mesh: Where this rank stands.
        micro_batches: How many this rank computes; data ranks compute one each.
    """
    import torch.distributed as dist

    from data_pipeline.stream.batch import Batch
    from pretrain.loss import batch_loss, count_labels, objective
    from pretrain.parallel.build_model import build_model
    from pretrain.parallel.placement import placements
    from pretrain.parallel.rng import seed_micro_batch
    from pretrain.parallel.sequence_parallel import own_span

    model = build_model(run, mesh).double()
    for placement, parameter in placements(model):
        generator = torch.Generator().manual_seed(sum(map(ord, placement.name)))
        noise = 0.1 * torch.randn(placement.shape, generator=generator)
        with torch.no_grad():
            parameter += placement.part_of(noise)
    total = torch.zeros((), dtype=torch.float64)
    rows = [x.chunk(micro_batches * mesh.data.size) for x in _batch(run.model.vocab_size)]
    for number, (tokens, segments, labels) in enumerate(zip(*rows, strict=True)):
        if number // micro_batches != mesh.data.rank:
            continue
        batch = own_span(Batch(tokens, labels, segments, ()), mesh.sequence)
        seed_micro_batch(model, number)
        loss = objective(batch_loss(model, batch), count_labels(batch))
        loss.backward()
        total += loss.detach()
    found = {p.name: (p, parameter.grad) for p, parameter in placements(model)}
    if mesh.zero.size > 1:
        dist.all_reduce(total, group=mesh.zero.group)
        # what the ranks that share experts have to say of one is summed already
        ranks = range(mesh.expert.rank, mesh.zero.size, mesh.expert.size)
        for placement, gradient in found.values():
            parts = [torch.empty_like(gradient) for _ in range(mesh.zero.size)]
            dist.all_gather(parts, gradient.contiguous(), group=mesh.zero.group)
            is_shared = mesh.expert.size > 1 and placement.dim is not None
            kept = [parts[rank] for rank in ranks] if is_shared else parts
            gradient.copy_(torch.stack(kept).sum(0))
    return float(total), found


CASES: dict[str, dict[str, object]] = {
    "two of eight": {},
    "one of eight": {"experts": TABLE | {"per_token": 1}},
    "all of four": {"experts": TABLE | {"count": 4, "per_token": 4}},
    "gates": {"gates": GATES["gates"] | {"frequency_dropout": 0.0}},
}


def test_two_ranks_compute_what_one_does(tmp_path: Path) -> None:
    layouts = [{"expert": 2}, {"expert": 2, "sequence": 2}, {"tensor": 2}]
    run_ranks(_compare, 2, tmp_path, layouts, CASES)


@pytest.mark.slow
def test_four_ranks_compute_what_one_does(tmp_path: Path) -> None:
    layouts = [
        {"expert": 4},
        {"expert": 2},
        {"expert": 4, "sequence": 2},
        {"expert": 2, "sequence": 4},
        {"tensor": 2, "sequence": 2},
    ]
    run_ranks(_compare, 4, tmp_path, layouts, CASES, fresh=True)


class Job(NamedTuple):
    """A run, or the second half of one.

    Attributes:
        run: With its layout.
        start: The run's directory whose newest checkpoint it goes on from; None: it begins.
    """

    run: RunConfig
    start: Path | None = None


def _train(rank: int, jobs: list[Job]) -> None:
    """Train to the end, with a checkpoint half-way; every rank writes down what it ended with."""
    from deepspeed.utils import safe_get_full_fp32_param

    from pretrain.parallel.placement import placements
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    for run, start in jobs:
        trainer = Trainer(run, init_ranks(), start and list_checkpoints(start)[-1])
        records = {}
        for batches in trainer.loader:
            record = trainer.train_step(batches)
            assert record is not None
            records[trainer.progress.step] = record
            if trainer.progress.step == HALF:
                trainer.save(needed=True)
            if trainer.progress.step == STEPS:
                break
        valid = trainer.measurements.validate()["valid_loss"]
        parts = {
            placement.name: (tuple(placement), safe_get_full_fp32_param(parameter).clone())
            for placement, parameter in placements(trainer.engine.module)
        }
        torch.save((records, valid, parts), run.train.output / f"result-{rank}.pt")
        trainer.journal.close()
        trainer.engine.destroy()


def _job(
    corpus: SmallCorpus,
    folder: Path,
    name: str,
    parallel: dict[str, int],
    start: str = "",
    **train: Any,
) -> Job:
    values = load_run(corpus.run_file(folder / "run.toml")).model_dump()
    values["model"] |= {"conv_chunk": 16, **EXPERTS, "ffn_dim": 24}
    values["data"] |= {"num_workers": 0}
    # a norm that every step is clipped to: it must be right
    values["optim"] |= {"learning_rate": 1e-3, "clip_norm": 0.1}
    values["train"] |= {"output": folder / name, "steps": STEPS, "global_batch_size": 8} | train
    values["parallel"] |= parallel
    return Job(RunConfig.model_validate(values), folder / start if start else None)


def _problems(folder: Path, name: str, ranks: int) -> list[str]:
    """How a run differs from the one on one rank."""
    problems = []
    records, valid, wholes = torch.load(folder / "one" / "result-0.pt", weights_only=False)
    for rank in range(ranks):
        found = torch.load(folder / name / f"result-{rank}.pt", weights_only=False)
        for step, record in found[0].items():
            for key, rel in (("loss", 1e-5), ("auxiliary_loss", 1e-5), ("grad_norm", 1e-4)):
                if record[key] != pytest.approx(records[step][key], rel=rel):
                    wanted = records[step][key]
                    problems.append(f"{name}, step {step}: {key} {record[key]} for {wanted}")
        if found[1] != pytest.approx(valid, rel=1e-5):
            problems.append(f"{name}: validation {found[1]} for {valid}")
        for key, (placement, part) in found[2].items():
            whole = wholes[key][1]
            error = float((part - Placement(*placement).part_of(whole)).norm() / whole.norm())
            if not error < 1e-4:
                problems.append(f"{name}, rank {rank}: {key} is off by {error:.1e}")
    return problems


def _check(
    corpus: SmallCorpus,
    folder: Path,
    rounds: list[tuple[int, dict[str, Any]]],
    fresh: bool = False,
) -> None:
    """Train in rounds of (ranks, arguments of `_job` by name), each after the one before."""
    problems = []
    for ranks, some in rounds:
        jobs = [_job(corpus, folder, name, **arguments) for name, arguments in some.items()]
        run_ranks(_train, ranks, folder, jobs, fresh=fresh)
        for name in some:
            problems += _problems(folder, name, ranks)
    assert not problems, "\n".join(problems)


def test_two_ranks_train_what_one_does_and_go_on_from_each_other(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    one = {"one": {"parallel": {}}}
    two = {
        "data": {"parallel": {"expert": 2}},
        "spans": {"parallel": {"expert": 2, "sequence": 2, "zero_stage": 2}, "start": "one"},
        "back": {"parallel": {"zero_stage": 3}, "start": "data"},
    }
    _check(small_corpus, tmp_path, [(1, one), (2, two)])


@pytest.mark.slow
def test_four_ranks_train_what_one_does_and_go_on_from_each_other(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    one = {"one": {"parallel": {}}}
    four = {
        "four": {"parallel": {"expert": 4}},
        "full": {"parallel": {"expert": 4}, "activation_checkpointing": "full"},
        "offload": {"parallel": {"expert": 2, "offload_optimizer": "cpu"}},
        "pairs": {"parallel": {"expert": 2, "zero_stage": 2}, "start": "four"},
        "spans": {"parallel": {"expert": 4, "sequence": 2, "zero_stage": 2}, "start": "one"},
        "long": {
            "parallel": {"expert": 2, "sequence": 4},
            "start": "offload",
            "activation_checkpointing": "selective",
        },
        "tensor": {"parallel": {"tensor": 2, "zero_stage": 3}, "start": "full"},
        "stages": {"parallel": {"pipeline": 2}, "start": "four"},
    }
    last = {"last": {"parallel": {"zero_stage": 2}, "start": "offload"}}
    _check(small_corpus, tmp_path, [(1, one), (4, four), (1, last)], fresh=True)


@pytest.mark.parametrize(
    ("ranks", "model", "parallel", "message"),
    [
        (2, {"feed_forward": "gated"}, {"expert": 2}, "feed_forward 'gated', which has no experts"),
        (6, {}, {"expert": 3}, r"experts\.count 8 and the 6 data .* one of \[1, 2\]"),
        (2, {}, {"expert": 4}, r"the 2 data and sequence ranks: one of \[1, 2\]"),
        (4, {}, {"expert": 2, "tensor": 2}, "parallel.tensor 2; expected one of them 1"),
        (4, {}, {"expert": 2, "pipeline": 2}, "parallel.pipeline 2; expected one of them 1"),
        (2, {}, {"expert": 2, "zero_stage": 3}, "zero_stage is 3 with .* expected 1 or 2"),
        (2, {}, {"expert": 2, "zero_stage": 0}, "zero_stage is 0 with .* expected 1 or 2"),
        (2, {}, {"tensor": 2, "shard_activations": True}, "shard_activations .* expected false"),
    ],
)
def test_layouts_that_cannot_share_experts_are_refused(
    ranks: int, model: dict[str, object], parallel: dict[str, int], message: str
) -> None:
    run = RunConfig.model_validate(
        {
            "model": config(**EXPERTS | model),
            "data": {"sequence_length": 128},
            "train": {"global_batch_size": 12, "micro_batch_size": 1},
            "parallel": parallel,
        }
    )
    with pytest.raises(RunError, match=message):
        check_layout(run, ranks)
    possible = run.model_copy(update={"parallel": RunConfig().parallel})
    check_layout(possible, ranks)
