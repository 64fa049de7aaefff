"""`resonance analyze`: figures of a model and of what a text excites, as JSON and as a page."""

import json
import math
from pathlib import Path
from typing import Any

import torch

from data_pipeline.storage.atomic import write_text_atomically
from data_pipeline.tokenizer import Tokenizer
from pretrain.analysis.excitation import (
    MAP_TOKENS,
    context_reach,
    effective_context,
    recall_maps,
    spectrograms,
    usage_of,
)
from pretrain.analysis.pictures import filter_charts, share_chart, text_charts
from pretrain.analysis.responses import filter_figures
from pretrain.analysis.shares import (
    SPECTRAL_OPERATIONS,
    SPECTRAL_PARAMETERS,
    operation_counts,
    parameter_counts,
    spectral_share,
)
from pretrain.checkpoint.catalog import run_of
from pretrain.errors import RunError
from pretrain.evaluation.text import DEFAULT_WINDOW
from pretrain.evaluation.text_loss import read_text
from pretrain.huggingface.load import Pretrained, load_pretrained
from pretrain.reporting.charts import cleaned
from pretrain.reporting.report import render
from pretrain.viewing_commands import AnalyzeCommand


def analyze(command: AnalyzeCommand) -> str:
    """Write analysis.json and analysis.html, and describe the model.

    Raises:
        CheckpointError: The model is missing or damaged.
        DataError: The text cannot be read, or is not UTF-8.
        RunError: The text is too short, or the model is bidirectional.
    """
    loaded = load_pretrained(command.model)
    folder = command.output or (run_of(loaded.path) if loaded.run else Path("analysis"))
    analysis = model_analysis(loaded)
    if command.text is not None:
        analysis["text"] = text_analysis(loaded, read_text(command.text), command)
    charts = [
        share_chart(analysis["parameters"], analysis["operations"]),
        *filter_charts(analysis["filters"]),
        *(text_charts(analysis["text"]) if "text" in analysis else ()),
    ]
    analysis["charts"] = [each for each in charts if each["traces"]]
    folder.mkdir(parents=True, exist_ok=True)
    page = render([], charts=cleaned(analysis["charts"]), title=f"Analysis of {loaded.path}")
    write_text_atomically(folder / "analysis.html", page)
    text = json.dumps(finite(analysis), ensure_ascii=False)
    write_text_atomically(folder / "analysis.json", text + "\n")
    return _summary(analysis, folder)


def model_analysis(loaded: Pretrained) -> dict[str, Any]:
    """Figures that need no text."""
    config = loaded.model.config
    length = loaded.run.data.sequence_length if loaded.run else DEFAULT_WINDOW
    parameters, operations = parameter_counts(loaded.model), operation_counts(config, length)
    return {
        "model": str(loaded.path),
        "parameters": parameters,
        "spectral_share_of_parameters": spectral_share(parameters, SPECTRAL_PARAMETERS),
        "operations": operations,
        "spectral_share_of_operations": spectral_share(operations, SPECTRAL_OPERATIONS),
        "filters": filter_figures(loaded.model, config.dim // config.num_heads),
    }


def text_analysis(loaded: Pretrained, text: str, command: AnalyzeCommand) -> dict[str, Any]:
    """Figures of what a text excites.

    Raises:
        RunError: The text is too short, or the model is bidirectional.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if not model.config.causal:
        raise RunError(f"--text {command.text}: expected a causal model; {loaded.path} is none")
    ids = [tokenizer.bos_id, *tokenizer.encode(text)][: command.max_tokens]
    if len(ids) < 2:
        raise RunError(f"--text {command.text}: is empty; expected a text of at least one token")
    tokens = torch.tensor(ids)
    positions, spectra = spectrograms(model, tokens)
    maps = [
        {
            "layer": each.layer,
            "mean_over_heads": each.weights_HTS.mean(0).tolist(),
            # of the last token, by head: the tokens before it that wrote most of what it reads
            "writers_of_last": [
                [[int(i), float(row[i])] for i in row.topk(min(5, len(row))).indices]
                for row in each.weights_HTS[:, -1]
            ],
        }
        for each in recall_maps(model, tokens)
    ]
    distances, divergences = context_reach(model, tokens)
    return {
        "num_tokens": len(ids),
        "positions": positions,
        "spectrograms": {name: rows.tolist() for name, rows in spectra.items()},
        "usage": usage_of(model, tokens),
        "map_tokens": _words(tokenizer, ids[-MAP_TOKENS:]),
        "recall_maps": maps,
        "distances": distances,
        "divergences": divergences,
        "effective_context": effective_context(distances, divergences),
    }


def finite(value: Any) -> Any:
    """A value without the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _words(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([token]) for token in ids]


def _summary(analysis: dict[str, Any], folder: Path) -> str:
    lines = [
        f"{analysis['model']}: {sum(analysis['parameters'].values()):,} parameters, "
        f"{analysis['spectral_share_of_parameters']:.1%} spectral; "
        f"{sum(analysis['operations'].values()):,.0f} operations per token, "
        f"{analysis['spectral_share_of_operations']:.1%} spectral"
    ]
    for name, figures in analysis["filters"].items():
        ordered = sorted(figures["time_constants"])
        lines.append(
            f"{name}: {figures['heads']} heads, time constants from {ordered[0]:.3g} to "
            f"{ordered[-1]:.3g} tokens, median {ordered[len(ordered) // 2]:.3g}"
        )
    if not analysis["filters"]:
        lines.append("no modal filters: the model has no convolution heads")
    if text := analysis.get("text"):
        lines.append(
            f"{text['num_tokens']} tokens: a change moves the prediction from up to "
            f"{text['effective_context']} tokens back"
        )
    return "\n".join([*lines, f"{folder / 'analysis.html'}, {folder / 'analysis.json'}"])
