"""Export of encoders and classifiers to a Hugging Face folder, with a proof of equal output."""

from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from data_pipeline.tokenizer import Tokenizer
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.huggingface.configuration_resonance import ResonanceConfig
from pretrain.huggingface.load import import_model
from pretrain.huggingface.modeling_resonance_encoder import (
    ResonanceForMaskedLM,
    ResonanceForSequenceClassification,
)
from pretrain.huggingface.source_bundle import bundled_sources
from pretrain.huggingface.tokenizer import huggingface_tokenizer
from pretrain.huggingface.wrap import config_of
from pretrain.objectives.masked_token import mask_id
from spectral.classifier import SpectralClassifier
from spectral.config import ModelConfig
from spectral.encoder import SpectralEncoder

ENTRY = "modeling_resonance_encoder"
MASK = "<mask>"
# float32 sums in another order, for numbers of the order of 10
MAX_ERROR = 1e-4
MAX_SHARD = "5GB"
PROBE_TOKENS = 131
PROBE_TEXTS = ('def main(argv):\n    """Return 0.  Naïve π ≈ 3.14."""\n\treturn 0\n', " a  b ", "x")


class EncoderProof(NamedTuple):
    """Largest differences of an exported folder's output from the trained model's.

    Attributes:
        classes: Labels of a classifier; 0 of an encoder.
        max_logit_error: Of the logits of tokens, or of labels.
        max_vector_error: Of the pooled vectors.
    """

    classes: int
    max_logit_error: float
    max_vector_error: float

    def __str__(self) -> str:
        logits = f"logits of {self.classes} labels" if self.classes else "logits of tokens"
        return (
            f"loaded back through transformers: {logits} differ by at most "
            f"{self.max_logit_error:.1e}, pooled vectors by {self.max_vector_error:.1e}, same "
            "token ids"
        )


def is_encoder(config: ModelConfig) -> bool:
    """Whether a model is exported as an encoder or a classifier."""
    return not config.causal or config.classes > 0


def export_encoder(
    folder: Path,
    model: SpectralEncoder,
    tokenizer: Tokenizer,
    run: RunConfig,
    training: list[str],
    license_id: str,
) -> EncoderProof:
    """Write a folder, load it back and compare.

    Args:
        folder: New folder.
        model: The model.
        tokenizer: Its tokenizer.
        run: Run that trained it.
        training: Facts of the training for the card.
        license_id: Licence of the weights as the Hub spells it.

    Raises:
        RunError: Output or token ids differ.
    """
    wrapped = wrap_encoder(model, tokenizer, run)
    wrapped.save_pretrained(folder, max_shard_size=MAX_SHARD)
    for name, text in bundled_sources(f"pretrain.huggingface.{ENTRY}").items():
        (folder / name).write_text(text, encoding="utf-8")
    exported = encoder_tokenizer(tokenizer, run.model)
    exported.save_pretrained(folder)
    proof = _prove(model, folder)
    _prove_tokenizer(tokenizer, run.model, folder)
    (folder / "README.md").write_text(
        _card(run, tokenizer, proof, training, license_id), encoding="utf-8"
    )
    return proof


def encoder_config(model: SpectralEncoder, tokenizer: Tokenizer, run: RunConfig) -> ResonanceConfig:
    """The exported configuration of an encoder or a classifier."""
    config = config_of(model, tokenizer)
    classes = {
        "AutoModel": "ResonanceEncoderModel",
        "AutoModelForMaskedLM": ResonanceForMaskedLM.__name__,
        "AutoModelForSequenceClassification": ResonanceForSequenceClassification.__name__,
    }
    if model.config.classes:
        del classes["AutoModelForMaskedLM"]
        names = run.objective.labels or tuple(map(str, range(model.config.classes)))
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
        several = model.config.multi_label
        config.problem_type = f"{'multi' if several else 'single'}_label_classification"
    config.architectures = [_class_of(model.config).__name__]
    config.auto_map = {"AutoConfig": "configuration_resonance.ResonanceConfig"} | {
        auto: f"{ENTRY}.{name}" for auto, name in classes.items()
    }
    return config


def _class_of(config: ModelConfig) -> Any:
    return ResonanceForSequenceClassification if config.classes else ResonanceForMaskedLM


def wrap_encoder(model: SpectralEncoder, tokenizer: Tokenizer, run: RunConfig) -> Any:
    """A model that shares its parameters, under transformers' interface, in evaluation mode."""
    with torch.device("meta"):
        wrapped = _class_of(model.config)(encoder_config(model, tokenizer, run))
    wrapped.model.adopt(model)
    if isinstance(model, SpectralClassifier):
        wrapped.head = model.head
    wrapped.tie_weights()
    return wrapped.eval()


def encoder_tokenizer(tokenizer: Tokenizer, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The transformers form of a tokenizer: BOS, text, EOS, as in training, and the mask.

    Raises:
        RunError: The mask gets another id than in training.
    """
    exported = huggingface_tokenizer(tokenizer)
    exported.padding_side = "right"
    if isinstance(exported, PreTrainedTokenizerFast):
        bos, eos = str(exported.bos_token), str(exported.eos_token)
        exported.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A {eos}",
            pair=f"{bos} $A {eos} {bos} $B {eos}",
            special_tokens=[(bos, tokenizer.bos_id), (eos, tokenizer.eos_id)],
        )
    else:
        exported.append_eos = exported.init_kwargs["append_eos"] = True
    if config.vocab_size > (expected := mask_id(tokenizer.vocab_size)):
        exported.add_special_tokens({"mask_token": MASK})
        if exported.mask_token_id != expected:
            raise RunError(
                f"{tokenizer.path}: transformers gives {MASK} the id {exported.mask_token_id}; "
                f"expected {expected}, as in training"
            )
    return exported


@torch.no_grad()
def _prove(model: SpectralEncoder, folder: Path) -> EncoderProof:
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(model.config.vocab_size, (2, PROBE_TOKENS), generator=generator)
    expected = _first(model(probe), model.config)
    again = cast(SpectralEncoder, import_model(folder))
    if not torch.equal(_first(again(probe), model.config), expected):
        raise RunError(f"{folder}: the model that is imported back has other logits")
    auto = AutoModelForSequenceClassification if model.config.classes else AutoModelForMaskedLM
    loaded = auto.from_pretrained(folder, trust_remote_code=True)
    # padding, of which the output must not depend
    padded = torch.nn.functional.pad(probe, (0, 7))
    mask = torch.nn.functional.pad(torch.ones_like(probe), (0, 7))
    logits = loaded(padded, attention_mask=mask).logits
    if not model.config.classes:
        logits = logits[:, :PROBE_TOKENS]
    base = AutoModel.from_pretrained(folder, trust_remote_code=True)
    vectors = base(padded, attention_mask=mask).pooler_output
    proof = EncoderProof(
        model.config.classes,
        float((logits - expected).abs().max()),
        float((vectors - model.pooled(probe)[:, 0]).abs().max()),
    )
    # written so that NaN counts as a difference
    if not max(proof.max_logit_error, proof.max_vector_error) <= MAX_ERROR:
        raise RunError(f"{folder}: {proof}; expected at most {MAX_ERROR:.0e}")
    return proof


def _first(logits: Any, config: ModelConfig) -> Tensor:
    """Logits of the tokens, or of the only document of each row."""
    return cast(Tensor, logits)[:, 0] if config.classes else cast(Tensor, logits)


def _prove_tokenizer(tokenizer: Tokenizer, config: ModelConfig, folder: Path) -> None:
    exported = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    for text in PROBE_TEXTS:
        expected = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
        if (found := exported.encode(text)) != expected:
            raise RunError(
                f"{folder}: the exported tokenizer gives {found[:8]}... for {text[:40]!r}; "
                f"expected {expected[:8]}..., as in training"
            )
    if config.vocab_size > mask_id(tokenizer.vocab_size):
        found = exported.encode(MASK)
        if found != (
            expected := [tokenizer.bos_id, mask_id(tokenizer.vocab_size), tokenizer.eos_id]
        ):
            raise RunError(f"{folder}: the mask is {found}; expected {expected}, as in training")


def _card(
    run: RunConfig, tokenizer: Tokenizer, proof: EncoderProof, training: list[str], license_id: str
) -> str:
    classes = run.model.classes
    task = "text-classification" if classes else "fill-mask"
    auto = "AutoModelForSequenceClassification" if classes else "AutoModelForMaskedLM"
    facts = "\n".join(f"- {line}" for line in training)
    what = f"classifier of {classes} labels" if classes else "bidirectional encoder"
    return f"""---
library_name: transformers
license: {license_id}
pipeline_tag: {task}
---
# A spectral {what}

No attention: time and memory grow linearly with the length. Trained with Resonance.

```python
from transformers import AutoModel, {auto}, pipeline

run = pipeline("{task}", FOLDER, trust_remote_code=True)
vectors = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)  # .pooler_output
```

A text is BOS (id {tokenizer.bos_id}), its tokens, EOS (id {tokenizer.eos_id}); its vector is the
{run.model.pooling} of the hidden states (`pooling` in config.json).

## Training

{facts}

## Proof

Compared with the trained model when it was exported, in float32: {proof}.
"""
