"""Keys of the `[model.gates]` table that switch on parts of the gates (imports no torch)."""

from typing import Literal, get_args

GATE_PARTS = (
    "bands",
    "soft_threshold",
    "phase_functions",
    "cross_head",
    "magnitude_mixing",
    "residual",
    "selection",
    "frequency_dropout",
    "entropy_weight",
    "consistency_weight",
)

SelectionPart = Literal["importance", "scales", "noise", "context", "adaptive_share", "head_ranges"]
SELECTION_PARTS: tuple[SelectionPart, ...] = get_args(SelectionPart)
