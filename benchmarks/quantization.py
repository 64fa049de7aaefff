"""Polar quantization: error on normal weights, loss, memory and speed of the main job's model.

    python -m benchmarks.quantization

Needs the run of `make pretrain` in runs/stdlib; `torchao` is compared if it is installed.
"""

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.harness.command import benchmark_parser, run_parsed
from benchmarks.harness.thresholds import Figure, Outcome
from pretrain.evaluation.text import carried_nll
from pretrain.evaluation.text_loss import read_text
from pretrain.huggingface.load import load_pretrained
from pretrain.quantization.coding import encoded
from pretrain.quantization.quantize import quantize_model
from spectral.config import ModelConfig
from spectral.decoding import greedy_tokens
from spectral.lm import SpectralLM
from spectral.modules.linear import Linear
from spectral.modules.polar import SPLITS, PolarWeight, packed_size

ROOT = Path(__file__).parents[1]
# bits -> bars of the relative error in norm and of the rise of the loss, in nats
ERROR_LIMITS, LOSS_LIMITS = {6: 0.030, 4: 0.098}, {6: 0.005, 4: 0.03}
TINY = ModelConfig(vocab_size=512, dim=32, num_layers=2, num_heads=4, ffn_dim=48)
CALIBRATION, HELD_OUT, DECODED = 16_384, 32_768, 64


def normal_errors(numbers: int) -> list[Figure]:
    """Errors on normal weights, next to Shannon's limit."""
    torch.manual_seed(0)
    weight = torch.randn(numbers // 1_024, 1_024)
    figures = []
    print(f"{'bits':>5}{'ratio':>8}{'error':>9}{'limit':>9}")
    for bits in SPLITS:
        polar = PolarWeight(weight.shape, bits, 1_024)
        error = float((polar(encoded(polar, weight)) - weight).norm() / weight.norm())
        ratio = 4 * weight.numel() / packed_size(weight.numel(), bits)
        print(f"{bits:>5}{ratio:>8.2f}{error:>9.2%}{2.0**-bits:>9.2%}")
        name = f"relative error of normal weights in {bits} bits"
        figures.append(Figure(name, error, limit=ERROR_LIMITS.get(bits), at_most=True))
        figures.append(Figure(f"size of float32 over that of {bits} bits with scales", ratio))
    return figures


def model_figures(model: SpectralLM, calibration: list[int], held_out: list[int]) -> list[Figure]:
    """Rise of the loss, bytes and speed of decoding of every form of a model."""
    tokens = torch.tensor(held_out)

    def loss_of(candidate: SpectralLM) -> float:
        return float(carried_nll(candidate, tokens, 512).double().mean())

    whole = loss_of(model)
    size, speed = _bytes(model), _tokens_per_s(model)
    print(f"float32: loss {whole:.4f}, {size / 1e6:.2f} MB, {speed:.0f} tokens/s")
    figures = []
    forms: dict[str, Callable[[SpectralLM], object]] = {}
    for bits in SPLITS:
        forms[f"{bits} bits"] = lambda m, bits=bits: quantize_model(m, bits)  # type: ignore[misc]
        forms[f"{bits} bits with feedback"] = lambda m, bits=bits: quantize_model(  # type: ignore[misc]
            m, bits, ids=calibration
        )
    forms |= _torchao_forms()
    for name, make in forms.items():
        candidate = copy.deepcopy(model)
        make(candidate)
        rise = loss_of(candidate) - whole
        ratio, slower = size / _bytes(candidate), speed / _tokens_per_s(candidate)
        print(f"{name:<28} loss +{rise:.4f}, {ratio:.2f} times smaller, {slower:.2f} times slower")
        limit = LOSS_LIMITS.get(int(name.split()[0])) if name.endswith("feedback") else None
        figures += [
            Figure(f"rise of the loss, {name}", rise, "nats per token", limit, at_most=True),
            Figure(f"size of float32 over that of {name}", ratio),
            Figure(f"time of a decoded token, {name} over float32", slower),
        ]
    return figures


def _torchao_forms() -> dict[str, Callable[[SpectralLM], object]]:
    if importlib.util.find_spec("torchao") is None:
        print("torchao is not installed: no comparison")
        return {}
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    def form(dtype: torch.dtype) -> Callable[[SpectralLM], object]:
        def make(model: SpectralLM) -> None:
            config = IntxWeightOnlyConfig(weight_dtype=dtype, granularity=PerGroup(GROUP))
            quantize_(model, config, filter_fn=_is_linear)

        return make

    return {"torchao int8": form(torch.int8), "torchao int4": form(torch.int4)}


# numbers that share a scale in torchao; it divides the width of every layer of the main job's model
GROUP = 8


def _is_linear(module: nn.Module, _name: str) -> bool:
    return isinstance(module, Linear)


def _bytes(model: nn.Module) -> int:
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(model.state_dict(), file.name)
        return Path(file.name).stat().st_size


@torch.no_grad()
def _tokens_per_s(model: SpectralLM) -> float:
    prompt = torch.zeros(1, 8, dtype=torch.long)
    fastest = float("inf")
    for _ in range(3):
        stream: Any = greedy_tokens(model, prompt, model.config.vocab_size)
        next(stream)
        begin = time.perf_counter()
        for _ in range(DECODED):
            next(stream)
        fastest = min(fastest, time.perf_counter() - begin)
    return DECODED / fastest


def measure(quick: bool, run: Path) -> Outcome:
    """All tables."""
    figures = normal_errors(1 << 16 if quick else 1 << 22)
    if quick:
        torch.manual_seed(0)
        ids = torch.randint(512, (1_024,)).tolist()
        figures += model_figures(SpectralLM(TINY).eval(), ids, ids)
        return Outcome("A tiny model without training.", figures)
    loaded = load_pretrained(run)
    texts = {}
    # sources of Resonance: of the main job's kind, and not in its corpus
    for name, paths, most in (
        ("calibration", sorted((ROOT / "pretrain").rglob("*.py")), CALIBRATION),
        ("held out", sorted((ROOT / "spectral").rglob("*.py")), HELD_OUT),
    ):
        documents = [read_text(path) for path in paths]
        texts[name] = loaded.tokenizer.encode("\n".join(documents))[:most]
    figures += model_figures(loaded.model, texts["calibration"], texts["held out"])
    return Outcome(f"Normal numbers, and the model of {loaded.path.parent.parent.name}.", figures)


if __name__ == "__main__":
    parser = benchmark_parser(__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/stdlib"), help="the main job's run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run_parsed("quantization", __doc__, arguments, lambda: measure(arguments.quick, arguments.run))
