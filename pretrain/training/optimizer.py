"""The optimizer of a run and its parameter groups.

The state that an optimizer keeps per parameter is `OptimConfig.state_tensors`: checkpoints, size
estimates and the planner read it there.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pretrain.checkpoint.deepspeed_state import fragments, optimizer_tensors, torch_optimizer
from pretrain.config import RunConfig
from pretrain.optim_config import OptimConfig
from pretrain.parallel.matrices import matrix_blocks
from pretrain.parallel.mesh import Mesh, layer_axis
from pretrain.parallel.placement import placements
from pretrain.training.group_clipping import scale_gradients
from pretrain.training.matrix_exchange import Held, MatrixExchange
from pretrain.training.moving_average import move_averages
from pretrain.training.muon import MatrixMomentum

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
    groups = parameter_groups(model, run.optim.weight_decay)
    if run.optim.name == "muon":
        groups = _with_matrices_apart(groups, model, set(matrix_blocks(run.model)))
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
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]


def _with_matrices_apart(groups: Groups, model: nn.Module, names: set[str]) -> Groups:
    """The groups without the weights of these names, and a group of them, all with weight decay."""
    matrices = {id(p) for placement, p in placements(model) if placement.name in names}
    decayed, others = groups
    kept = [p for p in decayed["params"] if id(p) not in matrices]
    apart = [p for p in decayed["params"] if id(p) in matrices]
    if not kept:
        # a stage of a pipeline without an embedding: DeepSpeed expects as many groups on all stages
        kept = [nn.Parameter(torch.zeros(1, device=apart[0].device))]
    return [
        decayed | {"params": kept, "matrices": False},
        others | {"matrices": False},
        decayed | {"params": apart, "matrices": True},
    ]


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
