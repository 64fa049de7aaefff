"""Files of the tokenizer in a checkpoint: what it is loaded from, and no weights."""

from pathlib import Path

import pytest

from data_pipeline.tokenizer import load_tokenizer
from pretrain.checkpoint.catalog import tokenizer_path
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.save import Saver
from pretrain.config import RunConfig
from tests.tokenizers_in_use import save_folder, save_model


@pytest.mark.parametrize("kind", ["tokenizer.json", "tokenizer.model", "file"])
def test_only_the_tokenizer_goes_into_a_checkpoint(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(1_000_000))
    (folder / ".git").mkdir()
    if kind == "tokenizer.json":
        source = save_folder("unigram", folder)
    else:
        source = save_model("t5", folder).rename(folder / "tokenizer.model")
        source = source if kind == "file" else folder
    tokenizer = load_tokenizer(source)
    run = RunConfig.model_validate({"train": {"output": tmp_path}})
    saver = object.__new__(Saver)
    saver.run, saver.tokenizer = run, Path(tokenizer.path)
    saver._retention = Retention(run, print)
    partial, checkpoint = tmp_path / ".partial", tmp_path / "step-1"
    partial.mkdir()
    saver._complete(partial, checkpoint, {}, {})
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 500_000
    names = {"tokenizer.json", "tokenizer_config.json"} & {path.name for path in files}
    assert len(names) == (2 if kind == "tokenizer.json" else 0)
    again = load_tokenizer(tokenizer_path(checkpoint))
    assert again.fingerprint == tokenizer.fingerprint
    assert again.eos_id == tokenizer.eos_id
