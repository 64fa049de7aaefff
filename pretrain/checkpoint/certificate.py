"""Certificate of a checkpoint: its model's output on a probe, compared again after loading.

A tensor-parallel split can change the mathematics, and a conversion can lose a parameter, without
any error. So every checkpoint stores the loss, some logits and a fingerprint of every layer's
output on random tokens. Loading computes them again and rejects a layout that gives other results.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from pydantic import BaseModel, Field, ValidationError

from data_pipeline.foreign import first_problem
from data_pipeline.input_files import MAX_JSON_BYTES, read_regular
from pretrain.checkpoint.fingerprint import (
    ProbeReading,
    merge_readings,
    probe_length,
    probe_target,
    run_probe,
)
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.runtime.ranks import agreed, gathered_objects

# relative to the largest number of a layer: sums in another order change float32 by a few units in
# the last place per layer, and the probe always runs in float32
TOLERANCE = 1_000 * torch.finfo(torch.float32).eps

# more than any run's probe has
MAX_TOKENS = 1 << 20

Measurements = dict[str, list[float]]


class _Certificate(BaseModel):
    tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS)]
    measured: dict[str, Annotated[list[float], Field(min_length=1)]]


def certify(model: Any, run: RunConfig) -> dict[str, Any]:
    """The certificate of a model in its present state, JSON-able; a collective of all ranks.

    Args:
        model: A `SpectralLM`, or an engine of any layout.
        run: The run, with the length of its sequences.

    Cost: one forward pass over one sequence, or over a part of a long one.
    """
    length = probe_length(run)
    return {
        "dtype": "float32",
        "tokens": length,
        "measured": measure(model, run.model.vocab_size, length),
    }


def measure(model: Any, vocab_size: int, length: int) -> Measurements:
    """Measurements of a model on a probe of `length` tokens, the same on all ranks."""
    with probe_target(model) as target:
        reading = run_probe(target, vocab_size, length)
    readings: list[ProbeReading] = gathered_objects(reading) if dist.is_initialized() else [reading]
    return merge_readings(readings, length)


def difference(found: Mapping[str, list[float]], expected: Mapping[str, list[float]]) -> str:
    """Description of the first difference, in the order of the layers; empty if there is none."""
    for name, numbers in expected.items():
        measured = found.get(name)
        if measured is None or len(measured) != len(numbers):
            return f"{name} was not computed"
        bound = TOLERANCE * max(abs(number) for number in numbers)
        error = max(abs(a - b) for a, b in zip(numbers, measured, strict=True))
        # written so that NaN counts as a difference
        if not error <= bound:
            return f"{name} differs first: by {error:.2e}, expected at most {bound:.2e}"
    return ""


def check_certificate(model: Any, checkpoint: Path, run: RunConfig) -> None:
    """Compute the probe of a checkpoint again and compare; a collective of all ranks.

    Raises:
        CheckpointError: Results differ; names the first layer, on all ranks together.
    """
    length, expected = read_certificate(checkpoint)
    if length % run.parallel.sequence:
        raise agreed(
            CheckpointError(
                f"{checkpoint}: its probe of {length:,} tokens cannot be cut into "
                f"{run.parallel.sequence} spans; expected parallel.sequence to divide it"
            )
        )
    problem = difference(measure(model, run.model.vocab_size, length), expected)
    if problem:
        raise agreed(
            CheckpointError(
                f"{checkpoint}: the model's output in this layout differs from its certificate: "
                f"{problem}"
            )
        )


def read_certificate(checkpoint: Path) -> tuple[int, Measurements]:
    """Length of a checkpoint's probe in tokens, and the measurements on it.

    Raises:
        CheckpointError: The certificate is missing or malformed.
    """
    file = checkpoint / "certificate.json"
    try:
        table = _Certificate.model_validate_json(read_regular(file, MAX_JSON_BYTES), strict=True)
    except (OSError, ValueError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else error
        raise CheckpointError(f"{file}: expected measurements of a probe ({problem})") from error
    for name, numbers in table.measured.items():
        if not all(map(math.isfinite, numbers)):
            raise CheckpointError(
                f"{file}: the model's output was not finite when it was saved, first in {name}; "
                "expected finite numbers: use an older checkpoint"
            )
    return table.tokens, table.measured
