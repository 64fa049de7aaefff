"""The `[model.experts]` table: a mixture of experts as feed-forward (imports no torch)."""

from pydantic import Field, model_validator

from spectral.config_table import Positive, Table


class ExpertsConfig(Table):
    """Mixture of experts; used if `feed_forward = "experts"`.

    Raises:
        ValueError: More experts per token than there are.
    """

    count: Positive = Field(8, description="Experts of each layer.")
    per_token: Positive = Field(2, description="Experts that each token is sent to.")
    balance_weight: float = Field(
        0.01, ge=0.0, description="Weight of the load-balancing loss of the router."
    )
    router_z_weight: float = Field(
        0.001, ge=0.0, description="Weight of the z-loss, which keeps router logits small."
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ExpertsConfig":
        if self.per_token > self.count:
            raise ValueError(f"per_token must be at most count={self.count}, got {self.per_token}")
        return self
