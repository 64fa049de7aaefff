"""The figures of steps: speed in each, and in every n-th time, memory, norms and spectra."""

import re
import time
from collections import defaultdict
from statistics import fmean
from typing import Any

import psutil
import torch
import torch.distributed as dist

from pretrain.config import RunConfig
from pretrain.monitoring.jsonl import Record
from pretrain.monitoring.metrics import Spectrum
from pretrain.monitoring.spectrum import Filters, SpectrumObserver, figures_of, filters_of
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.split_model import empty_model
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.ranks import Ranks, gathered
from pretrain.training.sampling.norms import Norms
from pretrain.training.sampling.parts import StepParts
from pretrain.training.sampling.utilisation import Utilisation

LAYER = re.compile(r"^blocks\.(\d+)\.")


class Sampler:
    """Figures of a run's steps, the same on all ranks; sampled ones are collectives.

    Compiled blocks are not looked into: their spectra are left out.

    Args:
        run: The run.
        engine: The DeepSpeed engine.
        ranks: This process among the ranks.
        mesh: Its place in the layout.
        heartbeat: Beats with every phase of a step.
    """

    def __init__(self, run: RunConfig, engine: Any, ranks: Ranks, mesh: Mesh, heartbeat: Heartbeat):
        self._every, self._ranks = run.monitor.every, ranks
        self._run = run
        self._utilisation: Utilisation | None = None
        self._parts = StepParts(heartbeat, ranks.device)
        self._norms = Norms(engine, ranks.device)
        self._filters = filters_of(empty_model(run.model), run.model.dim // run.model.num_heads)
        self._observer: SpectrumObserver | None = None
        if self._filters.num_rows and not run.train.compile:
            span = mesh.sequence.rank, mesh.sequence.size
            self._observer = SpectrumObserver(engine.module, self._filters, span=span)
        self._gradients: dict[str, float] = {}
        self._is_sampled = False

    def begin(self, step: int, data_s: float) -> None:
        """Begin a step, after a wait for its data."""
        self._is_sampled = self._every > 0 and step % self._every == 0
        if self._is_sampled:
            self._parts.start(data_s)
            if self._observer is not None:
                self._observer.__enter__()

    def end_passes(self) -> None:
        """Note the gradient, before the optimizer has it."""
        if self._is_sampled:
            if self._observer is not None:
                self._observer.__exit__()
            self._gradients = self._norms.gradients()

    def end_step(self) -> tuple[Spectrum | None, Record]:
        """Spectra and figures of a sampled step; nothing of another."""
        if not self._is_sampled:
            return None, {}
        seconds = self._parts.stop()
        memory = float(self._memory_bytes())
        rows = gathered([*seconds.values(), memory], self._ranks.device)
        *columns, memories = zip(*rows, strict=True)
        means = {name: fmean(column) for name, column in zip(seconds, columns, strict=True)}
        record = {f"seconds/{name}": mean for name, mean in means.items() if mean > 0.0}
        record |= {"memory_bytes": max(memories)}
        record |= {f"gradient_norm/{kind}": norm for kind, norm in self._gradients.items()}
        norms = self._norms.parameters()
        record |= {f"parameter_norm/{part}": norm for part, norm in norms.items()}
        if self._observer is None:
            return None, record
        table = self._observer.table.to(self._ranks.device)
        dist.all_reduce(table)
        spectrum = figures_of(table.cpu(), self._filters)
        return spectrum, record | by_layer(spectrum, self._filters)

    def speed(self, num_tokens: float, begin: float) -> Record:
        """Figures of the speed of all ranks.

        Args:
            num_tokens: Tokens of the step.
            begin: Reading of the performance counter at its begin.
        """
        tokens_per_s = num_tokens / (time.perf_counter() - begin)
        record = {
            "tokens_per_s": tokens_per_s,
            "tokens_per_s_per_rank": tokens_per_s / self._ranks.world_size,
        }
        if not self._is_sampled or self._ranks.rank:
            # nobody else writes it
            return record
        if self._utilisation is None:
            # takes a second or more, which short runs save
            device, world_size = self._ranks.device, self._ranks.world_size
            self._utilisation = Utilisation(self._run, device, world_size)
        share = self._utilisation.share(tokens_per_s)
        return record if share is None else record | {"mfu": share}

    def _memory_bytes(self) -> int:
        if self._ranks.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._ranks.device)
        return int(psutil.Process().memory_info().rss)


def by_layer(spectrum: Spectrum, filters: Filters) -> Record:
    """Means over the heads of each layer, as `spectrum_FIGURE/LAYER`."""
    values: dict[str, list[float]] = defaultdict(list)
    for name in filters.rows:
        layer = LAYER.match(name)
        for figure, of_heads in spectrum[name].items():
            if layer:
                values[f"spectrum_{figure}/{layer[1]}"] += of_heads
    return {key: fmean(of_heads) for key, of_heads in values.items()}
