"""A step of one rank, rehearsed: the real training code without data, values or peers.

Tensors are fake and so is the process group, so the figures are those of the code itself: of the
model's part, of DeepSpeed's engine, and of every kernel or reference inside our operators. Rows are
one document each, and experts get equally many rows.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from data_pipeline.stream.batch import Batch
from pretrain.config import RunConfig
from pretrain.parallel.mesh import build_mesh
from pretrain.planning.memory import Peak, Span, fullest, moments_of
from pretrain.planning.records import Segment
from pretrain.planning.stand_ins import MARK as STEP
from pretrain.planning.stand_ins import Message, stand_ins
from pretrain.planning.tracer import Tracer
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.precision import LossScale
from pretrain.runtime.ranks import Ranks
from pretrain.training.engine import build_engine, finish_step
from pretrain.training.gradient import StepContext, compute_gradient

PASS, LAST_PASS = "pass", "last pass"


class Rehearsal(NamedTuple):
    """Storages, operations and collectives of a rank in a step.

    Attributes:
        parameters: Parameters of its part of the model, before ZeRO shards them.
        segments: Operations and collectives, by the part of the step.
        repeats: How often the step has each of those parts.
        peaks: Fullest moments of the parts of the step.
        starts: Fullest moments of the start, until the engine is built.
        message: What a stage sends to the next one; empty without one.
    """

    parameters: int
    segments: dict[str, Segment]
    repeats: dict[str, Fraction]
    peaks: list[Peak]
    starts: list[Peak]
    message: Message

    @property
    def peak(self) -> Peak:
        """Fullest moment of the step."""
        return fullest(self.peaks)

    @property
    def start(self) -> Peak:
        """Fullest moment of the start."""
        return fullest(self.starts)

    def sent(self) -> dict[str, int]:
        """Bytes that the rank gives to each collective in a step."""
        total: dict[str, int] = {}
        for name, segment in self.segments.items():
            for collective, number in segment.collectives.items():
                size = int(collective.bytes * number * self.repeats[name])
                total[collective.name] = total.get(collective.name, 0) + size
        return {name: size for name, size in total.items() if size}


def rehearse(
    run: RunConfig,
    num_ranks: int,
    rank: int,
    *,
    kernels: bool,
    message: Message | None = None,
    bounds: list[int] | None = None,
) -> Rehearsal:
    """Rehearse a step of a rank, in a process that has no process group.

    Args:
        run: The run; its layout is possible on these ranks.
        num_ranks: Number of ranks.
        rank: The rank.
        kernels: Whether operators launch the kernels of a GPU, instead of their references.
        message: What the stage before sends, if the rank is on a later stage.
        bounds: First block of each stage, and one past the last block; None for equal stages.
    """
    stages, micro = run.parallel.pipeline, run.train.micro_batch_size
    num_data = num_ranks // run.parallel.model_ranks
    passes = run.train.global_batch_size // (micro * num_data)
    # more of them only repeat what these do
    rehearsed = min(passes, max(2, stages))
    train = run.train.model_copy(update={"global_batch_size": rehearsed * micro * num_data})
    short_run = run.model_copy(update={"train": train})
    with _rehearsing(short_run, num_ranks, rank, kernels, message, bounds) as (rehearsing, sent):
        tracer = rehearsing.tracer
        starts = moments_of(tracer.allocations, [Span("start", 0, tracer.clock)], [])
        # the first step makes states, and learns the order of the parameters
        rehearsing.step(rehearsed)
        rehearsing.forwards.clear()
        tracer.segments.clear()
        begin = tracer.clock
        rehearsing.step(rehearsed)
        spans = [*rehearsing.heartbeat.spans(begin), Span("end", tracer.clock, tracer.clock)]
        peaks = moments_of(tracer.allocations, spans, rehearsing.forwards)
    if stages > 1:
        repeats = {PASS: Fraction(passes, rehearsed), STEP: Fraction(1)}
    else:
        repeats = {PASS: Fraction(passes - 1), LAST_PASS: Fraction(1), STEP: Fraction(1)}
    segments = {name: tracer.segments[name] for name in repeats if name in tracer.segments}
    return Rehearsal(rehearsing.parameters, segments, repeats, peaks, starts, sent)


def rehearse_start(run: RunConfig, num_ranks: int, rank: int) -> Peak:
    """The fullest moment of a rank's start, until its engine is built; see `rehearse`."""
    with _rehearsing(run, num_ranks, rank, False, None, None) as (rehearsing, _):
        tracer = rehearsing.tracer
        return fullest(moments_of(tracer.allocations, [Span("start", 0, tracer.clock)], []))


@contextmanager
def _rehearsing(
    run: RunConfig,
    num_ranks: int,
    rank: int,
    kernels: bool,
    message: Message | None,
    bounds: list[int] | None,
) -> Iterator[tuple["_Rehearsing", Message]]:
    """A rank whose engine is built, and what it will have sent to the next stage."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0", "CUDA_VISIBLE_DEVICES": ""}
    tracer, ranks = Tracer(), Ranks(rank, num_ranks, torch.device("cpu"))
    with (
        stand_ins(run, tracer, ranks, kernels=kernels, message=message, bounds=bounds) as sent,
        FakeTensorMode(allow_non_fake_inputs=True),
        tracer,
    ):
        yield _Rehearsing(run, ranks, tracer, kernels), sent


class _Phases(Heartbeat):
    """A heartbeat whose phases begin the segments of a step."""

    def __init__(self, rank: int, tracer: Tracer):
        super().__init__(Path(), rank)
        self._tracer = tracer
        self._begins: list[tuple[str, int]] = []
        self.passes = 1
        self.on_gradient: Any = None

    def beat(self, phase: str) -> None:
        """Begin a phase."""
        super().beat(phase)
        self._begins.append((phase, self._tracer.clock))
        if phase.startswith("forward pass") and int(phase.split()[-1]) == self.passes:
            self._tracer.start(LAST_PASS)
        elif "pass" in phase and not phase.startswith("backward"):
            self._tracer.start(PASS)
        elif phase == "gradient norm":
            self._tracer.start(STEP)
            self.on_gradient()

    def spans(self, begin: int) -> Iterator[Span]:
        """The phases from a reading of the clock on."""
        ends = [clock for _, clock in self._begins[1:]] + [self._tracer.clock]
        for (phase, clock), end in zip(self._begins, ends, strict=True):
            if clock >= begin:
                yield Span(phase, clock, end)


class _Rehearsing:
    """A rank's engine, and labels for what it holds."""

    def __init__(self, run: RunConfig, ranks: Ranks, tracer: Tracer, on_gpu: bool):
        self.run, self.tracer = run, tracer
        parallel = run.parallel
        self._optimizer_host = "host " * (on_gpu and parallel.offload_optimizer != "none")
        self._parameters_host = "host " * (on_gpu and parallel.offload_parameters != "none")
        self.forwards: list[Span] = []
        self._has_labelled = False
        mesh = build_mesh(parallel, ranks)
        self.engine = build_engine(run, ranks, mesh)
        model = self.engine.module
        self._values = list(model.parameters())
        self.parameters = sum(getattr(p, "ds_numel", p.numel()) for p in self._values)
        self.heartbeat = _Phases(ranks.rank, tracer)
        self.heartbeat.on_gradient = self._label_optimizer
        loss_scale = LossScale(run.train, self._values)
        self._context = StepContext(self.engine, ranks, mesh, self.heartbeat, loss_scale)
        model.register_forward_pre_hook(self._enter)
        model.register_forward_hook(self._leave)
        for parameter in self._values:
            parameter.register_post_accumulate_grad_hook(self._label_gradient)
        self._label_states()

    def step(self, passes: int) -> None:
        """Run the passes and the optimizer."""
        rows = self.run.train.micro_batch_size
        length = self.run.data.sequence_length // self.run.parallel.sequence
        tokens = torch.zeros(rows, length, dtype=torch.long)
        self.heartbeat.passes = passes
        compute_gradient(self._context, [Batch(tokens, tokens, tokens, ())] * passes, 1.0, seed=0)
        self.heartbeat.beat("optimizer")
        finish_step(self.engine, apply=True)
        self._label_states()

    def _enter(self, *_: Any) -> None:
        self._begin = self.tracer.clock

    def _leave(self, *_: Any) -> None:
        self.forwards.append(Span("forward", self._begin, self.tracer.clock))
        self._has_labelled = False

    def _label_gradient(self, parameter: Tensor) -> None:
        if not self._has_labelled:
            # DeepSpeed's buckets exist during a backward pass only
            self._label_optimizer()
            self._has_labelled = True
        if parameter.grad is not None:
            self.tracer.label([parameter.grad], "gradients")

    def _label_states(self) -> None:
        shards = (getattr(p, "ds_tensor", p) for p in self._values)
        self.tracer.label(shards, f"{self._parameters_host}parameters")
        self._label_optimizer()

    def _label_optimizer(self) -> None:
        """Label the tensors of the optimizer, DeepSpeed's around torch's, by their names."""
        optimizer = self.engine.optimizer
        attributes = {**vars(optimizer), "state": getattr(optimizer, "optimizer", optimizer).state}
        for name, value in attributes.items():
            for words, label in _LABELS.items():
                if any(word in name for word in words):
                    host = self._optimizer_host if label == "optimizer" or "cpu" in name else ""
                    self.tracer.label(_tensors(value), f"{host}{label}")
                    break


# parts by words in the names of the attributes of optimizers; the first that fits
_LABELS = {
    ("ipg", "bucket", "buffer", "reduction"): "communication",
    ("grad",): "gradients",
    ("fp32", "state"): "optimizer",
}


def _tensors(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """The tensors in nested lists, tables and DeepSpeed's records."""
    if isinstance(value, Tensor):
        yield value
    elif depth:
        inner: Any = ()
        if isinstance(value, dict):
            inner = value.values()
        elif isinstance(value, list | tuple | set):
            inner = value
        elif type(value).__name__ == "IPGBucket":
            inner = vars(value).values()
        for item in inner:
            yield from _tensors(item, depth - 1)
