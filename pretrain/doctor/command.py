"""The arguments of `resonance doctor` (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from data_pipeline.config import LocalPath
from pretrain.commands import Command


class DoctorCommand(Command):
    """Check this machine: versions, devices, shadowed packages, free disk, writable paths."""

    output: LocalPath = Field(Path("runs"), description="Folder that runs will be written to.")
    kernels: bool = Field(
        False,
        description="Instead, compile every GPU kernel for every supported architecture (without "
        "a GPU) and print the resources that each needs; takes minutes the first time.",
    )
    leak: str = Field(
        "",
        description="Instead, a causal language model to check for leaks: does a later token move "
        "earlier logits, a packed document the next one, padding or batch mates a row, a cache its "
        "continuation? A run directory, checkpoint, folder or name that transformers loads.",
    )
    checks: tuple[str, ...] = Field(
        (), description="Names of some of the leak checks; all of them."
    )
    length: int = Field(
        300,
        ge=16,
        description="Tokens of a row that is checked for leaks; should exceed the model's chunks.",
    )
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        "float32", description="Precision in which a model is checked for leaks."
    )
    trust_code: bool = Field(
        False, description="Whether the model to check may run code from its folder."
    )
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = Field(
        False, description="Whether to print the result of leak checks as JSON."
    )
