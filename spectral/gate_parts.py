"""Which keys of `ModelConfig` switch on parts of the spectral gates (imports nothing)."""

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
