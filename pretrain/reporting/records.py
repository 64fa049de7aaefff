"""Records of a run directory, whatever state it is in (imports no torch)."""

import itertools
import math
import operator
import os
import re
import time
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.input_files import open_regular, read_json, read_regular
from launch.json_lines import read_lines
from pretrain.checkpoint.catalog import list_checkpoints, step_of
from pretrain.errors import RunError
from pretrain.monitoring.jsonl import is_metrics, is_spectrum

Floats = NDArray[np.float64]
MAX_BYTES = 1 << 30
# written by JSON for Python, and read by nothing else; no figure is as large
NUMBER_FOR_NAN = b"1.5e308"
NOT_FINITE = re.compile(rb"-?Infinity|NaN")
CURVES = ("loss", "grad_norm", "learning_rate", "tokens_per_s")
# keys of the few records that are read whole
WHOLE = (b'"valid_loss"', b'"memory_bytes"')
# a run whose ranks have not beaten for that long is not running
STALE_S = 120.0


class _Line(msgspec.Struct, gc=False):
    step: int
    tokens: float
    loss: float = math.nan
    grad_norm: float = math.nan
    learning_rate: float = math.nan
    tokens_per_s: float = math.nan


class Points(NamedTuple):
    """A curve.

    Attributes:
        steps, tokens, values: Coordinates of its points.
    """

    steps: Floats
    tokens: Floats
    values: Floats


class RunRecords(NamedTuple):
    """Everything that a report says about a run.

    Attributes:
        name: Name of its folder.
        folder: The run directory.
        curves: Curves of every step, thinned.
        num_steps: Number of steps that were recorded.
        num_bad_lines: Lines of metrics.jsonl that cannot be read.
        last: Last value of each figure of `curves`, and medians of speeds.
        sampled: Validations and sampled records, whole.
        spectra: Records of spectrum.jsonl.
        events: Records of events.jsonl; of an older version, of audit.jsonl.
        keys: Values of the run file by dotted key.
        evaluation: Contents of evaluation.json.
        samples: Generated texts.
        analysis: Contents of analysis.json.
        checkpoints: Complete checkpoints, oldest first.
        versions: Versions of the newest checkpoint.
        state: finished, running or stopped.
    """

    name: str
    folder: Path
    curves: dict[str, Points]
    num_steps: int
    num_bad_lines: int
    last: dict[str, float]
    sampled: list[dict[str, Any]]
    spectra: list[dict[str, Any]]
    events: list[dict[str, Any]]
    keys: dict[str, Any]
    evaluation: dict[str, Any]
    samples: list[dict[str, Any]]
    analysis: dict[str, Any]
    checkpoints: list[Path]
    versions: dict[str, Any]
    state: str


def read_run(folder: Path, points: int) -> RunRecords:
    """The records of a run directory, with at most about `points` points in a curve.

    Raises:
        RunError: The folder is none, or holds no run.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; expected a run directory")
    metrics = folder / "metrics.jsonl"
    if not metrics.exists() and not (folder / "run.toml").exists():
        raise RunError(
            f"{folder}: has neither metrics.jsonl nor run.toml; expected a run directory"
        )
    data = _bytes_of(metrics)
    table, num_bad = _table(data)
    keys = _keys(folder / "run.toml")
    checkpoints = list_checkpoints(folder)
    events = read_lines(folder / "events.jsonl") or _from_audit(folder / "audit.jsonl")
    return RunRecords(
        name=folder.resolve().name,
        folder=folder,
        curves={name: _curve(table, name, points) for name in CURVES},
        num_steps=len(table["step"]),
        num_bad_lines=num_bad,
        last=_last(table),
        sampled=_whole_records(data),
        spectra=read_lines(folder / "spectrum.jsonl", is_spectrum),
        events=[event for event in events if _is_event(event)],
        keys=keys,
        evaluation=_object(folder / "evaluation.json"),
        samples=read_lines(folder / "samples.jsonl", lambda record: "text" in record),
        analysis=_object(folder / "analysis.json"),
        checkpoints=checkpoints,
        versions=_versions(checkpoints),
        state=_state(folder, keys, table),
    )


def thinned(points: Points, most: int) -> Points:
    """A curve with the lowest, the highest and the last point of each of equal stretches."""
    count = len(points.values)
    if count <= most:
        return points
    borders = np.unique(np.linspace(0, count, max(most // 3, 1) + 1).astype(int))
    low, high = (np.where(np.isfinite(points.values), points.values, x) for x in (np.inf, -np.inf))
    kept = {0, count - 1}
    for begin, end in itertools.pairwise(borders):
        kept |= {
            int(begin + low[begin:end].argmin()),
            int(begin + high[begin:end].argmax()),
            int(end - 1),
        }
    index = np.array(sorted(kept))
    return Points(*(part[index] for part in points))


def _bytes_of(path: Path) -> bytes:
    """Contents of a file, to which a run may append meanwhile; nothing if there is none."""
    if not path.exists():
        return b""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise RunError(f"{path}: {size:,} bytes; expected at most {MAX_BYTES:,}")
            return file.read(size)
    except (OSError, DataError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def _table(data: bytes) -> tuple[dict[str, Floats], int]:
    """Columns of the steps' records, and the number of lines that cannot be read."""
    if b"NaN" in data or b"Infinity" in data:
        data = NOT_FINITE.sub(NUMBER_FOR_NAN, data)
    decoder = msgspec.json.Decoder(_Line)
    num_bad = 0
    try:
        lines = decoder.decode_lines(data)
    except (msgspec.DecodeError, RecursionError):
        lines = []
        for line in data.split(b"\n"):
            try:
                if line.strip():
                    lines.append(decoder.decode(line))
            except (msgspec.DecodeError, RecursionError):
                num_bad += 1
    table = {}
    for name in ("step", "tokens", *CURVES):
        column = np.fromiter(map(operator.attrgetter(name), lines), np.float64, len(lines))
        table[name] = np.where(column == float(NUMBER_FOR_NAN), np.inf, column)
    # a validation has neither; a loss that is no number is infinite here
    is_step = ~(np.isnan(table["loss"]) & np.isnan(table["tokens_per_s"]))
    return {name: column[is_step] for name, column in table.items()}, num_bad


def _curve(table: dict[str, Floats], name: str, points: int) -> Points:
    values = np.where(np.isfinite(table[name]), table[name], np.nan)
    return thinned(Points(table["step"], table["tokens"], values), points)


def _last(table: dict[str, Floats]) -> dict[str, float]:
    found = {name: float(column[-1]) for name, column in table.items() if len(column)}
    speeds = table["tokens_per_s"][np.isfinite(table["tokens_per_s"])]
    if len(speeds):
        found["tokens_per_s"] = float(np.median(speeds))
    return found


def _whole_records(data: bytes) -> list[dict[str, Any]]:
    """Records of validations and samples, in their order."""
    places = set()
    for needle in WHOLE:
        found = data.find(needle)
        while found >= 0:
            places.add(data.rfind(b"\n", 0, found) + 1)
            found = data.find(needle, found + len(needle))
    records = []
    for begin in sorted(places):
        end = data.find(b"\n", begin)
        line = NOT_FINITE.sub(b"null", data[begin : end if end >= 0 else len(data)])
        try:
            record = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(record, dict):
            record = {key: value for key, value in record.items() if value is not None}
            if is_metrics(record):
                records.append(record)
    return records


def _is_event(record: dict[str, Any]) -> bool:
    kinds = {"time": (int, float), "step": (int,), "event": (str,)}
    return all(type(record.get(key)) in types for key, types in kinds.items())


def _from_audit(path: Path) -> list[dict[str, Any]]:
    """Events of a run of a version that recorded bad steps alone."""
    return [
        {**record, "event": record.get("action"), "text": record.get("reason", "")}
        for record in read_lines(path)
    ]


def _keys(path: Path) -> dict[str, Any]:
    """Values by dotted key, of a run file of any version."""
    try:
        table = tomllib.loads(read_regular(path, 1 << 20).decode()) if path.exists() else {}
    except (OSError, ValueError, DataError, RecursionError):
        # the curves are shown all the same, and the page says that the file is missing
        return {}
    return dict(_flattened(table, ""))


def _flattened(table: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            pairs += _flattened(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _object(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path) if path.exists() else {}
    except (OSError, DataError):
        # a damaged copy of what another command printed
        return {}
    return value if isinstance(value, dict) else {}


def _versions(checkpoints: list[Path]) -> dict[str, Any]:
    versions = _object(checkpoints[-1] / "state.json").get("versions") if checkpoints else None
    return versions if isinstance(versions, dict) else {}


def _state(folder: Path, keys: dict[str, Any], table: dict[str, Floats]) -> str:
    last = float(table["step"][-1]) if len(table["step"]) else 0.0
    if last and last >= float(keys.get("train.steps") or math.inf):
        return "finished"
    beats = [file.stat().st_mtime for file in (folder / "heartbeat").glob("rank-*.json")]
    return "running" if beats and time.time() - max(beats) < STALE_S else "stopped"


def checkpoint_steps(run: RunRecords) -> list[int]:
    """Steps of a run's checkpoints."""
    return [step_of(path) for path in run.checkpoints]
