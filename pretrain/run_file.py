"""Reading and writing of run files: TOML, the same value both ways (imports no torch)."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from pretrain.config import RunConfig
from pretrain.errors import RunError
from spectral.modules.frame_length import automatic_chunk
from spectral.presets import PRESETS
from spectral.upgrade import nested_keys


def load_run(path: Path) -> RunConfig:
    """Read a run file.

    Raises:
        RunError: The file is missing, not TOML, or not a run; the message names each key.
    """
    table = _read_toml(path)
    _expand_preset(table, path)
    return _validated(table, path)


def load_saved_run(checkpoint: Path) -> RunConfig:
    """The run that a checkpoint was written by; also one of version 0.1, whose keys were flat.

    Raises:
        RunError: As `load_run`.
    """
    path = checkpoint / "run.toml"
    table = _read_toml(path)
    if isinstance(table.get("model"), dict):
        table["model"] = nested_keys(table["model"])
    return _validated(table, path)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such run file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: not a TOML file: {error}") from error


def _validated(table: dict[str, Any], path: Path) -> RunConfig:
    try:
        return RunConfig.model_validate(table)
    except ValidationError as error:
        raise RunError(f"{path}: {describe(error, RunConfig)}") from None


def _expand_preset(table: dict[str, Any], path: Path) -> None:
    """Replace `[model] preset` by the preset's keys; keys stated in the file take precedence."""
    model = table.get("model")
    if not isinstance(model, dict) or "preset" not in model:
        return
    name = model.pop("preset")
    if not isinstance(name, str) or name not in PRESETS:
        raise RunError(f"{path}: model.preset is {name!r}; expected one of {', '.join(PRESETS)}")
    preset = PRESETS[name].model.model_dump()
    for key, value in model.items():
        # a nested table changes the keys that it has
        nested = isinstance(value, dict) and isinstance(preset.get(key), dict)
        preset[key] = preset[key] | value if nested else value
    table["model"] = preset


def dump_run(run: RunConfig) -> str:
    """The resolved run as TOML, which is a valid run file."""
    return tomli_w.dumps(run.model_dump(mode="json"))


def with_chunk(run: RunConfig, checkpoint: Path | None) -> RunConfig:
    """The run with the FFT chunk that its model has, if it leaves the choice to us.

    Args:
        run: The run; a chunk that it names stays.
        checkpoint: The checkpoint that it resumes from, whose chunk is taken; None chooses one for
            the run's sequences.
    """
    model, chunk = run.model, run.model.fft.chunk
    if chunk == 0 and checkpoint is not None:
        chunk = load_saved_run(checkpoint).model.fft.chunk
    elif chunk == 0 and "fft" in model.mixers:
        chunk = automatic_chunk(run.data.sequence_length)
    fft = model.fft.model_copy(update={"chunk": chunk})
    return run.model_copy(update={"model": model.model_copy(update={"fft": fft})})


def stored_form(run: RunConfig) -> RunConfig:
    """The run as a checkpoint of it would be read back."""
    return RunConfig.model_validate(tomllib.loads(dump_run(run)))


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The wrong keys of a table, a line for each, with what was found and what was expected."""
    lines = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}{_suggestion(finding['loc'], model)}")
        elif finding["type"] == "value_error":
            text = finding["msg"].removeprefix("Value error, ")
            lines.append(f"{key}: {text}" if key else text)
        else:
            expected = finding["msg"][:1].lower() + finding["msg"][1:]
            lines.append(f"{key}: {expected}, found {finding['input']!r}")
    return "\n  ".join(lines)


def _suggestion(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    fields: Mapping[str, Any] = model.model_fields
    for part in location[:-1]:
        field = fields.get(str(part))
        if field is None or not hasattr(field.annotation, "model_fields"):
            return ""
        fields = field.annotation.model_fields
    near = difflib.get_close_matches(str(location[-1]), fields, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known keys: {', '.join(fields)})"
