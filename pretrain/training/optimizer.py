"""The optimizer of a run and its parameter groups.

The state that an optimizer keeps per parameter is `OptimConfig.state_tensors`: checkpoints, size
estimates and the planner read it there.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from pretrain.checkpoint.deepspeed_state import fragments, optimizer_tensors, torch_optimizer
from pretrain.config import RunConfig
from pretrain.optim_config import OptimConfig
from pretrain.parallel.matrices import matrix_blocks
from pretrain.parallel.mesh import Mesh, layer_axis
from pretrain.parallel.placement import placements
from pretrain.parallel.split_model import empty_model
from pretrain.runtime.wire import round_matrices, travels_rounded
from pretrain.training.group_clipping import scale_gradients
from pretrain.training.matrix_exchange import Held, MatrixExchange
from pretrain.training.moving_average import move_averages
from pretrain.training.muon import MatrixMomentum
from pretrain.training.width_scale import scaled_by_width

Groups = list[dict[str, Any]]


def build_optimizer(
    model: nn.Module, run: RunConfig, *, shares_experts: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of a model's parameters; muon's must be bound before its first step.

    Args:
        model: A rank's part of the model.
        run: The run.
        shares_experts: Whether ranks hold different experts, which ZeRO must shard separately.
    """
    groups = _all_groups(model, run)
    everywhere = groups
    if run.parallel.pipeline > 1:
        # DeepSpeed reduces equally many groups on all stages
        whole = empty_model(run.model)
        if any(map(travels_rounded, model.parameters())):
            round_matrices(whole)
        everywhere = _all_groups(whole, run)
    groups = [group for group, other in zip(groups, everywhere, strict=True) if other["params"]]
    _fill_empty(groups)
    if shares_experts:
        # imports DeepSpeed, which takes seconds
        from pretrain.parallel.expert_parallel import optimizer_groups

        groups = optimizer_groups(groups)
    return BUILDERS[run.optim.name](groups, run.optim)


def parameter_groups(model: nn.Module, weight_decay: float) -> Groups:
    """Parameters with weight decay (matrices of linear layers and embeddings) and those without.

    Norms, short filters and modes have a scale that means something; decay would move it.
    """
    decayed = {
        id(module.weight)
        for module in model.modules()
        if getattr(module, "weight_decays", isinstance(module, nn.Linear | nn.Embedding))
    }
    first, second = _divided(model.parameters(), lambda p: id(p) in decayed)
    return [
        {"params": first, "weight_decay": weight_decay, "decays": True},
        {"params": second, "weight_decay": 0.0, "decays": False},
    ]


def _all_groups(model: nn.Module, run: RunConfig) -> Groups:
    """Groups by weight decay, what muon orthogonalises, rate and precision; some are empty."""
    groups = parameter_groups(model, run.optim.weight_decay)
    if run.optim.name == "muon":
        names = set(matrix_blocks(run.model))
        matrices = {id(p) for placement, p in placements(model) if placement.name in names}
        groups = [
            group | {"params": parameters, "matrices": orthogonal}
            for group in groups
            for parameters, orthogonal in zip(
                _divided(group["params"], lambda p: id(p) in matrices), (True, False), strict=True
            )
        ]
    if run.optim.scale == "width":
        groups = scaled_by_width(groups, model, run)
    # ZeRO sends a group in one precision
    return [
        group | {"params": parameters}
        for group in groups
        for parameters in _divided(group["params"], travels_rounded)
    ]


def _divided(
    parameters: Iterable[nn.Parameter], test: Callable[[nn.Parameter], bool]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that pass a test, and the others."""
    parameters = list(parameters)
    return [p for p in parameters if test(p)], [p for p in parameters if not test(p)]


def _fill_empty(groups: Groups) -> None:
    """Give each empty group a parameter of the one that has most, with that one's settings."""
    for group in groups:
        if not group["params"]:
            largest = max(groups, key=lambda other: len(other["params"]))
            group |= largest | {"params": [largest["params"].pop()]}


def bind_matrices(engine: Any, run: RunConfig, mesh: Mesh, device: torch.device) -> None:
    """Prepare muon for the parts of matrices that this rank holds; a collective.

    Raises:
        RunError: The layout does not hold every matrix completely.
    """
    optimizer = torch_optimizer(engine)
    if not isinstance(optimizer, MatrixMomentum):
        return
    stage = engine.zero_optimization_stage()
    held = [
        Held(part.placement, part.start, part.numel, part.tensor, part.begin)
        for part in fragments(engine, lambda _: ())
    ]
    # a weight that no tensor rank splits is whole on each of them
    whole = mesh.tensor.rank
    exchange = MatrixExchange(
        held,
        matrix_blocks(run.model),
        mesh.tensor if stage == 0 else layer_axis(mesh),
        device,
        copy=lambda placement: whole if placement.dim is None else 0,
        rounds=optimizer_tensors(engine),
    )
    optimizer.bind(exchange)


class _AdamW(torch.optim.AdamW):
    """AdamW of the `[optim]` table, with an average of the parameters if it wants one."""

    def __init__(self, groups: Groups, optim: OptimConfig):
        betas = (optim.beta1, optim.beta2)
        super().__init__(groups, lr=optim.learning_rate, betas=betas, eps=optim.epsilon)
        self._average_decay = optim.average_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Apply the gradients."""
        scale_gradients(self)
        loss = super().step(closure)
        move_averages(self, self._average_decay)
        return loss


# by `optim.name`
BUILDERS: dict[str, Callable[[Groups, OptimConfig], torch.optim.Optimizer]] = {
    "adamw": _AdamW,
    "muon": MatrixMomentum,
}
