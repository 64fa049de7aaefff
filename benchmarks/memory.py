"""Peak memory of ranks while a model starts, loads and is exported.

    python -m benchmarks.memory

A model of 223M parameters, float32, one thread per rank: each rank builds its engine, and fills it
from a checkpoint, and its peak resident memory is compared with its share of the state (parameters,
master weights, gradients and both moments of AdamW, as DeepSpeed keeps them) and the largest part
of the model. What the process holds before, libraries and a first small engine, is subtracted.
"""

import gc
import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.harness.command import run_benchmark
from benchmarks.harness.processes import in_fresh_process
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.config import RunConfig
from spectral.config import ModelConfig

LIMIT = 1.2
FLOAT = 4
CHECKPOINT = Path("checkpoints/step-0000001")
FULL = {"vocab_size": 4_096, "dim": 1_024, "num_layers": 16, "num_heads": 8, "ffn_dim": 2_736}
QUICK = {"vocab_size": 512, "dim": 64, "num_layers": 2, "num_heads": 2, "ffn_dim": 128}


class Case(NamedTuple):
    """A layout, by the keys of `[parallel]` that it sets."""

    zero: int
    tensor: int = 1
    pipeline: int = 1
    data: int = 1

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return self.tensor * self.pipeline * self.data

    def share(self, numel: int) -> int:
        """Bytes of a rank's state: parameters, master weights, gradients, two moments."""
        local = numel // (self.tensor * self.pipeline)
        # before the first step, ZeRO 1 has no gradients
        return FLOAT * (
            5 * local // self.data if self.zero == 3 else local + 3 * local // self.data
        )

    def __str__(self) -> str:
        axes = (f"{key} {size}" for key, size in list(self._asdict().items())[1:] if size > 1)
        return ", ".join([f"{self.ranks} rank{'s' * (self.ranks > 1)}, ZeRO {self.zero}", *axes])


CASES = (
    Case(3),
    Case(3, data=2),
    Case(3, data=4),
    Case(3, tensor=2, data=2),
    Case(1, tensor=2),
    Case(1, pipeline=2),
)


def run_config(model: dict[str, int], case: Case, folder: Path) -> RunConfig:
    """A run of a model in a layout, with a step of four short windows."""
    return RunConfig.model_validate(
        {
            "model": model,
            "data": {"sequence_length": 128},
            "train": {"output": folder, "global_batch_size": 4, "micro_batch_size": 1},
            "parallel": {
                "zero_stage": case.zero,
                "tensor": case.tensor,
                "pipeline": case.pipeline,
                "data": case.data,
            },
        }
    )


def _status(key: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


class _Peak:
    """Peak resident memory since its creation, beyond what was resident then."""

    def __init__(self) -> None:
        gc.collect()
        self._before = _status("VmRSS")
        # the kernel forgets earlier peaks
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def bytes(self) -> int:
        return _status("VmHWM") - self._before


def _rank(rank: int, model: dict[str, int], case: Case, folder: Path, file: Path) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    dist.init_process_group(
        "gloo", init_method=f"file://{file}.meeting", rank=rank, world_size=case.ranks
    )
    # not at the top: Linux counts the memory of the starting process into the peak of its ranks
    from pretrain.checkpoint.load import load_engine
    from pretrain.checkpoint.retention import Retention
    from pretrain.checkpoint.save import Saver
    from pretrain.parallel.mesh import build_mesh
    from pretrain.runtime.ranks import gathered, init_ranks
    from pretrain.training.engine import build_engine

    ranks = init_ranks()
    checkpoint = folder / CHECKPOINT
    run, small = (run_config(keys, case, folder) for keys in (model, QUICK))
    mesh = build_mesh(run.parallel, ranks)
    # everything is imported, and what DeepSpeed makes once per process exists
    build_engine(small, ranks, mesh).destroy()
    peak = _Peak()
    engine = build_engine(run, ranks, mesh)
    started = peak.bytes()
    if checkpoint.exists():
        load_engine(engine, checkpoint, run)
    else:
        saver = Saver(run, None, ranks, Retention(run, print))
        saver.begin(engine, {"step": 1})
        saver.wait()
    measured = gathered([float(started), float(peak.bytes())], ranks.device)
    if rank == 0:
        torch.save([int(max(column)) for column in zip(*measured, strict=True)], file)
    dist.barrier()
    dist.destroy_process_group()


def measure_ranks(model: dict[str, int], case: Case, folder: Path) -> list[int]:
    """Peak bytes of the fullest rank after its start, and after its load as well.

    The first call on a folder saves the checkpoint instead of loading it.
    """
    file = folder / f"{'-'.join(map(str, case))}.pt"
    mp.spawn(_rank, (model, case, folder, file), nprocs=case.ranks)
    file.with_name(f"{file.name}.meeting").unlink(missing_ok=True)
    peaks: list[int] = torch.load(file)
    return peaks


def _load_alone(checkpoint: Path) -> int:
    from pretrain.checkpoint.load import load_model

    peak = _Peak()
    load_model(checkpoint)
    return peak.bytes()


def sizes_of(model: dict[str, int]) -> tuple[int, int]:
    """Number of parameters of a model, and of its largest part."""
    from pretrain.parallel.split_model import empty_model

    parts = [
        sum(p.numel() for p in part.parameters())
        for _, part in empty_model(ModelConfig.model_validate(model)).parts()
    ]
    return sum(parts), max(parts)


def measure(quick: bool) -> Outcome:
    """Start, save once, then start and load in every layout."""
    model = QUICK if quick else FULL
    numel, largest = sizes_of(model)
    print(f"{numel:,} parameters, the largest part {largest:,}")
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure_ranks(model, Case(3), folder)
        print(f"{'layout':30} {'share':>9} {'start':>9} {'and load':>9}  MiB per rank")
        for case in CASES:
            share = case.share(numel)
            bound = share + FLOAT * largest
            started, loaded = measure_ranks(model, case, folder)
            row = "".join(f" {size / 2**20:9,.0f}" for size in (share, started, loaded))
            print(f"{case!s:30}{row}")
            for what, peak in (("start", started), ("start and load", loaded)):
                figures.append(
                    Figure(
                        f"peak memory of {what} over share and largest part, {case}",
                        peak / bound,
                        limit=LIMIT,
                        at_most=True,
                    )
                )
        alone = in_fresh_process(_load_alone, folder / CHECKPOINT)
    whole = FLOAT * (numel + largest)
    figures.append(
        Figure("peak memory of loading a model alone over its size and largest part",
               alone / whole, limit=LIMIT, at_most=True)
    )  # fmt: skip
    return Outcome(f"{numel:,} parameters, float32.", figures)


if __name__ == "__main__":
    run_benchmark("memory", __doc__, measure)
