"""Muon: matrices move by their orthogonalised momentum, all other parameters by AdamW.

Sources: Jordan et al. 2024, Muon (kellerjordan.github.io/posts/muon); the scale of updates from Liu
et al. 2025, Muon is Scalable for LLM Training (arXiv 2502.16982). The arithmetic is that of
`torch.optim.Muon`, which takes whole matrices; here ranks may hold any parts of them.

Shape letters: N matrices, A rows, B columns.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pretrain.optim_config import OptimConfig
from pretrain.training.group_clipping import scale_gradients
from pretrain.training.matrix_exchange import MatrixExchange
from pretrain.training.moving_average import move_averages

# Jordan's coefficients: the slope at zero is large, so that small singular values grow fast
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
EPSILON = 1e-7


def orthogonalized(matrices_NAB: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: singular values come near to 1.

    Five Newton-Schulz iterations, in bfloat16 on a GPU, whose products are fast.

    Cost: 10 A^2 (A + 2 B) operations per matrix with A <= B, three matrices of scratch.
    """
    a, b, c = COEFFICIENTS
    tall = matrices_NAB.shape[-2] > matrices_NAB.shape[-1]
    x = matrices_NAB.mT if tall else matrices_NAB
    if x.is_cuda:
        x = x.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPSILON)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices_NAB.dtype)


def scaled_update(matrices_NAB: Tensor, rms: float) -> Tensor:
    """Orthogonalised matrices with this root mean square; by itself it is 1 / sqrt(max(A, B))."""
    return orthogonalized(matrices_NAB) * (rms * math.sqrt(max(matrices_NAB.shape[-2:])))


class MatrixMomentum(torch.optim.AdamW):
    """Muon for the groups with `matrices`, AdamW for others.

    The state of a matrix is `momentum_buffer`, a mean of its gradients, and `step`.

    Args:
        groups: Parameter groups, each with the key `matrices`.
        optim: The `[optim]` table.
    """

    def __init__(self, groups: list[dict[str, Any]], optim: OptimConfig):
        betas = (optim.beta1, optim.beta2)
        super().__init__(groups, lr=optim.learning_rate, betas=betas, eps=optim.epsilon)
        self.momentum, self.update_rms = optim.momentum, optim.update_rms
        self._average_decay = optim.average_decay
        self._exchange: MatrixExchange | None = None

    def bind(self, exchange: MatrixExchange) -> None:
        """Set how the parts of matrices in this optimizer's tensors are brought together."""
        self._exchange = exchange

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Apply the gradients; a collective of the ranks that hold parts of the same matrices."""
        scale_gradients(self)
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["matrices"] and group["params"]:
                self._move_matrices(group)
        move_averages(self, self._average_decay)
        return loss

    def _move_matrices(self, group: dict[str, Any]) -> None:
        assert self._exchange is not None, "call bind() before the first step"
        updates = {tensor: self._update(tensor) for tensor in group["params"]}
        self._exchange.transform(updates, lambda matrices: scaled_update(matrices, self.update_rms))
        for tensor, update in updates.items():
            tensor.mul_(1.0 - group["lr"] * group["weight_decay"])
            tensor.add_(update, alpha=-group["lr"])

    def _update(self, tensor: Tensor) -> Tensor:
        """Nesterov's momentum."""
        state = self.state[tensor]
        if "momentum_buffer" not in state:
            state["step"] = torch.tensor(0.0)
            state["momentum_buffer"] = torch.zeros_like(tensor)
        state["step"] += 1
        momentum: Tensor = state["momentum_buffer"]
        # other ranks wait for this one's part, also without a gradient
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        momentum.lerp_(gradient, 1.0 - self.momentum)
        return gradient.lerp(momentum, self.momentum).contiguous()
