"""Model-FLOP utilisation: the model's operations as a share of what its devices could do."""

import math
import time
import tomllib
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import pretrain
from pretrain.config import RunConfig
from pretrain.runtime.flops import EvenDispatch, FlopCounter
from pretrain.runtime.precision import product_dtype
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

# the planner's table of devices
DEVICES = Path(pretrain.__file__).parent / "planning" / "devices.toml"
# side of the matrices of a measured peak, and the time that its rounds may take
SIDE, MEASURING_S = 768, 0.2


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Operations of a forward and a backward pass per token, by the formulas of the ops.

    Recomputed passes do not count, nor does elementwise work.

    Args:
        config: The model.
        length: Tokens of a row.
    """
    counter = FlopCounter()
    with FakeTensorMode():
        model = SpectralLM(config)
        model.layout = model.layout._replace(experts=EvenDispatch())
        tokens = torch.zeros(1, length, dtype=torch.long)
        with counter:
            loss = model(tokens, None, tokens)
            (loss.nll + loss.auxiliary).backward()
    return counter.total / length


class Utilisation:
    """Share of the peak of all ranks' devices that goes into the model's operations.

    Args:
        run: The run.
        device: This rank's device; the others have the same.
        world_size: Number of ranks.
    """

    def __init__(self, run: RunConfig, device: torch.device, world_size: int):
        length = run.data.sequence_length
        self._flops_per_token = flops_per_token(run.model, length)
        self._peak = world_size * _peak_flops(run, device)

    def share(self, tokens_per_s: float) -> float | None:
        """The utilisation at a speed of all ranks; None if the devices' peak is unknown."""
        return self._flops_per_token * tokens_per_s / self._peak if self._peak else None


def _peak_flops(run: RunConfig, device: torch.device) -> float:
    """Operations of a device in a second: configured, of the planner's table, or measured; or 0."""
    if run.monitor.peak_tflops:
        return run.monitor.peak_tflops * 1e12
    dtype = product_dtype(run.train.precision) or torch.float32
    if device.type == "cpu":
        return _measured_peak(dtype)
    return table_peak(torch.cuda.get_device_name(device), dtype)


def table_peak(device_name: str, dtype: torch.dtype) -> float:
    """Peak of a GPU in the planner's table, whose key is part of its name; 0 if none is."""
    gpus = tomllib.loads(DEVICES.read_text(encoding="utf-8"))["gpus"]
    name = device_name.lower()
    tflops: dict[str, float] = next((gpu["tflops"] for key, gpu in gpus.items() if key in name), {})
    return 1e12 * tflops.get(str(dtype).removeprefix("torch."), 0.0)


def _measured_peak(dtype: torch.dtype) -> float:
    """Fastest of several products of square matrices on this processor, as ranks use it."""
    square = torch.ones(SIDE, SIDE, dtype=dtype)
    begin, fastest = time.perf_counter(), math.inf
    while time.perf_counter() - begin < MEASURING_S:
        start = time.perf_counter()
        square @ square
        fastest = min(fastest, time.perf_counter() - start)
    return 2.0 * SIDE**3 / fastest
