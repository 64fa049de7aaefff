"""The proof of an export notices a folder whose code loses states between chunks."""

from pathlib import Path

import pytest

from data_pipeline.tokenizer import load_tokenizer
from pretrain.errors import RunError
from pretrain.huggingface.export import observe, probe_length, prove, write_folder
from pretrain.huggingface.source_bundle import bundled_sources
from spectral.config import ModelConfig
from spectral.lm import SpectralLM

# a line that carries a state to the next chunk, and one that carries nothing older
DECAY = (
    {},
    (
        "torch.addcmul(update_BNF, decay_BN1, views[j], out=views[j + 1])",
        "views[j + 1].copy_(update_BNF)",
    ),
)
DELTA = (
    {"recall_rule": "delta", "recall_phase": "data", "recall_bias": True},
    (
        "state_BHKV = transition_BHKK @ state_BHKV + update_BHKV",
        "state_BHKV = update_BHKV",
    ),
)


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


def _lossy_sources(line: str, lossy: str) -> dict[str, str]:
    """The exported code with a scan whose states reach the next chunk and none after it."""
    sources = bundled_sources()
    assert any(line in text for text in sources.values())
    return {
        name: text.replace(line, lossy).replace("resonance_", "lossy_")
        if name.startswith("kernels")
        else text
        for name, text in sources.items()
    }


@pytest.mark.parametrize(("changes", "lines"), [DECAY, DELTA], ids=["decay", "delta"])
def test_states_lost_between_chunks_are_noticed(
    changes: dict[str, object],
    lines: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, tokenizer = SpectralLM(_config(**changes)).eval(), load_tokenizer("byte")
    write_folder(tmp_path / "exported", model, tokenizer)
    expected = observe(model, tokenizer)
    assert prove(expected, tokenizer, tmp_path / "exported").max_logit_error < 1e-4
    monkeypatch.setattr(
        "pretrain.huggingface.export.bundled_sources", lambda: _lossy_sources(*lines)
    )
    write_folder(tmp_path / "lossy", model, tokenizer)
    with pytest.raises(RunError, match="logits differ"):
        prove(expected, tokenizer, tmp_path / "lossy")
