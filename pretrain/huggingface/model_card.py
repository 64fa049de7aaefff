"""README.md of an exported folder."""

import json
from pathlib import Path
from typing import NamedTuple

from data_pipeline.redaction import redact
from data_pipeline.tokenizer import Tokenizer
from pretrain.checkpoint.catalog import run_of, step_of
from pretrain.checkpoint.load import read_state
from pretrain.config import RunConfig
from spectral.lm import SpectralLM


class Proof(NamedTuple):
    """Result of the comparison of an exported folder with the training model; token ids are equal.

    Attributes:
        max_logit_error: Largest difference of logits.
        probe_tokens: Number of random tokens, in each of two rows, that the logits belong to.
        greedy_tokens: Number of greedily generated tokens, all of which are equal.
    """

    max_logit_error: float
    probe_tokens: int
    greedy_tokens: int


def training_lines(run: RunConfig, checkpoint: Path) -> list[str]:
    """Facts of the training as a list for the card: data, tokens, loss.

    Raises:
        CheckpointError: The checkpoint's state cannot be read.
    """
    data = ", ".join(f"`{redact(dataset.path)}`" for dataset in run.data.datasets)
    lines = [
        f"Data: {data or 'unknown'}.",
        f"Windows of {run.data.sequence_length:,} tokens, {read_state(checkpoint)['tokens']:,} "
        f"tokens in {step_of(checkpoint):,} steps.",
    ]
    loss = _validation_loss(run_of(checkpoint) / "metrics.jsonl", step_of(checkpoint))
    if loss is not None:
        lines.append(f"Loss on held-out documents: {loss:.4f} nats per token.")
    return lines


def _validation_loss(metrics: Path, step: int) -> float | None:
    """The held-out loss at a step; None if the run has not noted it."""
    if not metrics.is_file():
        return None
    for line in metrics.read_text(encoding="utf-8", errors="replace").splitlines():
        if '"valid_loss"' not in line:
            continue
        try:
            record = json.loads(line)
        except ValueError:
            # a line that a crash has cut
            continue
        if record.get("step") == step:
            return float(record["valid_loss"])
    return None


def model_card(
    model: SpectralLM,
    tokenizer: Tokenizer,
    checkpoint: Path,
    proof: Proof,
    training: list[str],
    license_id: str = "unknown",
) -> str:
    """The model card: metadata, use, training, tokens, limits, proof and architecture.

    Args:
        model: The model, whose parameters are only counted.
        tokenizer: Its tokenizer.
        checkpoint: The checkpoint that was exported.
        proof: Result of the comparison.
        training: Facts of the training, sentences.
        license_id: Licence of the weights as the Hub spells it.
    """
    parameters = sum(p.numel() for p in model.parameters())
    config = json.dumps(model.config.model_dump(), indent=1)
    facts = "\n".join(f"- {line}" for line in training)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
license: {license_id}
tags:
- resonance
- attention-free
- state-space-model
---
# A spectral language model

{parameters:,} parameters, no attention and no key-value cache: decoding takes constant time and
memory per token. Pretrained with Resonance; exported from `{checkpoint.name}`.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
```

`dtype=torch.bfloat16` and `float16` load the matrices in that precision and keep decays, phases and
norms in float32. `AutoModel` gives the hidden states.

If the folder holds `tokenizer.model` instead of `tokenizer.json`, the tokenizer runs SentencePiece
itself (`pip install sentencepiece`), because transformers has no form of it with equal ids.

## Training

{facts}

## Tokens

A training document was BOS (id {tokenizer.bos_id}), text, EOS (id {tokenizer.eos_id}). In training,
text was only text: where it spelled the name of a control token, it was encoded like any other
text. This tokenizer gives such names the id of the control token, as usual in transformers, so that
chat templates and fine-tuning can use them. For text of users that must not contain control
tokens, pass `split_special_tokens=True`.

The tokenizer has {tokenizer.vocab_size:,} ids, the model {model.config.vocab_size:,}; `generate`
gives those above probability 0. After adding tokens, call
`model.resize_token_embeddings(len(tokenizer))`, which lets them be generated.

## Limits

The model continues text; it has not been trained to follow instructions or to avoid harm. It knows
what the data above hold, and has no longest length: beyond the windows of training, quality is what
you measure. Its state has a constant size, so details of a long text are forgotten. Losses of
routers and gates are no part of the loss here. Padding on either side changes nothing; for packed
documents pass `position_ids`, `seq_idx` or `cu_seq_lens`.

## Proof

Compared with the training model when it was exported, in float32: logits of 2 x
{proof.probe_tokens} random tokens differ by at most {proof.max_logit_error:.1e};
{proof.greedy_tokens} greedily generated tokens are equal; the tokenizer gives the same ids for text
with all of Unicode's blanks and controls.

## Architecture

```json
{config}
```
"""
