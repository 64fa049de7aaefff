"""Polar weights: pairs of numbers as magnitude and phase, in a few bits, packed.

A pair is a complex number, or two neighbours of a row of real ones, which a Hadamard rotation has
made normal. A normal pair has a Rayleigh magnitude and a uniform phase, independent of each other:
its best levels are Lloyd and Max's of the Rayleigh distribution, and equal steps of phase. 512
numbers share a scale.

Shape letters: N numbers, P pairs, L bytes, B blocks.

Source: Lloyd 1982 and Max 1960 for the levels; polar quantization as in Bucklew and Gallagher 1979;
rotations as in QuIP# (Tseng et al. 2024, arXiv 2402.04396).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# numbers that share a scale, bytes of a scale (bfloat16)
BLOCK, SCALE_BYTES = 512, 2
# bits of a number -> bits of the phase and of the magnitude of a pair
SPLITS = {6: (7, 5), 4: (5, 3), 3: (4, 2)}
LARGEST_ROTATION = 1_024
# Lloyd-Max levels of the Rayleigh distribution of unit normals, by the bits of the magnitude
LEVELS = {
    2: (0.529275, 1.114404, 1.724621, 2.529111),
    3: (0.328611, 0.669692, 0.980477, 1.289819, 1.616563, 1.983522, 2.432928, 3.08638),
    5: (
        *(0.12068, 0.241956, 0.346375, 0.442231, 0.532792, 0.619809, 0.704381, 0.787278),
        *(0.86908, 0.950257, 1.03121, 1.112297, 1.193854, 1.276208, 1.359691, 1.444651),
        *(1.531461, 1.620537, 1.71235, 1.807449, 1.906489, 2.010267, 2.119782, 2.236315),
        *(2.361565, 2.497862, 2.64855, 2.818705, 3.016634, 3.257514, 3.574323, 4.067519),
    ),
}


def codebook(phase_bits: int, levels: Sequence[float]) -> Tensor:
    """The complex number of every code, phase after magnitude: complex64 [codes].

    The mean of a cell lies nearer to zero than its level, by sin(x) / x of half a step of phase.
    """
    steps = 1 << phase_bits
    half = math.pi / steps
    magnitude = torch.tensor(levels, dtype=torch.float64) * math.sin(half) / half
    phase = torch.arange(steps, dtype=torch.float64) * 2.0 * half
    return torch.polar(magnitude[:, None], phase).flatten().to(torch.complex64)


def nearest_codes(pairs_P: Tensor, phase_bits: int, levels: Sequence[float]) -> Tensor:
    """Codes of normal pairs of unit variance: int32 [P]."""
    steps = 1 << phase_bits
    phase_P = (pairs_P.angle() * (steps / (2.0 * math.pi))).round().to(torch.int32) % steps
    table = torch.tensor(levels, dtype=pairs_P.abs().dtype)
    magnitude_P = torch.bucketize(pairs_P.abs(), (table[1:] + table[:-1]) / 2).to(torch.int32)
    return magnitude_P * steps + phase_P


def pack(codes_P: Tensor, bits: int) -> Tensor:
    """Codes of 2 * `bits` bits as bytes, in groups of 24 bits: uint8 [L]."""
    width = 2 * bits
    group = 24 // width
    padded = nn.functional.pad(codes_P, (0, -len(codes_P) % group)).view(-1, group).int()
    shifts = torch.arange(group, dtype=torch.int32) * width
    words = (padded << shifts).sum(-1, keepdim=True, dtype=torch.int32)
    return (words >> torch.tensor([0, 8, 16]) & 255).to(torch.uint8).flatten()


def unpack(bytes_L: Tensor, bits: int, num_pairs: int) -> Tensor:
    """The codes that `pack` packed: int32 [P]."""
    width = 2 * bits
    if width == 8:
        return bytes_L[:num_pairs].int()
    low, middle, high = bytes_L.view(-1, 3).int().unbind(-1)
    words = (low | middle << 8 | high << 16)[:, None]
    shifts = torch.arange(24 // width, dtype=torch.int32, device=bytes_L.device) * width
    return ((words >> shifts) & ((1 << width) - 1)).flatten()[:num_pairs]


def rotation_size(columns: int) -> int:
    """Size of the Hadamard rotations along a row: the largest power of two that divides it."""
    return min(columns & -columns, LARGEST_ROTATION)


def rotated(x: Tensor, size: int) -> Tensor:
    """Consecutive parts of the last dimension, rotated; the rotation is its own inverse."""
    shape = x.shape
    half = 1
    while half < size:
        pairs = x.reshape(-1, size // (2 * half), 2, half)
        first, second = pairs.unbind(2)
        x = torch.stack([first + second, first - second], dim=2).reshape(-1, size)
        half *= 2
    return (x / math.sqrt(size)).reshape(shape)


def block_scales(numbers_N: Tensor) -> Tensor:
    """Root mean square of each block, rounded to bfloat16, above zero: [B]."""
    padded = nn.functional.pad(numbers_N, (0, -len(numbers_N) % BLOCK)).view(-1, BLOCK)
    counts = torch.full((len(padded),), BLOCK)
    counts[-1] -= len(padded) * BLOCK - len(numbers_N)
    scale_B = (padded.double().square().sum(-1) / counts).sqrt().clamp_min(1e-30)
    return scale_B.to(torch.bfloat16).float()


def packed_size(numel: int, bits: int) -> int:
    """Bytes of a weight: scales, then codes."""
    group = 24 // (2 * bits)
    return SCALE_BYTES * -(-numel // BLOCK) + 3 * -(-numel // 2 // group)


def packed(codes_P: Tensor, scale_B: Tensor, bits: int) -> Tensor:
    """Scales and codes as bytes."""
    scale_bytes = scale_B.to(torch.bfloat16).view(torch.uint8)
    return torch.cat([scale_bytes, pack(codes_P, bits)])


class PolarWeight(nn.Module):
    """A parametrization: the weight from its bytes, computed whenever it is used.

    Args:
        shape: Shape of the weight; an even number of numbers.
        bits: Bits of a number, a key of `SPLITS`.
        rotation: Size of the rotations along its rows; 1 for none.
        owner: Filter whose residues the weight holds: they are stored by their impulse responses'
            energies. None for another weight.
    """

    def __init__(
        self, shape: Sequence[int], bits: int, rotation: int, owner: nn.Module | None = None
    ):
        super().__init__()
        self.shape, self.bits, self.rotation = tuple(shape), bits, rotation
        # in a list, lest the filter be a part of its own part
        self._owner = [owner]
        self._table: Tensor | None = None

    def forward(self, bytes_L: Tensor) -> Tensor:
        """The weight, float32."""
        numel = math.prod(self.shape)
        end = SCALE_BYTES * -(-numel // BLOCK)
        scale_B = bytes_L[:end].view(torch.bfloat16).float()
        if self._table is None or self._table.device != bytes_L.device:
            phase_bits, magnitude_bits = SPLITS[self.bits]
            self._table = codebook(phase_bits, LEVELS[magnitude_bits]).to(bytes_L.device)
        pairs_P = self._table[unpack(bytes_L[end:], self.bits, numel // 2)]
        numbers_N = torch.view_as_real(pairs_P).flatten()
        numbers_N = numbers_N * scale_B.repeat_interleave(BLOCK)[:numel]
        weight = numbers_N.view(self.shape)
        if self.rotation > 1:
            weight = rotated(weight, self.rotation)
        return weight * self.gain()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor]:
        """Room for the bytes of a weight; they are filled in later."""
        size = packed_size(weight.numel(), self.bits)
        return (torch.zeros(size, dtype=torch.uint8, device=weight.device),)

    def gain(self) -> Tensor | float:
        """Factor of the stored numbers: of residues, the energies of their modes."""
        (owner,) = self._owner
        if owner is None:
            return 1.0
        log_decay: Any = owner.log_decay
        return (2.0 * log_decay.exp()).sqrt()[..., None]


def make_polar(model: nn.Module, bits: int, rotate: bool, names: Sequence[str]) -> None:
    """Turn parameters into polar weights, still without values, in place.

    Args:
        model: The model, which is not trained any more.
        bits: Bits of a number.
        rotate: Whether real weights are rotated.
        names: Names of the parameters.
    """
    for name in names:
        path, _, key = name.rpartition(".")
        module = model.get_submodule(path)
        parameter: nn.Parameter = getattr(module, key)
        parameter.requires_grad_(False)
        is_complex = key == "residue"
        size = rotation_size(parameter.shape[-1]) if rotate and not is_complex else 1
        weight = PolarWeight(parameter.shape, bits, size, module if is_complex else None)
        parametrize.register_parametrization(module, key, weight, unsafe=True)


def polar_parts(model: nn.Module, name: str) -> tuple[PolarWeight, Tensor]:
    """The parametrization of a polar weight, and its bytes."""
    path, _, key = name.rpartition(".")
    found: Any = model.get_submodule(path).parametrizations[key]  # type: ignore[index]
    return found[0], found.original0
