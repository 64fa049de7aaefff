"""Export of a checkpoint to a Hugging Face folder, with a proof that its output is equal."""

import json
import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_pipeline.tokenizer import Tokenizer, load_tokenizer
from pretrain.checkpoint.catalog import tokenizer_path
from pretrain.checkpoint.load import load_model
from pretrain.commands import ExportCommand
from pretrain.errors import RunError
from pretrain.huggingface.load import import_model
from pretrain.huggingface.source_bundle import bundled_sources
from pretrain.huggingface.tokenizer import huggingface_tokenizer
from pretrain.huggingface.wrap import wrap
from spectral.config import ModelConfig
from spectral.decoding import greedy_tokens
from spectral.lm import SpectralLM

# float32 sums in another order, for logits of the order of 10
MAX_LOGIT_ERROR = 1e-4
# new tokens of the greedy comparison
PROBE_TOKENS = 64
PROBE_TEXT = 'def main(argv):\n    """Return 0.  Naïve π ≈ 3.14. </s>"""\n\treturn 0\n'


class Proof(NamedTuple):
    """Result of the comparison of an exported folder with the training model.

    Attributes:
        max_logit_error: Largest difference of logits.
        probe_tokens: Length of the two rows whose logits are compared.
        greedy_tokens: Number of greedily generated tokens, all of which are equal.
        same_ids: Whether the tokenizers give the same ids.
    """

    max_logit_error: float
    probe_tokens: int
    greedy_tokens: int
    same_ids: bool


class ExportReport(NamedTuple):
    """An export that was loaded back and compared.

    Attributes:
        output: The exported folder.
        num_parameters: Number of parameters.
        proof: Result of the comparison.
    """

    output: Path
    num_parameters: int
    proof: Proof

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.num_parameters:,} parameters; loaded back through transformers: "
            f"logits of 2 x {self.proof.probe_tokens} tokens differ by at most "
            f"{self.proof.max_logit_error:.1e}, "
            f"{self.proof.greedy_tokens} greedy tokens equal, same token ids"
        )


def export(command: ExportCommand) -> ExportReport:
    """Write a folder, load it back, compare, and only then rename (`resonance checkpoint export`).

    Returns:
        A printable report.

    Raises:
        RunError: The folder exists, or the model that was loaded back differs.
        CheckpointError: The checkpoint is missing or damaged.
    """
    output = command.output
    transformers.utils.logging.disable_progress_bar()
    if os.path.lexists(output):
        raise RunError(f"{output}: exists; expected a new folder")
    model, run, checkpoint = load_model(command.checkpoint)
    tokenizer = load_tokenizer(tokenizer_path(checkpoint))
    # a folder of its own, beside the target; transformers makes a module name of the inner name
    beside = output.with_name(f".{output.name}.{uuid.uuid4().hex}.partial")
    partial = beside / f"{output.name}_partial"
    try:
        _write(partial, model, tokenizer, run.data.sequence_length)
        proof = prove(model, tokenizer, partial)
        (partial / "README.md").write_text(_card(model, checkpoint, proof), encoding="utf-8")
        partial.rename(output)
    except SafetensorError as error:
        raise RunError(
            f"{partial}: cannot be written: {error}; expected room on the disk"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return ExportReport(output, sum(p.numel() for p in model.parameters()), proof)


def probe_length(config: ModelConfig) -> int:
    """Tokens of the compared rows: an odd number, and more than two chunks of every mixer.

    Only then do carried states reach another chunk, and is the last chunk cut.
    """
    chunks = [config.conv_chunk, config.recall_chunk, *dict(config.chunk_units()).values()]
    return 2 * max(chunks) + PROBE_TOKENS // 2 + 1


def prove(model: SpectralLM, tokenizer: Tokenizer, folder: Path) -> Proof:
    """Compare an exported folder with the model that it came from.

    Raises:
        RunError: Logits, greedy continuation or token ids differ.
    """
    loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    generator = torch.Generator().manual_seed(0)
    length = probe_length(model.config)
    probe = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    with torch.no_grad():
        logits = model(probe)
        error = float((loaded(probe).logits - logits).abs().max())
        if not torch.equal(import_model(folder)(probe), logits):
            raise RunError(f"{folder}: the model that is imported back has other logits")
    if not error <= MAX_LOGIT_ERROR:
        raise RunError(f"{folder}: logits differ by {error:.1e}; expected {MAX_LOGIT_ERROR:.0e}")
    ids = [tokenizer.bos_id, *tokenizer.encode(PROBE_TEXT)]
    exported_tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    if exported_tokenizer.encode(PROBE_TEXT) != ids:
        raise RunError(f"{folder}: the exported tokenizer gives other ids for {PROBE_TEXT!r}")
    prompt = torch.tensor([ids])
    loaded.generation_config.eos_token_id = None
    continued = loaded.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=PROBE_TOKENS,
        do_sample=False,
    )
    continued = continued[0, len(ids) :].tolist()
    stream = greedy_tokens(model, prompt)
    expected = [int(token) for _, token in zip(continued, stream, strict=False)]
    if continued != expected:
        raise RunError(f"{folder}: greedy generation differs: {continued[:8]} and {expected[:8]}")
    return Proof(error, length, len(continued), True)


def _write(folder: Path, model: SpectralLM, tokenizer: Tokenizer, length: int) -> None:
    exported = wrap(model, tokenizer)
    exported.save_pretrained(folder)
    for name, text in bundled_sources().items():
        (folder / name).write_text(text, encoding="utf-8")
    fast = huggingface_tokenizer(tokenizer)
    fast.model_max_length = length
    fast.save_pretrained(folder)


def _card(model: SpectralLM, checkpoint: Path, proof: Proof) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    config = json.dumps(model.config.model_dump(), indent=1)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
---
# A spectral language model

{parameters:,} parameters, no attention and no key-value cache: decoding takes constant time and
memory per token. Pretrained with Resonance; exported from `{checkpoint.name}`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
```

## Proof

Compared with the training model when it was exported, in float32: logits of 2 x
{proof.probe_tokens} random tokens, several chunks of every mixer, differ by at most
{proof.max_logit_error:.1e}; {proof.greedy_tokens} greedily generated tokens are equal; the
tokenizer gives the same ids.

## Architecture

```json
{config}
```
"""
