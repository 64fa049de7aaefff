"""The figures of a run on a kind of machine: memory, time, and what they come to."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from pretrain.config import RunConfig
from pretrain.parallel.layout_checks import check_layout, data_ranks
from pretrain.planning.depth import continued, shallow_stages
from pretrain.planning.rehearsal import Rehearsal, rehearse
from pretrain.planning.stand_ins import even_bounds
from pretrain.planning.step_time import Machines, step_seconds
from pretrain.run_file import with_chunk

GIB = 2**30


class Figures(NamedTuple):
    """Predicted memory, time and cost of a layout: of the fullest rank, and of the slowest.

    Attributes:
        run: The run, with its layout.
        gpus: Number of ranks.
        memory: Bytes on the device by part, at the fullest moment.
        host: Bytes in host memory, or on disk, that offloading takes there.
        moment: The phase of that moment.
        capacity: Bytes that a device has for a run.
        start: Bytes on the device at the fullest moment of the start.
        seconds: Seconds of a step by part.
        sent: Bytes that rank 0 gives to each collective in a step.
        model_flops: Operations of a rank's step, without recomputation.
        peak_flops: Operations of a device in a second.
        parameters: Parameters of rank 0's part.
    """

    run: RunConfig
    gpus: int
    memory: dict[str, int]
    host: dict[str, int]
    moment: str
    capacity: int
    start: int
    seconds: dict[str, float]
    sent: dict[str, int]
    model_flops: int
    peak_flops: float
    parameters: int

    @property
    def bytes(self) -> int:
        """Bytes that the fullest device holds."""
        return max(sum(self.memory.values()), self.start)

    @property
    def fits(self) -> bool:
        """Whether they fit."""
        return self.bytes <= self.capacity

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def tokens_per_s(self) -> float:
        """Tokens of all ranks in a second."""
        return self.run.train.global_batch_size * self.run.data.sequence_length / self.step_s

    @property
    def utilisation(self) -> float:
        """Share of the devices' peak that is spent on the model's operations (MFU)."""
        return self.model_flops / (self.step_s * self.peak_flops)

    @property
    def days(self) -> float:
        """Days of all steps of the run."""
        return self.run.train.steps * self.step_s / 86_400

    @property
    def gpu_hours(self) -> float:
        """Hours of all devices."""
        return 24 * self.days * self.gpus

    def table(self) -> dict[str, Any]:
        """The figures as JSON-able values."""
        run = self.run
        return {
            "layout": run.parallel.model_dump(mode="json"),
            "micro_batch_size": run.train.micro_batch_size,
            "activation_checkpointing": run.train.activation_checkpointing,
            "gpus": self.gpus,
            "parameters_per_gpu": self.parameters,
            "memory_bytes": self.memory,
            "host_bytes": self.host,
            "fullest_in": self.moment,
            "start_bytes": self.start,
            "peak_bytes": self.bytes,
            "capacity_bytes": self.capacity,
            "fits": self.fits,
            "step_seconds": self.seconds,
            "seconds_per_step": self.step_s,
            "tokens_per_second": self.tokens_per_s,
            "model_flops_utilisation": self.utilisation,
            "sent_bytes": self.sent,
            "tokens": run.train.steps * run.train.global_batch_size * run.data.sequence_length,
            "days": self.days,
            "gpu_hours": self.gpu_hours,
        }


def figures(run: RunConfig, gpus: int, machines: Machines, *, kernels: bool = True) -> Figures:
    """The figures of a layout.

    A pipeline's first, second and last stage are rehearsed; the others equal the second. Deep
    stages are continued from two shallow ones (`pretrain/planning/depth.py`).

    Args:
        run: The run.
        gpus: Number of ranks.
        machines: The hardware.
        kernels: Whether operators launch the kernels of a GPU, instead of their references.

    Raises:
        RunError: The layout is impossible.
    """
    check_layout(run, gpus)
    run = with_chunk(run, None)
    if run.train.precision == "auto":
        precision = "bf16" if "bfloat16" in machines.device.tflops else "float32"
        train = run.train.model_copy(update={"precision": precision})
        run = run.model_copy(update={"train": train})
    rehearsals = _rehearsed(run, gpus, kernels)
    stages = run.parallel.pipeline
    passes = run.train.global_batch_size // (run.train.micro_batch_size * data_ranks(run, gpus))
    times = [step_seconds(rehearsal, machines, stages, passes) for rehearsal in rehearsals]
    fullest = max(rehearsals, key=lambda rehearsal: rehearsal.peak.device_bytes)
    slowest = max(times, key=lambda parts: sum(parts.values()))
    device = machines.device
    flops = [
        sum(s.model_flops * r.repeats[name] for name, s in r.segments.items()) for r in rehearsals
    ]
    # of a middle stage, if there is one: there may be many
    mean = flops[0] if len(flops) == 1 else (sum(flops) + (stages - len(flops)) * flops[1]) / stages
    dtype = "bfloat16" if run.train.precision == "bf16" else run.train.precision
    return Figures(
        run=run,
        gpus=gpus,
        memory=fullest.peak.device,
        host=fullest.peak.host,
        moment=fullest.peak.segment,
        capacity=device.capacity,
        start=max(rehearsal.start.device_bytes for rehearsal in rehearsals),
        seconds=slowest,
        sent=rehearsals[0].sent(),
        model_flops=round(mean),
        peak_flops=1e12 * device.tflops.get(dtype.replace("fp16", "float16"), 1.0),
        parameters=rehearsals[0].parameters,
    )


def preload(run: RunConfig) -> None:
    """Begin rehearsals, from now on, with the imports done that all of this run's need."""
    modules = ["pretrain.planning.preloaded"]
    if run.parallel.tensor > 1:
        modules.append("pretrain.parallel.tensor_parallel")
    multiprocessing.set_forkserver_preload(modules)


def _rehearsed(run: RunConfig, gpus: int, kernels: bool) -> Sequence[Rehearsal]:
    stages = run.parallel.pipeline
    bounds = [0, run.model.num_layers] if stages == 1 else _in_processes([(even_bounds, run)])[0]
    message = None
    rehearsals = []
    for stage in sorted({0, min(1, stages - 1), stages - 1}):
        work = partial(
            rehearse,
            num_ranks=gpus,
            rank=stage * (gpus // stages),
            kernels=kernels,
            message=message,
        )
        shallow = shallow_stages(run, bounds, stage)
        if shallow is None:
            (rehearsal,) = _in_processes([(partial(work, bounds=bounds), run)])
        else:
            first, second = _in_processes(
                [
                    (partial(work, bounds=places), each)
                    for each, places in zip(shallow.runs, shallow.bounds, strict=True)
                ]
            )
            rehearsal = continued(first, second, shallow.times)
        rehearsals.append(rehearsal)
        message = rehearsal.message or message
    return rehearsals


def _in_processes(tasks: Sequence[tuple[Callable[[RunConfig], Any], RunConfig]]) -> list[Any]:
    """The results of functions of runs, each in a process of its own.

    Fake ranks, and what libraries keep of them, are a process's only ones.
    """
    with ProcessPoolExecutor(
        len(tasks), mp_context=multiprocessing.get_context("forkserver"), max_tasks_per_child=1
    ) as pool:
        return [task.result() for task in [pool.submit(work, run) for work, run in tasks]]
