"""Steps of real ranks with their memory and their collectives counted, and rehearsals of the same.

Memory is counted by PyTorch's profiler in its allocator: every tensor, also those inside of
operators, which the planner has to predict.
"""

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pretrain.config import RunConfig

# DeepSpeed's default buffers of 5e8 numbers would be most of a small model's memory
BUCKET = 50_000


def shrink_buckets() -> None:
    """Give DeepSpeed, in this process, buffers that suit a small model."""
    import pretrain.training.engine

    configure = pretrain.training.engine.deepspeed_config

    def small(*arguments: Any) -> dict[str, Any]:
        config = configure(*arguments)
        zero = config["zero_optimization"]
        zero |= {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
        if zero["stage"] == 3:
            zero["stage3_param_persistence_threshold"] = 100
        return config

    pretrain.training.engine.deepspeed_config = small


def rehearsed(run: RunConfig, ranks: int, rank: int, message: Any = None) -> Any:
    """`rehearse` for a CPU, in a process of its own."""
    shrink_buckets()
    from pretrain.planning.rehearsal import rehearse

    return rehearse(run, ranks, rank, kernels=False, message=message)


def measure(rank: int, runs: dict[str, RunConfig], folder: Path) -> None:
    """Two steps of every run; the second one's bytes by collective, and the peak of both."""
    from pretrain.runtime.ranks import init_ranks

    shrink_buckets()
    _count_every_thread()
    ranks = init_ranks()
    measured = {}
    for name, run in runs.items():
        gc.collect()
        measured[name] = _measure(run, ranks)
    torch.save(measured, folder / f"measured-{rank}.pt")


def _measure(run: RunConfig, ranks: Any) -> tuple[dict[str, int], int]:
    from data_pipeline.stream.batch import Batch
    from pretrain.parallel.mesh import build_mesh
    from pretrain.planning.traffic import TrafficCounter
    from pretrain.resilience.heartbeat import Heartbeat
    from pretrain.runtime.precision import LossScale
    from pretrain.training.engine import build_engine, finish_step
    from pretrain.training.gradient import StepContext, compute_gradient

    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        mesh = build_mesh(run.parallel, ranks)
        engine = build_engine(run, ranks, mesh)
        scale = LossScale(run.train, engine.module.parameters())
        context = StepContext(engine, ranks, mesh, Heartbeat(Path(), ranks.rank), scale)
        rows = run.train.micro_batch_size
        passes = run.train.global_batch_size // (rows * mesh.data.size)
        length = run.data.sequence_length // run.parallel.sequence
        for _ in range(2):
            tokens = torch.randint(run.model.vocab_size, (rows, length))
            batch = Batch(tokens, tokens, torch.zeros_like(tokens), ())
            with TrafficCounter() as wire:
                compute_gradient(context, [batch] * passes, 1e3, seed=0)
                finish_step(engine, apply=True)
    del context, scale
    engine.destroy()
    del engine
    return {name: size for name, size in wire.bytes.items() if size}, _peak(profiler)


def _count_every_thread() -> None:
    """Let torch's allocator count in every thread, not only in those that the profiler records.

    A thread of gloo holds the tensors of a collective until it returns to its queue. Where the rank
    has dropped them by then, that thread frees them, and the profiler records no such event.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    ctypes.c_bool.in_dll(library, "FLAGS_caffe2_report_cpu_memory_usage").value = True


def _peak(profiler: Any) -> int:
    """Most bytes that were held, by the allocator's own count at each of its events."""
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    events = sorted(_allocations(tree), key=lambda event: event.start_time_ns)
    counts = [event.extra_fields.total_allocated for event in events]
    before = counts[0] - events[0].extra_fields.alloc_size
    return int(max(counts)) - before


def _allocations(events: Any) -> Iterator[Any]:
    for event in events:
        if event.tag == torch._C._profiler._EventType.Allocation:
            yield event
        yield from _allocations(event.children)
