"""Figures of the filters that a model has learned, and of what is read of their states.

The same figures come from a training run's forward passes and from the analyzer's.

Shape letters: B batch, D channels, M modes, H heads of a filter, C channels of a head, K modes that
are read, R rows (batch times chunks), F figures.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spectral.filters.gated import GatedFilter, GatedState
from spectral.filters.modal import ModalFilter

# share of the energy that the used modes hold
USED = 0.9
QUANTILES = (0.1, 0.5, 0.9)
# means over rows, over gates and over copies of the parameters, in the order of their columns
OF_ROWS = ("entropy", "used_share", "selected_share")
OF_GATES = ("gate_magnitude",)
OF_PARAMETERS = tuple(
    f"{name}_p{round(100 * q)}" for name in ("time_constant", "frequency") for q in QUANTILES
)
GROUPS = (OF_ROWS, OF_GATES, OF_PARAMETERS)
# in the names of filters that read rows from their end, at one rank after another
BACKWARD = ".reverse."
# every group of columns begins with a count
WIDTH = sum(1 + len(group) for group in GROUPS)


class Filters(NamedTuple):
    """The modal filters of a whole model, and where the heads of each are in a table.

    Attributes:
        rows: By the filter's name, the first row and the number of its heads.
        num_rows: Heads of all filters.
        head_dim: Channels of a head.
    """

    rows: dict[str, tuple[int, int]]
    num_rows: int
    head_dim: int


def filters_of(model: nn.Module, head_dim: int) -> Filters:
    """The filters of a whole model, which may be without data."""
    rows: dict[str, tuple[int, int]] = {}
    first = 0
    for name, module in model.named_modules():
        if isinstance(module, ModalFilter):
            heads = module.num_channels // head_dim
            rows[name] = first, heads
            first += heads
    return Filters(rows, first, head_dim)


def usage(energy_BHM: Tensor) -> dict[str, Tensor]:
    """Spread of a spectrum's energy over its modes, by row and head.

    Returns:
        `entropy` of the shares, 1 for equal ones; `used_share`, the smallest share of the modes
        that holds 90% of the energy; `selected_share`, that of modes with any energy. Zero where
        there is none.
    """
    energy_BHM = energy_BHM.double()
    M = energy_BHM.shape[-1]
    total_BH1 = energy_BHM.sum(-1, keepdim=True)
    share_BHM = energy_BHM / total_BH1.clamp_min(torch.finfo(torch.float64).tiny)
    entropy_BH = torch.special.entr(share_BHM).sum(-1) / math.log(max(M, 2))
    above_BHM = share_BHM.sort(dim=-1, descending=True).values.cumsum(-1)
    # modes before the one that completes the share, and that one
    used_BH = (above_BHM < USED * (1.0 - 1e-9)).sum(-1).add(1).clamp_max(M) / M
    some_BH = total_BH1[..., 0] > 0.0
    selected_BH = (energy_BHM > 0.0).double().mean(-1)
    return {
        "entropy": entropy_BH,
        "used_share": used_BH * some_BH,
        "selected_share": selected_BH,
    }


def read_energy(module: GatedFilter | ModalFilter, state: Any, first: int = 0) -> Tensor:
    """Energy of each mode as it is read from a state [B, D, M]; zero for modes that a gate drops.

    Args:
        module: The filter.
        state: Its final state; of a gated filter, the part that its gate has read.
        first: First of the filter's channels that the state is of.
    """
    if not isinstance(module, GatedFilter):
        channels = slice(first, first + state.shape[1])
        return (module.amplitudes()[channels] * state).abs().square()
    read: GatedState = state
    channels = slice(first, first + read.local_BDM.shape[1])
    modes_BDK = read.modes_BHK.repeat_interleave(module.head_dim, dim=1)
    whole_BDM = torch.zeros_like(read.local_BDM).scatter(-1, modes_BDK, read.read_BDK)
    return (module.filter.amplitudes()[channels] * whole_BDM).abs().square()


def quantiles(module: ModalFilter, heads: int) -> Tensor:
    """Quantiles of time constants (tokens) and frequencies (radians per token) by head [H, 6]."""
    tau_HX = (-module.log_decay.detach().double()).exp().reshape(heads, -1)
    omega_HX = module.frequency.detach().double().reshape(heads, -1)
    points = torch.tensor(QUANTILES, dtype=torch.float64, device=tau_HX.device)
    return torch.cat([torch.quantile(x, points, dim=1).T for x in (tau_HX, omega_HX)], dim=1)


class SpectrumObserver:
    """Sums over the forward passes of a rank, in a context; `table` holds them.

    A row of the table is a head of a filter of the whole model: the sum of the tables of all ranks
    is that of all rows of all ranks, whatever they share.

    Args:
        model: This rank's part of a model.
        filters: The filters of the whole one.
        span: Number of this rank's span of its rows, and of spans: the last one's final states are
            of whole rows, the first one's in the direction from the end.
    """

    def __init__(self, model: nn.Module, filters: Filters, *, span: tuple[int, int] = (0, 1)):
        self._filters, self._span = filters, span
        self._modules = dict(_placed_filters(model))
        self._hooks: list[Any] = []
        self.table = torch.zeros(filters.num_rows, WIDTH, dtype=torch.float64)

    def __enter__(self) -> "SpectrumObserver":
        self.table.zero_()
        inner = {id(m.filter) for m, _ in self._modules.values() if isinstance(m, GatedFilter)}
        for name, (module, channel) in self._modules.items():
            if id(module) in inner:
                continue
            row = self._filters.rows[name][0] + channel // self._filters.head_dim
            end = 0 if BACKWARD in name else self._span[1] - 1
            self._hooks.append(module.register_forward_hook(self._end_of(row, end)))
            if isinstance(module, GatedFilter):
                heads = module.filter.num_channels // self._filters.head_dim
                hook = module.gate.register_forward_hook(
                    self._gate_of(row, heads), with_kwargs=True
                )
                self._hooks.append(hook)
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _end_of(self, row: int, end: int) -> Callable[..., None]:
        @torch.no_grad()
        def add(module: GatedFilter | ModalFilter, _: Any, output: Any) -> None:
            inner = module.filter if isinstance(module, GatedFilter) else module
            heads = inner.num_channels // self._filters.head_dim
            state = output[1]
            channels = (state.local_BDM if isinstance(module, GatedFilter) else state).shape[1]
            # whole rows of some heads, between an exchange and the one back
            is_share = channels < inner.num_channels
            if is_share or self._span[0] == end:
                first = self._span[0] * channels if is_share else 0
                energy_BDM = read_energy(module, state, first)
                energy_BHM = energy_BDM.unflatten(1, (-1, self._filters.head_dim)).sum(2)
                parts = usage(energy_BHM)
                columns = [parts[name].sum(0) for name in OF_ROWS]
                place = row + first // self._filters.head_dim
                self._add(place, 0, len(energy_BHM), torch.stack(columns, dim=1))
            self._add(row, 2, 1, quantiles(inner, heads))

        return add

    def _gate_of(self, row: int, heads: int) -> Callable[..., None]:
        @torch.no_grad()
        def add(_: nn.Module, __: Any, keywords: dict[str, Any], output: Any) -> None:
            # not that of the final state, which is read again where the next chunk begins
            if keywords.get("noise", True):
                gate_RHM = output[0]
                count = gate_RHM.shape[1]
                place = row + (self._span[0] * count if count < heads else 0)
                sums_H1 = gate_RHM.abs().double().mean(-1).sum(0)[:, None]
                self._add(place, 1, len(gate_RHM), sums_H1)

        return add

    def _add(self, row: int, group: int, count: int, sums_HF: Tensor) -> None:
        first = sum(1 + len(names) for names in GROUPS[:group])
        part = self.table[row : row + len(sums_HF), first : first + 1 + sums_HF.shape[1]]
        part[:, 0] += count
        part[:, 1:] += sums_HF.cpu()


def figures_of(table: Tensor, filters: Filters) -> dict[str, dict[str, list[float]]]:
    """Means by the filter's name and the figure's, a number for each head.

    Figures that nothing was counted for are left out.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for name, (row, heads) in filters.rows.items():
        part, column = table[row : row + heads], 0
        figures: dict[str, list[float]] = {}
        for group in GROUPS:
            counts = part[:, column]
            if heads and bool((counts > 0).all()):
                for offset, figure in enumerate(group, start=1):
                    figures[figure] = (part[:, column + offset] / counts).tolist()
            column += 1 + len(group)
        found[name] = figures
    return found


def _placed_filters(
    model: nn.Module,
) -> Iterator[tuple[str, tuple[GatedFilter | ModalFilter, int]]]:
    """By its name in the whole model, each filter and the first of its channels there.

    A gated filter stands for the one inside it.
    """
    gated = {id(m.filter): m for m in model.modules() if isinstance(m, GatedFilter)}
    for key, module in model.named_modules():
        if isinstance(module, ModalFilter):
            placement = getattr(module.log_decay, "placement", None)
            name = placement.name.removesuffix(".log_decay") if placement else key
            channel = placement.ranges[0][0] if placement and placement.ranges else 0
            yield name, (gated.get(id(module), module), channel)
