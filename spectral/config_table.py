"""Base class of all tables of model keys (imports no torch)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
# of a matrix, whose bytes fit into 64 bits
Size = Annotated[int, Field(ge=1, le=2**24)]


class Table(BaseModel):
    """A frozen table; unknown keys, wrong types and non-finite numbers are rejected."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )
