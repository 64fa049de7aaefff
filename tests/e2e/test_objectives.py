"""From texts to an encoder, from it to a classifier, and to what others load: the commands."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

from tests.conftest import SmallCorpus
from tests.e2e.commands import pretrain_on_two_ranks, resonance
from tests.labelled import labelled_texts
from tests.losses import losses

ENCODER = 'causal = false\n[objective]\nkind = "masked_token"\nmask_span = 2'
CLASSIFIER = 'causal = false\nclasses = 3\n[objective]\nkind = "classify"'
# the mask needs a row
SIZE = 513


def _run_file(corpus: SmallCorpus, path: Path, kind: str, **train: object) -> Path:
    corpus.run_file(path, model=kind, workers=0, **train)
    path.write_text(path.read_text().replace("vocab_size = 512", f"vocab_size = {SIZE}"))
    return path


@pytest.fixture(scope="module")
def encoder(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an encoder that two ranks trained."""
    folder = tmp_path_factory.mktemp("encoder")
    run_file = _run_file(small_corpus, folder / "run.toml", ENCODER)
    pretrain_on_two_ranks(run_file, "--checkpoint.every", "3")
    return folder / "run"


@pytest.fixture(scope="module")
def classifier(
    encoder: Path, small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The directory of a classifier that was trained from the encoder, and the command's output."""
    folder = tmp_path_factory.mktemp("classifier")
    built = labelled_texts(folder / "labelled", small_corpus)
    file = _run_file(small_corpus, folder / "run.toml", CLASSIFIER, steps=40, validate_every=20)
    text = file.read_text().replace(str(small_corpus.train), str(built / "train"))
    file.write_text(text.replace(str(small_corpus.valid), str(built / "valid")))
    output = resonance("pretrain", file, "--from", encoder, "--optim.learning-rate", "0.01")
    return folder / "run", output


def test_an_encoder_is_measured_and_resumes(encoder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(encoder, copy)
    newest = sorted((copy / "checkpoints").iterdir())[-1]
    whole = losses(copy)
    shutil.rmtree(newest)
    run_file = tmp_path / "run.toml"
    text = (newest.parent.parent / "run.toml").read_text()
    run_file.write_text(re.sub(r'output = ".*"', f'output = "{copy}"', text, count=1))
    resonance("pretrain", run_file, "--resume")
    # on one rank, after two
    assert losses(copy)[-1].valid_loss == pytest.approx(whole[-1].valid_loss, rel=1e-5)
    output = resonance("evaluate", encoder)
    loss, right = re.search(
        r"tokens: ([\d.]+) nats/token.* ([\d.]+) predicted right", output
    ).groups()
    records = [json.loads(line) for line in (encoder / "metrics.jsonl").read_text().splitlines()]
    valid = [record["valid_loss"] for record in records if "valid_loss" in record]
    assert float(loss) == pytest.approx(valid[-1], abs=1e-4)
    assert 0.0 <= float(right) < 1.0


def test_a_classifier_begins_with_the_encoder_and_learns(classifier: tuple[Path, str]) -> None:
    run, output = classifier
    (line,) = [line for line in output.splitlines() if "are read from it" in line]
    assert line.endswith("initialised, since it lacks them: head.proj.weight, head.proj.bias")
    output = resonance("evaluate", run)
    found = json.loads((run / "evaluation.json").read_text())
    assert found["accuracy"] > 0.9 > found["most_frequent"]
    assert f"accuracy {found['accuracy']:.4f}" in output
    assert set(found["f1"]) == {"0", "1", "2"}
    assert (run / "confusion.png").read_bytes().startswith(b"\x89PNG")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    valid = [record["valid_accuracy"] for record in records if "valid_accuracy" in record]
    assert found["accuracy"] == pytest.approx(valid[-1])


def test_vectors_and_exports_agree(
    encoder: Path, classifier: tuple[Path, str], tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoTokenizer, pipeline

    texts = ["the first text", "another one that is a little longer", "x"]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    vectors = tmp_path / "vectors.parquet"
    resonance("embed", encoder, "--inputs", file, "--output", vectors)
    table = parquet.read_table(vectors)
    assert table["number"].to_pylist() == [0, 1, 2]
    folder, classes = tmp_path / "encoder", tmp_path / "classes"
    assert "same token ids" in resonance("checkpoint", "export", encoder, folder)
    resonance("checkpoint", "export", classifier[0], classes)
    again = tmp_path / "again.parquet"
    resonance("embed", folder, "--inputs", file, "--output", again, "--batch-size", 1)
    np.testing.assert_allclose(
        np.stack(parquet.read_table(again)["vector"].to_pylist()),
        np.stack(table["vector"].to_pylist()),
        atol=1e-5,
    )
    options = {"trust_remote_code": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    model = AutoModel.from_pretrained(folder, **options)
    with torch.no_grad():
        pooled = model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output
    np.testing.assert_allclose(pooled, np.stack(table["vector"].to_pylist()), atol=1e-5)
    (filled, *_) = pipeline("fill-mask", str(folder), **options)(f"def {tokenizer.mask_token}(x)")
    assert filled["token"] < SIZE
    features = pipeline("feature-extraction", str(folder), **options)("the first text")
    assert np.array(features).shape[-1] == 32
    label = pipeline("text-classification", str(classes), **options)
    assert label("4 word green and and")[0]["label"] == "1"


BAD = {
    "no classes": ('causal = false\n[objective]\nkind = "classify"', "model.classes is 0"),
    "causal masks": ('[objective]\nkind = "masked_token"', "model.causal must be false"),
    "texts": (CLASSIFIER, "holds texts; expected labelled for objective.kind classify"),
    "no row for the mask": (ENCODER, "the tokenizer's 512 and one for the mask"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_learned_is_refused(
    name: str, small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    kind, message = BAD[name]
    file = small_corpus.run_file(tmp_path / "run.toml", model=kind)
    output = resonance("pretrain", file, status=1)
    assert message in output
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_labels_that_do_not_fit_are_refused(
    classifier: tuple[Path, str], small_corpus: SmallCorpus, tmp_path: Path
) -> None:
    run_file = classifier[0].parent / "run.toml"
    output = resonance(
        "pretrain", run_file, "--model.classes", 4, "--train.output", tmp_path, status=1
    )
    assert "model.classes is 4; expected 3, the labels of" in output
    output = resonance("evaluate", classifier[0], "--data", small_corpus.valid, status=1)
    assert "expected" in output


def test_sentence_transformers_loads_an_encoder(encoder: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder, file, vectors = (tmp_path / name for name in ("folder", "a.jsonl", "a.parquet"))
    resonance("checkpoint", "export", encoder, folder)
    file.write_text(json.dumps({"text": "a text"}) + "\n")
    resonance("embed", encoder, "--inputs", file, "--output", vectors)
    model = library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    (expected,) = parquet.read_table(vectors)["vector"].to_pylist()
    np.testing.assert_allclose(model.encode(["a text"])[0], expected, atol=1e-5)
