"""Reading and writing of run files: TOML, the same value both ways (imports no torch)."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from data_pipeline.errors import DataError
from data_pipeline.input_files import read_regular, shown
from data_pipeline.redaction import redact
from pretrain.config import RunConfig
from pretrain.errors import RunError
from spectral.modules.frame_length import automatic_chunk
from spectral.presets import PRESETS
from spectral.upgrade import nested_keys

MAX_BYTES = 4 * 2**20
# deeper than any table of a run
MAX_DEPTH = 20


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
        return parse_toml(read_regular(path, MAX_BYTES).decode())
    except FileNotFoundError:
        raise RunError(f"{path}: no such run file") from None
    except DataError as error:
        raise RunError(str(error)) from error
    except ValueError as error:
        raise RunError(f"{path}: not a TOML file: {error}") from error


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        ValueError: It is no TOML, nested too deep, or has an integer of more than 64 bits.
    """
    too_deep = ValueError(f"tables and lists nested deeper than {MAX_DEPTH} levels")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise too_deep from None
    inner: list[Any] = [table]
    for _ in range(MAX_DEPTH):
        if any(isinstance(value, int) and abs(value) >= 2**63 for value in inner):
            raise ValueError("an integer of more than 64 bits")
        lists = [value for value in inner if isinstance(value, list)]
        inner = [v for value in inner if isinstance(value, dict) for v in value.values()]
        inner += [item for values in lists for item in values]
    if inner:
        raise too_deep
    return table


def validate_run(table: dict[str, Any]) -> RunConfig:
    """The run of a table: a number is no string and no truth value, an integer has no point.

    Raises:
        ValidationError: The table is no run.
    """
    return RunConfig.model_validate(_with_tuples(table), strict=True)


def _with_tuples(value: Any) -> Any:
    """A value of TOML with its lists as tuples, which a strict validation tells apart."""
    if isinstance(value, dict):
        return {key: _with_tuples(inner) for key, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _validated(table: dict[str, Any], path: Path) -> RunConfig:
    try:
        return validate_run(table)
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
    """The resolved run as TOML, which is a valid run file; URLs have no credentials."""
    return tomli_w.dumps(public_table(run))


def public_table(run: RunConfig) -> dict[str, Any]:
    """The resolved run for everything that is stored or shown: URLs have no credentials."""
    table: dict[str, Any] = _redacted(run.model_dump(mode="json"))
    return table


def private_keys(run: RunConfig) -> list[str]:
    """The keys whose URLs have credentials."""
    return [
        ".".join(map(str, place))
        for place, value in _texts(run.model_dump(mode="json"))
        if redact(value) != value
    ]


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    return [_redacted(inner) for inner in value] if isinstance(value, list) else value


def _texts(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[Any, str]]:
    """(place, text) of all texts of nested tables and lists."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, (*place, key))


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
            lines.append(f"{key}: {expected}, found {shown(finding['input'])}")
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
