"""What sets the results of a layout apart from those of one rank."""

from typing import Any

import pytest

from pretrain.parallel.placement import Placement


def differences(found: Any, expected: Any, *, has_spectra: bool) -> list[str]:
    records, valid, pieces, _ = found
    expected_records, expected_valid, wholes, _ = expected
    problems = []
    for step, (record, wanted) in enumerate(zip(records, expected_records, strict=True)):
        for key in ("loss", "auxiliary_loss"):
            if record[key] != pytest.approx(wanted[key], rel=1e-5, abs=1e-9):
                problems.append(f"{key} of step {step}: {record[key]} for {wanted[key]}")
    # Adam hides a wrong scale of the gradient; its norm does not. At the first step only are
    # parameters equal: Adam divides rounding errors by tiny second moments.
    first, wanted_first = records[0], expected_records[0]
    norm, wanted_norm = first["grad_norm"], wanted_first["grad_norm"]
    if norm != pytest.approx(wanted_norm, rel=1e-4):
        problems.append(f"norm of the first gradient: {norm} for {wanted_norm}")
    problems += _sampled_figures(first, wanted_first, ("gradient_norm/",))
    of_model = ("parameter_norm/", "spectrum_") if has_spectra else ("parameter_norm/",)
    problems += _sampled_figures(records[-1], expected_records[-1], of_model)
    if valid != pytest.approx(expected_valid, rel=1e-5):
        problems.append(f"validation and text: {valid} for {expected_valid}")
    for name, (placement, piece) in pieces.items():
        whole = wholes[name][1]
        error = float((piece - Placement(*placement).part_of(whole)).norm() / whole.norm())
        if not error < 1e-4:
            problems.append(f"{name} at the end is off by {error:.1e}")
    return problems


def _sampled_figures(
    record: dict[str, float], expected: dict[str, float], kinds: tuple[str, ...]
) -> list[str]:
    """Sampled figures of some kinds that differ from those of one rank."""
    sampled = {key: wanted for key, wanted in expected.items() if key.startswith(kinds)}
    problems = []
    for key, wanted in sampled.items():
        # a mode next to the last used one has nearly its energy
        tolerance = 0.02 if "used_share" in key else 1e-3
        if record.get(key) != pytest.approx(wanted, rel=tolerance):
            problems.append(f"{key}: {record.get(key)} for {wanted}")
    return problems if sampled else [f"no figures of {', '.join(kinds)} were sampled"]
