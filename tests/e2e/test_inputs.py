"""What a run needs breaks or differs: a shard is cut short in the middle, a machine is another."""

import copy
import os
import shutil
import socket
from pathlib import Path

import pytest

from launch.torchrun import GIVE_UP_STATUS
from launch.versions import versions
from tests.conftest import SmallCorpus
from tests.e2e.runs import Run
from tests.losses import Step

pytestmark = pytest.mark.system


@pytest.fixture
def shard(small_corpus: SmallCorpus, tmp_path: Path) -> Path:
    """The one shard of a copy of the training split."""
    shutil.copytree(small_corpus.train, tmp_path / "train")
    (shard,) = (tmp_path / "train").glob("*.tar")
    return shard


def _reading(small_corpus: SmallCorpus, shard: Path) -> SmallCorpus:
    corpus = copy.copy(small_corpus)
    corpus.train = shard.parent
    return corpus


def test_a_shard_that_is_cut_short_is_named_and_a_repaired_one_read_on(
    small_corpus: SmallCorpus, shard: Path, tmp_path: Path, undisturbed: list[Step]
) -> None:
    run = Run(_reading(small_corpus, shard), tmp_path)
    whole = shard.read_bytes()
    # the reader that has it open names it, and so does the one that opens it anew
    run.start(restarts=1)
    run.wait_until(lambda: run.step() >= 4)
    os.truncate(shard, len(whole) // 2)
    assert run.end() == 1, run.printed()
    assert "it was cut short while it was being read" in run.printed()
    damage = f"{shard}: {len(whole) // 2} bytes; expected {len(whole)} by the manifest"
    assert damage in run.printed()
    shard.write_bytes(whole)
    run.start()
    assert run.end() == 0, run.printed()
    assert run.losses() == undisturbed


def test_a_shard_that_is_cut_short_is_masked_if_it_may_be(
    small_corpus: SmallCorpus, shard: Path, tmp_path: Path
) -> None:
    run = Run(small_corpus, tmp_path, steps=6)
    # it is half of the training data, and all that is held out
    first = f'{{ path = "{small_corpus.train}" }}'
    text = run.file.read_text().replace(str(small_corpus.valid), str(shard.parent))
    run.file.write_text(text.replace(first, f'{first}, {{ path = "{shard.parent}" }}'))
    os.truncate(shard, 1000)
    run.start("--data.on-corrupt-shard", "skip")
    assert run.end() == 0, run.printed()
    assert f"its tokens are masked: {shard}: 1000 bytes" in run.printed()
    assert len([record for record in run.losses() if record.loss is not None]) == 6


def test_other_versions_on_a_machine_end_the_run_before_it_begins(
    small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run = Run(small_corpus, tmp_path)
    run.start(fault="other versions")
    assert run.end() == GIVE_UP_STATUS, run.printed()
    assert (
        run.printed().count(
            f"versions differ from {socket.gethostname()}'s: other: torch 1.0; expected "
            f"{versions()['torch']}. To do: install Resonance on a disk that all nodes share"
        )
        == 1
    )
    assert not run.output.exists()
