"""Charts of runs as plotly's tables; their texts are escaped for its HTML (imports no torch)."""

import html
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from pretrain.reporting.records import Floats, Points, RunRecords, thinned

Chart = dict[str, Any]
TITLES = {
    "loss": ("Loss", "nats per token"),
    "grad_norm": ("Gradient norm", "norm before clipping"),
    "learning_rate": ("Learning rate", "rate"),
    "tokens_per_s": ("Throughput", "tokens per second, all ranks"),
    "mfu": ("Utilisation", "share of the peak"),
    "memory_bytes": ("Memory", "bytes of the fullest rank"),
}
SAMPLED = ("mfu", "memory_bytes")
# axes that begin at zero
FROM_ZERO = ("learning_rate", "tokens_per_s", "mfu", "memory_bytes")
# points of a curve of sampled figures
MOST_SAMPLES = 200
# stacked bars of more runs would be a wall
MOST_STACKS = 12
FIGURES = {
    "spectrum_entropy": "entropy of the modes' energy",
    "spectrum_used_share": "share of modes that holds 90% of the energy",
    "spectrum_selected_share": "share of modes that gates let through",
    "spectrum_gate_magnitude": "mean magnitude of the gates",
    "spectrum_time_constant_p50": "median time constant, tokens",
}


def chart(name: str, title: str, unit: str, traces: list[Chart], **layout: Any) -> Chart:
    """A chart of the page; `tokens` says whether its traces have tokens next to steps."""
    return {
        "id": name,
        "title": title,
        "unit": unit,
        "traces": traces,
        "layout": layout,
        "tokens": any("tokens" in trace for trace in traces),
    }


def charts_of(runs: Sequence[RunRecords]) -> list[Chart]:
    """All charts that these runs have points for."""
    made = [_curves(runs, "loss", validation=True)]
    made += [_curves(runs, name) for name in ("grad_norm", "learning_rate", "tokens_per_s")]
    made += [_sampled(runs, name) for name in SAMPLED]
    made += [_parts(runs), *(_spectra(run) for run in runs[:MOST_STACKS]), _events(runs)]
    made += [found for run in runs[:MOST_STACKS] for found in _analysis(run)]
    return [each for each in made if each["traces"]]


def _name(run: RunRecords) -> str:
    return _escaped(run.name)


def _escaped(text: str) -> str:
    # plotly decodes these three only
    return html.escape(text, quote=False)


def _numbers(values: Floats) -> list[float | None]:
    """Numbers of six digits; None for what is none."""
    return [float(f"{x:.6g}") if math.isfinite(x) else None for x in values.tolist()]


def _line(run: RunRecords, number: int, points: Points, suffix: str = "", **more: Any) -> Chart:
    trace = {
        "type": "scatter",
        "mode": "lines",
        "name": f"{_name(run)}{suffix}",
        "x": [int(step) for step in points.steps.tolist()],
        "y": _numbers(points.values),
        "tokens": [int(tokens) for tokens in points.tokens.tolist()],
        "color": number,
        "legendgroup": str(number),
    }
    return trace | more


def _curves(runs: Sequence[RunRecords], name: str, *, validation: bool = False) -> Chart:
    traces = []
    for number, run in enumerate(runs):
        points = run.curves[name]
        if np.isfinite(points.values).any():
            traces.append(_line(run, number, points))
        held_out = _of_records(run, "valid_loss") if validation else None
        if held_out is not None and len(held_out.values):
            style = {"mode": "lines+markers", "dash": "dot"}
            traces.append(_line(run, number, held_out, " (held out)", **style))
    return chart(name, *TITLES[name], traces, zero=name in FROM_ZERO)


def _of_records(run: RunRecords, key: str) -> Points:
    records = [record for record in run.sampled if key in record]
    columns = [[float(r[field]) for r in records] for field in ("step", "tokens", key)]
    return thinned(Points(*map(np.array, columns)), MOST_SAMPLES)


def _sampled(runs: Sequence[RunRecords], name: str) -> Chart:
    traces = []
    for number, run in enumerate(runs):
        points = _of_records(run, name)
        if len(points.values):
            traces.append(_line(run, number, points, mode="lines+markers"))
    return chart(name, *TITLES[name], traces, zero=name in FROM_ZERO)


def _parts(runs: Sequence[RunRecords]) -> Chart:
    """Stacked means of the seconds by part; collectives lie within the parts and are left out."""
    means: dict[str, dict[str, float]] = {}
    for run in runs[:MOST_STACKS]:
        for key in {key for record in run.sampled for key in record if key.startswith("seconds/")}:
            part = key.removeprefix("seconds/")
            if part != "communication":
                mean = fmean(r.get(key, 0.0) for r in run.sampled if "memory_bytes" in r)
                means.setdefault(part, {})[_name(run)] = mean
    traces = [
        {
            "type": "bar",
            "name": _escaped(part),
            "x": list(by_run),
            "y": _numbers(np.array(list(by_run.values()))),
        }
        for part, by_run in sorted(means.items())
    ]
    return chart(
        "parts", "Time of a step by part", "seconds, mean over samples", traces, stack=True
    )


def _spectra(run: RunRecords) -> Chart:
    """The sampled spectrum usage of every layer of a run."""
    traces: list[Chart] = []
    for figure, title in FIGURES.items():
        keys = {key for record in run.sampled for key in record if key.startswith(f"{figure}/")}
        for key in sorted(keys, key=lambda k: (len(k), k)):
            points = _of_records(run, key)
            label = _escaped(f"layer {key.rpartition('/')[2]}")
            style = {"mode": "lines+markers", "figure": title, "name": label, "legendgroup": key}
            traces.append(_line(run, len(traces), points, **style))
    name = f"spectra-{run.name}"
    return chart(name, f"Spectrum usage of {run.name}", "by layer", traces, choose="figure")


def _events(runs: Sequence[RunRecords]) -> Chart:
    traces = []
    for number, run in enumerate(runs):
        shown = [event for event in run.events if event["event"] != "save"] + [
            event for event in run.events if event["event"] == "save"
        ][-200:]
        if shown:
            trace = {
                "type": "scatter",
                "mode": "markers",
                "name": _name(run),
                "x": [event["step"] for event in shown],
                "y": [_escaped(event["event"]) for event in shown],
                "text": [_escaped(str(event.get("text", "")))[:300] for event in shown],
                "color": number,
            }
            traces.append(trace)
    return chart("events", "Events", "", traces, category=True)


def _analysis(run: RunRecords) -> list[Chart]:
    """Pictures of the analyzer's figures, which lie in the run directory."""
    pictures = run.analysis.get("charts")
    if not isinstance(pictures, list):
        return []
    return [
        cleaned(picture) | {"tokens": False, "title": f"{picture['title']} of {run.name}"}
        for picture in pictures
        if isinstance(picture, dict) and {"id", "title", "unit", "traces", "layout"} <= set(picture)
    ]


def cleaned(value: Any) -> Any:
    """A value from a file, with texts escaped and without numbers that JSON lacks."""
    if isinstance(value, dict):
        return {str(key): cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [cleaned(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return _escaped(value) if isinstance(value, str) else value
