"""`resonance checkpoint verify`, `inspect` and `fetch`, on checkpoints that were tampered with."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pretrain.checkpoint.manifest import MANIFEST, seal
from tests.conftest import SmallCorpus
from tests.e2e.commands import ENVIRONMENT, files_below, pretrain_on_two_ranks, resonance
from tests.object_store import STORE_ENVIRONMENT, object_store


@pytest.fixture(scope="module")
def finished(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a finished run of two ranks."""
    folder = tmp_path_factory.mktemp("finished")
    run_file = small_corpus.run_file(folder / "run.toml", workers=0, steps=3)
    pretrain_on_two_ranks(run_file)
    return run_file.parent / "run" / "checkpoints" / "step-0000003"


@pytest.fixture
def checkpoint(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "step-0000003"))


def _reseal(checkpoint: Path) -> None:
    """Make the hashes right again, as whoever tampers would."""
    (checkpoint / MANIFEST).unlink()
    seal(checkpoint, {})


def test_a_sound_checkpoint(checkpoint: Path) -> None:
    assert "files have their SHA-256, each element of 37,508 parameters" in resonance(
        "checkpoint", "verify", checkpoint, fresh=True
    )
    printed = resonance("checkpoint", "inspect", checkpoint, fresh=True)
    assert "step  3" in printed
    assert "in_proj" in printed
    assert "[128, 32]  4,096 in 2 pieces" in printed


def _other_step(checkpoint: Path) -> None:
    state = json.loads((checkpoint / "state.json").read_text())
    state["schedule"]["steps"] = 2
    state["data"]["step"] = 1
    (checkpoint / "state.json").write_text(json.dumps(state))


def _lost_piece(checkpoint: Path) -> None:
    index = json.loads((checkpoint / "tensors" / "index.json").read_text())
    del index["value/blocks.0.mixer.in_proj.weight"]["pieces"][0]
    (checkpoint / "tensors" / "index.json").write_text(json.dumps(index))


def _half_twice(checkpoint: Path) -> None:
    """Half of an optimizer state is there twice, and the other half is not: the sum is right."""
    index_file = checkpoint / "tensors" / "index.json"
    index = json.loads(index_file.read_text())
    (piece,) = index["exp_avg/embedding.weight"]["pieces"]
    assert piece[1] == [512, 32]
    half = [[0, 0], [256, 32], *piece[2:]]
    index["exp_avg/embedding.weight"]["pieces"] = [half, half]
    index_file.write_text(json.dumps(index))


def _lost_shard(checkpoint: Path) -> None:
    (checkpoint / "tensors" / "__1_0.distcp").unlink()


def _other_model(checkpoint: Path) -> None:
    run = (checkpoint / "run.toml").read_text()
    (checkpoint / "run.toml").write_text(run.replace("ffn_dim = 48", "ffn_dim = 64"))


def _other_values(checkpoint: Path) -> None:
    """A byte of a parameter, in the middle of its file."""
    shard = checkpoint / "tensors" / "__0_0.distcp"
    index = json.loads((checkpoint / "tensors" / "index.json").read_text())
    for _, _, file, offset, length in index["value/embedding.weight"]["pieces"]:
        shard = checkpoint / "tensors" / file
        data = bytearray(shard.read_bytes())
        # the exponent of a number in the middle
        at = offset + (length // 8) * 4 + 3
        data[at] ^= 2
        shard.write_bytes(data)


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


def _pickled_code(checkpoint: Path) -> None:
    index_file = checkpoint / "tensors" / "index.json"
    index = json.loads(index_file.read_text())
    entry = index["value/final_norm.weight"]["pieces"][0]
    data = pickle.dumps(_Evil(), protocol=2)
    (checkpoint / "tensors" / "evil.distcp").write_bytes(data)
    entry[2:] = ["evil.distcp", 0, len(data)]
    index_file.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (_other_step, "the schedule is at 2; expected step 3; state.json: 1 steps of data were"),
        (_lost_piece, "value/blocks.0.mixer.in_proj.weight: its pieces have"),
        (_half_twice, "exp_avg/embedding.weight: the pieces at [0, 0] and [0, 0] overlap"),
        (_lost_shard, "__1_0.distcp: no such shard"),
        (_other_model, "expected (128, 32)"),
        (_other_values, "differs from its certificate: "),
        (_pickled_code, "cannot be read"),
    ],
)
def test_tampering_is_found_behind_right_hashes(
    tamper: Callable[[Path], None],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "evil"))
    tamper(checkpoint)
    assert "resonance checkpoint verify: " in resonance(
        "checkpoint", "verify", checkpoint, status=1
    )
    _reseal(checkpoint)
    printed = resonance("checkpoint", "verify", checkpoint, status=1)
    assert message in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "evil").exists()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket's endpoint."""
    with object_store("runs", monkeypatch) as endpoint:
        for name, value in STORE_ENVIRONMENT.items():
            monkeypatch.setitem(ENVIRONMENT, name, value)
        yield endpoint


def test_a_run_goes_on_from_a_bucket_on_another_machine(
    bucket: str, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    remote = ["--checkpoint.remote", "s3://runs/one", "--data.storage.endpoint-url", bucket]
    run_file = small_corpus.run_file(tmp_path / "run.toml", workers=0, steps=3)
    command = ["pretrain", run_file, *remote]
    run = tmp_path / "run"
    resonance(*command)
    shutil.rmtree(run)
    again = resonance(*command, status=1)
    assert "checkpoint.remote already holds s3://runs/one/step-0000003" in again
    printed = resonance(*command, "--resume", "--train.steps", "6")
    assert f"resumed from {run / 'checkpoints' / 'step-0000003'}" in printed
    resonance(
        "checkpoint", "fetch", "s3://runs/one", tmp_path / "got", "--storage.endpoint-url", bucket
    )
    newest = run / "checkpoints" / "step-0000006"
    assert files_below(tmp_path / "got") == {f"step-0000006/{f}" for f in files_below(newest)}


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (lambda _: False, "manifest.json: it lists no files; expected those of a checkpoint"),
        (lambda name: name != "state.json", "state.json: not in manifest.json: its SHA-256 is"),
    ],
)
def test_a_manifest_without_files_is_no_proof(
    listed: Callable[[str], bool], message: str, checkpoint: Path
) -> None:
    file = checkpoint / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["files"] = {name: e for name, e in manifest["files"].items() if listed(name)}
    file.write_text(json.dumps(manifest))
    assert message in resonance("checkpoint", "verify", checkpoint, status=1)


def test_results_are_printed_when_they_cannot_be_stored(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "evaluation.json").mkdir()
    printed = resonance("evaluate", checkpoint, "--no-baselines")
    assert "nats/token" in printed
    assert "evaluation.json: cannot write (Is a directory)" in printed
    assert "The result is not stored." in printed
    assert "same command" not in printed
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("import\n")
    flags = ("--prompts", prompts, "--output", tmp_path / "none" / "out.jsonl", "--max-tokens", 2)
    printed = resonance("generate", checkpoint, *flags, status=1)
    assert '"prompt": "import"' in printed
    assert "out.jsonl: cannot write" in printed


def test_an_export_leaves_folders_beside_it_alone(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("model_partial", ".model.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
    before = {path.name for path in tmp_path.iterdir()}
    resonance("checkpoint", "export", checkpoint, tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {*before, "model"}
    assert (tmp_path / "model_partial" / "mine").exists()
    assert (tmp_path / "model" / "config.json").is_file()
