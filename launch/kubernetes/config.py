"""The `[launch.kubernetes]` table of a run file."""

from pydantic import BaseModel, ConfigDict


class KubernetesConfig(BaseModel):
    """Placeholder."""

    model_config = ConfigDict(frozen=True, extra="forbid")
