"""The proof of an export notices a folder whose code loses states between chunks."""

from pathlib import Path

import pytest

from data_pipeline.tokenizer import load_tokenizer
from pretrain.errors import RunError
from pretrain.huggingface.export import observe, probe_length, prove, write_folder
from pretrain.huggingface.source_bundle import bundled_sources
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

SCAN = "torch.addcmul(update_BNF, decay_BN1, views[j], out=views[j + 1])"


def _config(**changes: object) -> ModelConfig:
    sizes = {"vocab_size": 384, "dim": 32, "num_layers": 2, "num_heads": 2, "ffn_dim": 48}
    chunks = {"conv_chunk": 16, "recall_chunk": 16}
    return ModelConfig.model_validate(sizes | chunks | changes)


@pytest.mark.parametrize(
    "changes", [{}, {"mixers": ("fft",), "fft": {"chunk": 32}}], ids=["heads", "fft"]
)
def test_the_probe_has_several_chunks_and_an_odd_length(changes: dict[str, object]) -> None:
    length = probe_length(_config(**changes))
    chunk = 32 if changes else 16
    assert length % 2 == 1
    assert length > 2 * chunk
    assert length % chunk


def _lossy_sources() -> dict[str, str]:
    """The exported code with a scan whose states reach the next chunk and none after it."""
    sources = bundled_sources()
    assert SCAN in sources["kernels_state_scan_reference.py"]
    return {
        name: text.replace(SCAN, "views[j + 1].copy_(update_BNF)").replace("resonance_", "lossy_")
        if name.startswith("kernels")
        else text
        for name, text in sources.items()
    }


def test_states_lost_between_chunks_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = SpectralLM(_config()).eval(), load_tokenizer("byte")
    write_folder(tmp_path / "exported", model, tokenizer, 64)
    expected = observe(model, tokenizer)
    assert prove(expected, tokenizer, tmp_path / "exported").max_logit_error < 1e-4
    monkeypatch.setattr("pretrain.huggingface.export.bundled_sources", _lossy_sources)
    write_folder(tmp_path / "lossy", model, tokenizer, 64)
    with pytest.raises(RunError, match="logits differ"):
        prove(expected, tokenizer, tmp_path / "lossy")
