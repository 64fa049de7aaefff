"""The quality benchmark goes through all its stages, resumes, and is fair by construction."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_stage_runs_once_and_is_kept(tmp_path: Path) -> None:
    kept_in, work = tmp_path / "results", tmp_path / "work"
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--workers", "2"]
    command += ["--results", str(kept_in), "--work", str(work)]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    results = json.loads((work / "results.json").read_text())
    assert "ablation-plain-seed1" in results
    assert set(results) == {path.stem for path in kept_in.glob("*.json")} - {"costs"}
    plain = results["ablation-plain-seed0"]
    assert {"commit", "machine", "valid_loss", "recalled_loss"} <= set(plain)
    sizes = {
        kind: results[f"mqar-64-4-{kind}-lr0.001"]["num_parameters"]
        for kind in ("spectral", "transformer")
    }
    assert sizes["transformer"] == pytest.approx(sizes["spectral"], rel=0.02)
    assert (work / "curves.png").stat().st_size > 1_000
    # a second start trains only runs without a result
    kept = kept_in / "ablation-plain-seed0.json"
    before = kept.stat().st_mtime_ns
    (kept_in / "ablation-d5-harmonic-embedding-seed0.json").unlink()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert kept.stat().st_mtime_ns == before
    table = first.stdout[first.stdout.index("| corpus") : first.stdout.index("| change")]
    assert table in second.stdout
