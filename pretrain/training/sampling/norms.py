"""Norms of parameters by part of the model, and of gradients by group, over all ranks."""

from collections import defaultdict
from typing import Any

import torch

from pretrain.checkpoint.deepspeed_state import VALUE, fragments, torch_optimizer
from pretrain.checkpoint.ownership import choose_writers, part_of
from pretrain.monitoring.components import COMPONENTS, component_of
from pretrain.runtime.ranks import gathered_objects, summed
from pretrain.training.group_clipping import group_norms


class Norms:
    """Norms of an engine's parameters and gradients; all methods are collectives."""

    def __init__(self, engine: Any, device: torch.device):
        self._engine, self._device = engine, device
        self._is_ours: dict[Any, bool] | None = None

    def parameters(self) -> dict[str, float]:
        """Norm of the parameters of each part of the model."""
        held = [fragment for fragment in fragments(self._engine, lambda _: ()) if fragment.numel]
        if self._is_ours is None:
            # which rank counts what several hold does not change
            replicas = {part_of(fragment): fragment.replica for fragment in held}
            writers = choose_writers(gathered_objects(replicas))
            self._is_ours = {part: writers[part] == replica for part, replica in replicas.items()}
        squares = dict.fromkeys(COMPONENTS, 0.0)
        for fragment in held:
            if self._is_ours[part_of(fragment)]:
                norm = torch.linalg.vector_norm(fragment.get(VALUE), dtype=torch.float64)
                squares[component_of(fragment.placement.name)] += float(norm) ** 2
        totals = summed(list(squares.values()), self._device)
        return {
            name: total**0.5 for name, total in zip(squares, totals, strict=True) if total > 0.0
        }

    def gradients(self) -> dict[str, float]:
        """Norm of the accumulated gradient of each kind of group; before the optimizer."""
        squares: dict[str, float] = defaultdict(float)
        groups = torch_optimizer(self._engine).param_groups
        for group, norm in zip(groups, group_norms(self._engine), strict=True):
            kind = "matrices" if group["decays"] else "vectors"
            squares[kind] += norm**2
        # a stage may lack a kind, and has the norms of all stages of those that it has
        tables = gathered_objects({kind: square**0.5 for kind, square in squares.items()})
        return {kind: norm for table in reversed(tables) for kind, norm in table.items()}
