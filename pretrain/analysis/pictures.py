"""Charts of an analysis, in the form of the report's (imports no torch)."""

from typing import Any

from pretrain.reporting.charts import Chart, chart

MOST_POINTS_OF_TEXT = 60


def filter_charts(filters: dict[str, dict[str, Any]]) -> list[Chart]:
    """Impulse and frequency responses, time constants and poles of every filter."""
    impulse, frequency, poles, constants = [], [], [], []
    for name, figures in filters.items():
        for head in range(figures["heads"]):
            style = {"type": "scatter", "mode": "lines", "name": f"head {head}", "figure": name}
            series = figures["impulse_response"][head]
            # lag 0 has no logarithm
            impulse.append(style | {"x": figures["lags"][1:], "y": series[1:]})
            series = figures["frequency_response"][head]
            frequency.append(style | {"x": figures["frequencies"], "y": series})
        real, imaginary = zip(*figures["poles"], strict=True)
        style = {"type": "scatter", "mode": "markers", "name": name, "figure": name}
        poles.append(style | {"x": list(real), "y": list(imaginary)})
        constants.append({"type": "box", "name": name, "y": figures["time_constants"]})
    disk = {"type": "circle", "x0": -1, "y0": -1, "x1": 1, "y1": 1, "line": {"color": "#888"}}
    choose = {"choose": "figure"}
    return [
        chart("impulse", "Impulse responses", "root mean square over a head's channels", impulse,
              x="lag in tokens", xlog=True, ylog=True, **choose),
        chart("frequency", "Frequency responses", "magnitude", frequency,
              x="frequency in radians per token", ylog=True, **choose),
        chart("poles", "Poles in the unit disk", "imaginary part", poles, x="real part",
              square=True, shapes=[disk], **choose),
        chart("constants", "Time constants", "tokens", constants, ylog=True),
    ]  # fmt: skip


def share_chart(parameters: dict[str, int], operations: dict[str, float]) -> Chart:
    """Shares by component."""
    traces: list[Chart] = []
    for title, counts in (("parameters", parameters), ("operations", operations)):
        total = sum(counts.values()) or 1
        traces += [
            {"type": "bar", "name": name, "x": [title], "y": [count / total]}
            for name, count in counts.items()
        ]
    return chart("shares", "Parameters and operations by component", "share", traces, stack=True)


def text_charts(text: dict[str, Any]) -> list[Chart]:
    """Spectrograms, recall maps and the reach of a changed token."""
    spectra = [
        {"type": "heatmap", "figure": name, "name": name, "x": text["positions"], "z": rows}
        for name, rows in text["spectrograms"].items()
    ]
    maps = []
    for layer in text["recall_maps"]:
        label = f"layer {layer['layer']}"
        maps.append(
            {"type": "heatmap", "figure": label, "name": label, "z": layer["mean_over_heads"],
             "x": _labels(text["map_tokens"]), "y": _labels(text["map_tokens"])}
        )  # fmt: skip
    reach = {"type": "scatter", "mode": "lines+markers", "name": "divergence"}
    reach |= {"x": text["distances"][1:], "y": text["divergences"][1:]}
    return [
        chart("spectrogram", "Carried spectrum over the text", "mode, by frequency", spectra,
              x="position in tokens", choose="figure"),
        chart("recall", "Which token wrote what is read", "token that reads", maps,
              x="token that wrote", choose="figure"),
        chart("reach", "How far back a change moves the prediction", "divergence in nats", [reach],
              x="distance in tokens", xlog=True, ylog=True),
    ]  # fmt: skip


def _labels(tokens: list[str]) -> list[str]:
    return [f"{number} {token}" for number, token in enumerate(tokens)]
