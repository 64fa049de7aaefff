"""`resonance doctor --leak MODEL`: whether a causal model lets information through."""

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from pretrain.doctor.command import DoctorCommand
from pretrain.doctor.kernels import aligned
from pretrain.doctor.leak_checks import CHECKS, LeakResult, run_checks
from pretrain.errors import RunError
from pretrain.huggingface.load import load_pretrained
from pretrain.huggingface.wrap import wrap

HEADER = ("check", "verdict", "largest difference", "rounding", "first position", "")
SHORTEST = 16


def leak_report(command: DoctorCommand) -> str:
    """A table of all checks, or JSON.

    Raises:
        RunError: The model cannot be loaded, is no causal language model, or leaks; in that case
            the report has been printed.
    """
    unknown = [name for name in command.checks if name not in CHECKS]
    if unknown:
        raise RunError(f"checks: expected some of {', '.join(CHECKS)}, got {unknown[0]!r}")
    model = _load(command.leak, command.trust_code).to(getattr(torch, command.dtype)).eval()
    length = _length(model, command)
    # libraries and code from the folder may print, and the report is to be read by programs
    with contextlib.redirect_stdout(sys.stderr):
        results = list(run_checks(model, length, command.checks))
    text = _json(command, length, results) if command.as_json else _table(results)
    leaks = [result.check for result in results if result.verdict == "leaks"]
    if leaks:
        print(text, flush=True)
        raise RunError(f"{command.leak}: leaks: {', '.join(leaks)}")
    return text


def _load(name: str, trust_code: bool) -> Any:
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        loaded = load_pretrained(path)
        return wrap(loaded.model, loaded.tokenizer)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            model = transformers.AutoModelForCausalLM.from_pretrained(
                name, trust_remote_code=trust_code, dtype=torch.float32
            )
    except (OSError, ValueError, ImportError, KeyError, AttributeError, RuntimeError) as error:
        remedy = ""
        if "trust_remote_code" in str(error):
            remedy = "; its own code runs only with --trust-code"
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{name}: expected a causal language model that transformers loads: {reason}{remedy}"
        ) from error
    if model.config.is_encoder_decoder or getattr(model.config, "causal", True) is False:
        raise RunError(f"{name}: expected a causal language model, got a bidirectional one")
    return model


def _length(model: Any, command: DoctorCommand) -> int:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # padded rows are a third longer
    length = min(command.length, (longest or command.length * 2) * 3 // 4)
    if length < SHORTEST:
        raise RunError(f"length: expected at least {SHORTEST} tokens, got {length}")
    return length


def _table(results: list[LeakResult]) -> str:
    rows: list[tuple[str, ...]] = [HEADER]
    for result in results:
        found = "-" if math.isnan(result.difference) else f"{result.difference:.1e}"
        place = "-" if result.position is None else str(result.position)
        rows.append(
            (result.check, result.verdict, found, f"{result.tolerance:.1e}", place, result.note)
        )
    return aligned(rows)


def _json(command: DoctorCommand, length: int, results: list[LeakResult]) -> str:
    checks = [
        # JSON has no NaN
        result._replace(difference=None if math.isnan(result.difference) else result.difference)  # type: ignore[arg-type]
        for result in results
    ]
    report = {
        "model": command.leak,
        "dtype": command.dtype,
        "length": length,
        "leaks": sum(result.verdict == "leaks" for result in results),
        "checks": [check._asdict() for check in checks],
    }
    return json.dumps(report, indent=1)
