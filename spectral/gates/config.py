"""The `[model.gates]` table: spectral gates on what is read of the carried state (no torch)."""

from pydantic import Field

from spectral.config_table import Table
from spectral.gates.keys import SELECTION_PARTS, SelectionPart


class GatesConfig(Table):
    """Parts of the spectral gates; all are off by default."""

    bands: bool = Field(
        False, description="Gates of magnitude and phase, per head and frequency band (4 bands)."
    )
    soft_threshold: bool = Field(
        False, description="A learned threshold per head, below which modes are not read."
    )
    phase_functions: bool = Field(
        False, description="Learned phase shifts: 4 sinusoids of the frequency per head."
    )
    cross_head: bool = Field(False, description="A network by which heads scale one another.")
    magnitude_mixing: bool = Field(
        False, description="Mixing of magnitudes among the modes of a head; phases are kept."
    )
    residual: bool = Field(False, description="A learned share of the spectrum that is not gated.")
    selection: bool = Field(
        False, description="Adaptive selection of 12% to 45% of each head's modes by content."
    )
    selection_parts: tuple[SelectionPart, ...] = Field(
        SELECTION_PARTS, description="Criteria of the selection; an empty list selects by energy."
    )
    frequency_dropout: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of modes dropped in training."
    )
    entropy_weight: float = Field(
        0.0, ge=0.0, description="Weight of the auxiliary loss for even usage of the modes."
    )
    consistency_weight: float = Field(
        0.0, ge=0.0, description="Weight of the auxiliary loss between read and carried spectrum."
    )
