"""The quality benchmark goes through all its stages, resumes, and is fair by construction."""

import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quality.py"


@pytest.mark.slow
def test_every_stage_runs_once_and_is_kept(tmp_path: Path) -> None:
    sources = sorted(Path(json.__file__).parent.glob("*.py"))
    sources += sorted(Path(json.__file__).parents[1].glob("a*.py"))
    for split in ("train", "valid"):
        with lzma.open(tmp_path / f"small.{split}.jsonl.xz", "wt", encoding="utf-8") as file:
            for source in sources:
                file.write(json.dumps({"text": source.read_text(encoding="utf-8")}) + "\n")
    command = [sys.executable, SCRIPT, "--data", tmp_path, "--corpora", "small", "--workers", "2"]
    command += ["--budget", "smoke", "--output", tmp_path / "out"]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == int("falls short" in first.stdout), first.stderr
    results = json.loads((tmp_path / "out" / "smoke" / "results.json").read_text())
    assert "ablation-plain-seed1" in results
    found = results["ablation-plain-seed0"]
    assert {"commit", "machine", "valid_loss", "recalled_loss"} <= set(found)
    sizes = {
        kind: results[f"mqar-64-4-{kind}-lr0.001"]["num_parameters"]
        for kind in ("spectral", "transformer")
    }
    assert sizes["transformer"] == pytest.approx(sizes["spectral"], rel=0.02)
    assert (tmp_path / "out" / "smoke" / "curves.png").stat().st_size > 1_000
    # a second start trains only what is missing
    kept = tmp_path / "out" / "smoke" / "ablation-plain-seed0.json"
    before = kept.stat().st_mtime_ns
    (tmp_path / "out" / "smoke" / "ablation-d5-harmonic-embedding-seed0.json").unlink()
    second = subprocess.run(command, capture_output=True, text=True)
    assert kept.stat().st_mtime_ns == before
    table = first.stdout[first.stdout.index("| corpus") : first.stdout.index("| change")]
    assert table in second.stdout
