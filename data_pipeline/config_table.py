"""Base of the tables of a configuration (imports no torch)."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """Base of all tables read from outside: frozen; rejects unknown keys, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
