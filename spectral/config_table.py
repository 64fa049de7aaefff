"""The base of every table of model keys (imports no torch)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]


class Table(BaseModel):
    """A frozen table: unknown keys, wrong types and numbers that are not finite are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )
