"""README.md of an exported folder."""

import json
from pathlib import Path
from typing import NamedTuple

from data_pipeline.tokenizer import Tokenizer
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


def model_card(model: SpectralLM, tokenizer: Tokenizer, checkpoint: Path, proof: Proof) -> str:
    """The model card: use, tokens, proof and architecture."""
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

If the folder holds `tokenizer.model` instead of `tokenizer.json`, the tokenizer runs SentencePiece
itself (`pip install sentencepiece`), because transformers has no form of it with equal ids.

## Tokens

A training document was BOS (id {tokenizer.bos_id}), text, EOS (id {tokenizer.eos_id}). In training,
text was only text: where it spelled the name of a control token, it was encoded like any other
text. This tokenizer gives such names the id of the control token, as usual in transformers, so that
chat templates and fine-tuning can use them. For text of users that must not contain control
tokens, pass `split_special_tokens=True`.

The tokenizer has {tokenizer.vocab_size:,} ids, the model {model.config.vocab_size:,}; `generate`
gives those above probability 0. After adding tokens, call
`model.resize_token_embeddings(len(tokenizer))`, which lets them be generated.

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
