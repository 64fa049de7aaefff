"""Which keys of `ModelConfig` switch on parts of the spectral gates (imports no torch)."""

from typing import Literal, get_args

GATE_PARTS = (
    "band_gates",
    "soft_threshold",
    "phase_functions",
    "cross_head",
    "magnitude_mixing",
    "gate_residual",
    "bin_selection",
    "frequency_dropout",
    "entropy_weight",
    "consistency_weight",
)

SelectionPart = Literal["importance", "scales", "noise", "context", "adaptive_share", "head_ranges"]
SELECTION_PARTS: tuple[SelectionPart, ...] = get_args(SelectionPart)
