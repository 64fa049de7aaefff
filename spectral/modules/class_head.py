"""The output layer of a classifier.

Shape letters: D channels, C classes.
"""

from torch import Tensor, nn

from spectral.modules.linear import WideLinear


class ClassHead(nn.Module):
    """Logits of the classes."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.proj = WideLinear(dim, classes)

    def reset_parameters(self) -> None:
        """Initialise with small weights: the probabilities begin close to uniform."""
        nn.init.normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.proj.bias)

    def forward(self, pooled_D: Tensor) -> Tensor:
        """[..., D] -> [..., C]."""
        logits: Tensor = self.proj(pooled_D)
        return logits
