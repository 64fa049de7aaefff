"""A run file, and a cluster's commands as stand-ins."""

from pathlib import Path

import pytest

from tests.conftest import SmallCorpus
from tests.unit.launch.stand_ins import PROGRAMS, write


@pytest.fixture
def run_file(small_corpus: SmallCorpus, tmp_path: Path) -> Path:
    return small_corpus.run_file(tmp_path / "run.toml")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first in the PATH, and a log of the commands in it that were called."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        write(folder, name, text)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder
