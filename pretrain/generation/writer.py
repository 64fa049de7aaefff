"""Generation options as users give them, and text from a loaded model; see `generate` and `chat`.

transformers generates, on the recurrent cache: every token costs the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from pretrain.commands import GenerationOptions
from pretrain.errors import RunError
from pretrain.huggingface.load import Pretrained
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from pretrain.huggingface.wrap import wrap
from spectral.gates.spectral_gate import uses_gates

# below it, logits divided by it overflow float32
MIN_TEMPERATURE = 1e-6


def transformers_options(options: GenerationOptions) -> dict[str, Any]:
    """The keywords of `ResonanceForCausalLM.generate` that say the same.

    Raises:
        RunError: Options that contradict one another.
    """
    if options.min_tokens > options.max_tokens:
        raise RunError(
            f"--min-tokens is {options.min_tokens}; expected at most --max-tokens, "
            f"{options.max_tokens}"
        )
    if options.beams % options.beam_groups:
        raise RunError(
            f"--beam-groups is {options.beam_groups}; expected a divisor of --beams, "
            f"{options.beams}"
        )
    sample = options.temperature >= MIN_TEMPERATURE and options.beam_groups == 1
    found: dict[str, Any] = {
        "max_new_tokens": options.max_tokens,
        "min_new_tokens": options.min_tokens or None,
        "do_sample": sample,
        "num_beams": options.beams,
        "repetition_penalty": options.repetition_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram,
        "coverage_penalty": options.coverage_penalty,
    }
    if sample:
        found |= {"temperature": options.temperature, "top_p": options.top_p}
        found["top_k"] = options.top_k
    if options.beams > 1:
        found["length_penalty"] = options.length_penalty
        found["early_stopping"] = options.early_stopping
    if options.beam_groups > 1:
        found["beam_groups"] = options.beam_groups
        found["diversity_penalty"] = options.diversity_penalty
    return found


class Writer:
    """Continues texts with a loaded model."""

    def __init__(self, loaded: Pretrained, options: GenerationOptions):
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: ResonanceForCausalLM = wrap(loaded.model.to(self.device), loaded.tokenizer)
        self.options = transformers_options(options)
        # a gated model sees where its chunks begin, which padding moves
        self.pads = not uses_gates(loaded.model.config.gates)
        torch.manual_seed(options.seed)

    def encode(self, text: str, name: str) -> list[int]:
        """Ids of a document's beginning.

        Raises:
            RunError: The text is not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RunError(f"{name}: expected UTF-8 text, found other bytes ({error})") from None
        return [self.tokenizer.bos_id, *self.tokenizer.encode(text)]

    def continued(self, prompts: Sequence[list[int]], **more: Any) -> list[list[int]]:
        """The new tokens of each prompt, without the end of the document; left-padded together."""
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        rows = [[self.tokenizer.pad_id] * n + p for n, p in zip(padding, prompts, strict=True)]
        mask = [[0] * n + [1] * len(p) for n, p in zip(padding, prompts, strict=True)]
        found: Tensor = self.model.generate(
            torch.tensor(rows, device=self.device),
            attention_mask=torch.tensor(mask, device=self.device),
            **(self.options | more),
        )
        return [self._until_end(row[longest:].tolist()) for row in found]

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = self.tokenizer.eos_id
        return tokens[: tokens.index(end)] if end in tokens else tokens


class Streamer:
    """Hands on text as tokens arrive, whole characters only, as a streamer of transformers."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], object]):
        self._tokenizer, self._write = tokenizer, write
        self._tokens: list[int] = []
        self._shown = ""
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """The prompt first, then a token at a time."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self._tokens += [t for t in value.flatten().tolist() if t != self._tokenizer.eos_id]
        text = self._tokenizer.decode(self._tokens)
        # half of a character decodes to a replacement
        if not text.endswith("\ufffd"):
            self._write(text[len(self._shown) :])
            self._shown = text

    def end(self) -> None:
        """Show what is left."""
        self._write(self._tokenizer.decode(self._tokens)[len(self._shown) :])
