"""Quantization of a model into a folder that loads with transformers and computes on a CPU."""

import os
import shutil
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from pretrain.commands import QuantizeCommand
from pretrain.errors import RunError
from pretrain.evaluation.text_loss import read_text
from pretrain.huggingface.export import MAX_LOGIT_ERROR, probe_length, write_folder
from pretrain.huggingface.load import Pretrained, import_model, load_pretrained
from pretrain.quantization.calibration import input_moments
from pretrain.quantization.coding import encoded
from spectral.feed_forward.experts import ExpertsFeedForward
from spectral.filters.modal import ModalFilter
from spectral.lm import SpectralLM
from spectral.modules.linear import Linear
from spectral.modules.polar import make_polar, polar_parts, rotation_size

# smaller weights save nothing
LEAST_NUMBERS = 1_024
README = """# {name}

{num} weights of `{source}` in {bits} bits per number: magnitude and phase of pairs of numbers,
{rotated}with a scale for every 512 numbers{fed_back}. Everything else is float32. Relative error of
the quantized weights: {error:.2%}; size of all weights: 1/{ratio:.2f} of float32.

    from transformers import AutoModelForCausalLM, AutoTokenizer
    model = AutoModelForCausalLM.from_pretrained("{name}", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained("{name}", trust_remote_code=True)
"""


class QuantizeReport(NamedTuple):
    """A quantized folder.

    Attributes:
        output: The folder.
        bits: Bits of a number.
        num_weights: Number of quantized parameters.
        error: Error of the quantized weights in norm, as a share of theirs.
        ratio: Bytes of all weights in float32 over those in the folder's weights.
    """

    output: Path
    bits: int
    num_weights: int
    error: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.num_weights} weights in {self.bits} bits, relative error "
            f"{self.error:.2%}; all weights together {self.ratio:.2f} times smaller than float32; "
            "loaded back through transformers: the same bytes, the same logits"
        )


def quantize(command: QuantizeCommand) -> QuantizeReport:
    """Write the folder, load it back, compare, and only then rename.

    Raises:
        RunError: The folder exists, the text is too short, or the folder does not load alike.
        CheckpointError: The model is missing or damaged.
    """
    output = command.output
    transformers.utils.logging.disable_progress_bar()
    if os.path.lexists(output):
        raise RunError(f"{output}: exists; expected a new folder")
    loaded = load_pretrained(command.model)
    ids = None
    if command.text is not None:
        text = read_text(command.text)
        ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(text)]
        ids = ids[: command.max_tokens]
        if len(ids) < 2:
            raise RunError(f"--text {command.text}: is empty; expected a text to calibrate on")
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    error, names = quantize_model(loaded.model, int(command.bits), rotate=command.hadamard, ids=ids)
    stored = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    report = QuantizeReport(output, int(command.bits), len(names), error, size / stored)
    _write(command, loaded, names, report)
    return report


def quantize_model(
    model: SpectralLM, bits: int, *, rotate: bool = True, ids: list[int] | None = None
) -> tuple[float, list[str]]:
    """Quantize a model in place.

    Args:
        model: The model.
        bits: Bits of a number.
        rotate: Whether real weights are rotated.
        ids: Tokens of a text on which the error is fed back; None for none.

    Returns:
        (relative error of the quantized weights, their names).
    """
    if any(hasattr(module, "parametrizations") for module in model.modules()):
        raise RunError("the model is quantized already; expected one in float32")
    names = polar_names(model)
    moments = {} if ids is None else input_moments(model, names, ids)
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    make_polar(model, bits, rotate, names)
    square = total = 0.0
    for name, weight in before.items():
        polar, stored = polar_parts(model, name)
        with torch.no_grad():
            stored.copy_(encoded(polar, weight, moments.get(name)))
            square += float((polar(stored) - weight).double().square().sum())
        total += float(weight.double().square().sum())
    return (square / max(total, 1e-300)) ** 0.5, names


def polar_names(model: SpectralLM) -> list[str]:
    """Names of the parameters that are quantized: matrices, tables and the filters' residues.

    Decays, frequencies, gates, norms and short filters stay as they are.
    """
    names = []
    for path, module in model.named_modules():
        keys: tuple[str, ...] = ()
        if isinstance(module, Linear | nn.Embedding) or _is_expert(module):
            keys = ("weight",)
        elif isinstance(module, ModalFilter):
            keys = ("residue",)
        for key in keys:
            value = getattr(module, key)
            # a rotation, or at least a pair, must fit into a row
            if value.numel() >= LEAST_NUMBERS and rotation_size(value.shape[-1]) >= 2:
                names.append(f"{path}.{key}")
    return names


def _is_expert(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    own = type(module).__module__ == ExpertsFeedForward.__module__
    return own and isinstance(weight, nn.Parameter) and weight.ndim == 3


def _write(
    command: QuantizeCommand, loaded: Pretrained, names: list[str], report: QuantizeReport
) -> None:
    output = command.output
    beside = output.with_name(f".{output.name}.{uuid.uuid4().hex}.partial")
    partial = beside / f"{output.name}_partial"
    polar = {"bits": report.bits, "rotate": command.hadamard, "names": names}
    try:
        write_folder(partial, loaded.model, loaded.tokenizer, polar)
        _prove(partial, loaded.model)
        text = README.format(
            name=output.name,
            num=len(names),
            source=loaded.path.name,
            bits=report.bits,
            rotated="rotated by Hadamard matrices, " if command.hadamard else "",
            fed_back=", errors fed back on a text" if command.text else "",
            error=report.error,
            ratio=report.ratio,
        )
        (partial / "README.md").write_text(text, encoding="utf-8")
        partial.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@torch.no_grad()
def _prove(folder: Path, model: SpectralLM) -> None:
    """Compare a folder with the model that it holds, bytes and logits.

    Raises:
        RunError: They differ.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (2, probe_length(model.config))
    probe = torch.randint(model.config.vocab_size, shape, generator=generator)
    expected: Any = model(probe)
    again = import_model(folder)
    state = again.state_dict()
    for name, value in model.state_dict().items():
        if not torch.equal(value, state[name]):
            raise RunError(f"{folder}: {name} has other bytes when it is loaded back")
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    error = float((loaded(probe).logits - expected).abs().max())
    if not error <= MAX_LOGIT_ERROR:
        raise RunError(f"{folder}: logits differ by {error:.1e}; expected {MAX_LOGIT_ERROR:.0e}")
