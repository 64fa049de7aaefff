"""Base class of all tables of model keys (imports no torch)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A frozen table; unknown keys, wrong types and non-finite numbers are rejected."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )
