"""The commands of docs/tutorial.md, exactly as they stand there, in an empty directory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.commands import ENVIRONMENT

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The tutorial's: this interpreter as `python`, this tree as `resonance`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, module in {"python": "", "resonance": "-m pretrain.cli"}.items():
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', encoding="utf-8")
        script.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return ENVIRONMENT | {"PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.mark.timeout(600)
def test_every_command_of_the_tutorial(tmp_path: Path, environment: dict[str, str]) -> None:
    commands = BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))
    assert len(commands) == 11, "the tutorial promises eleven"
    folder = tmp_path / "work"
    folder.mkdir()
    printed = ""
    for command in commands:
        result = subprocess.run(
            ["sh", "-e"],
            input=command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        printed = result.stdout
        assert result.returncode == 0, f"{command}\n{printed}{result.stderr}"
    # the last one is a continuation, by transformers
    assert printed.startswith("The class statement")
    assert len(printed.strip()) > len("The class statement")
    evaluation = json.loads((folder / "runs/texts/evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["losses"]["model"] < evaluation["losses"]["unigram"]
