"""What is exported: tokenizers with the same ids, code that is our own files."""

import ast
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from data_pipeline.build.train_tokenizer import train_tokenizer
from data_pipeline.config import TokenizerTrainConfig
from data_pipeline.tokenizer import Tokenizer, load_tokenizer
from pretrain.huggingface.source_bundle import bundled_sources
from pretrain.huggingface.tokenizer import huggingface_tokenizer

SOURCES = sorted(Path(json.__file__).parent.glob("*.py"))


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return huggingface_tokenizer(tokenizer)


@pytest.fixture(scope="module", params=["bpe", "unigram", "byte"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    if request.param == "byte":
        return load_tokenizer("byte")
    config = TokenizerTrainConfig(
        inputs=tuple(map(str, SOURCES)),
        output=str(tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"),
        vocab_size=600,
        model_type=request.param,
    )
    return load_tokenizer(train_tokenizer(config))


def test_real_text_gets_the_same_ids(tokenizer: Tokenizer, fast: PreTrainedTokenizerFast) -> None:
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        ids = [tokenizer.bos_id, *tokenizer.encode(text)]
        assert fast.encode(text) == ids
        assert fast.decode(ids, skip_special_tokens=True) == text
    assert (fast.bos_token_id, fast.eos_token_id) == (tokenizer.bos_id, tokenizer.eos_id)


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_any_text_gets_the_same_ids(
    tokenizer: Tokenizer, fast: PreTrainedTokenizerFast, text: str
) -> None:
    # training takes names of control tokens for text
    ids = fast.encode(text, split_special_tokens=True)
    assert ids == [tokenizer.bos_id, *tokenizer.encode(text)]


@settings(deadline=None, max_examples=200)
@given(ids=st.lists(st.integers(0, 258), max_size=20))
def test_any_ids_get_the_same_text(
    tokenizer: Tokenizer, fast: PreTrainedTokenizerFast, ids: list[int]
) -> None:
    """As an untrained model writes them: special tokens and bytes in any order."""
    text = tokenizer.decode(ids)
    # transformers gives up a whole run of SentencePiece's bytes for one that is not UTF-8
    if tokenizer.kind == "byte" or "\ufffd" not in text:
        assert fast.decode(ids, skip_special_tokens=True) == text


def test_bundled_code_imports_nothing_of_ours_and_is_otherwise_unchanged() -> None:
    sources = bundled_sources()
    assert {"modeling_resonance.py", "spectral_backbone.py", "kernels_fft_conv_op.py"} <= set(
        sources
    )
    for name, text in sources.items():
        for node in ast.walk(ast.parse(text)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
                if node.level == 1:
                    assert f"{node.module}.py" in sources, name
            for module in modules:
                own = ("kernels.", "spectral.", "pretrain.", "data_pipeline.", "pydantic")
                assert not module.startswith(own), name
    original = (Path(__file__).parents[4] / "spectral/filters/modal.py").read_text(encoding="utf-8")

    def kept(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith("from ")]

    assert kept(sources["spectral_filters_modal.py"]) == kept(original)
