"""What a model computes on a probe: a layout that computes something else is refused.

A tensor-parallel split can change the mathematics, and a conversion can lose a parameter, without
any error. So every checkpoint stores the loss, some logits and a fingerprint of every layer's
output on random tokens, and whoever loads it computes them again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

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

# Of a layer's largest number. Sums in another order move float32 by a few units in the last place
# per layer; the probe runs in float32 whatever the training runs in.
TOLERANCE = 1_000 * torch.finfo(torch.float32).eps

Measurements = dict[str, list[float]]


def certify(model: Any, run: RunConfig) -> dict[str, Any]:
    """The certificate of a model as it is; JSON-able. A collective if there are several ranks.

    Args:
        model: A `SpectralLM`, or an engine of any layout.
        run: Says how long its sequences are.

    Cost: one forward pass over one sequence, or over a part of a long one.
    """
    length = probe_length(run)
    return {
        "dtype": "float32",
        "tokens": length,
        "measured": measure(model, run.model.vocab_size, length),
    }


def measure(model: Any, vocab_size: int, length: int) -> Measurements:
    """What a model computes on a probe of so many tokens, the same on all ranks."""
    with probe_target(model) as target:
        reading = run_probe(target, vocab_size, length)
    readings: list[ProbeReading] = gathered_objects(reading) if dist.is_initialized() else [reading]
    return merge_readings(readings, length)


def difference(found: Mapping[str, list[float]], expected: Mapping[str, list[float]]) -> str:
    """What differs first, in the order of the layers; empty if nothing does."""
    for name, numbers in expected.items():
        others = found.get(name)
        if others is None or len(others) != len(numbers):
            return f"{name} was not computed"
        bound = TOLERANCE * max(abs(number) for number in numbers)
        error = max(abs(a - b) for a, b in zip(numbers, others, strict=True))
        # NaN passes no comparison
        if not error <= bound:
            return f"{name} differs first: by {error:.2e}, expected at most {bound:.2e}"
    return ""


def check_certificate(model: Any, checkpoint: Path, run: RunConfig) -> None:
    """Compute the probe of a checkpoint again and compare; a collective if there are several ranks.

    Raises:
        CheckpointError: On all ranks together; names the first layer that differs.
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
                f"{checkpoint}: this layout does not compute what the checkpoint's did: {problem}"
            )
        )


def read_certificate(checkpoint: Path) -> tuple[int, Measurements]:
    """Tokens of a checkpoint's probe, and what was measured.

    Raises:
        CheckpointError: They are missing or of another form.
    """
    file = checkpoint / "certificate.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        measured = {str(k): [float(n) for n in v] for k, v in table["measured"].items()}
        return int(table["tokens"]), measured
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: expected measurements of a probe ({error})") from error
