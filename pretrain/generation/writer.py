"""Text generation with a loaded model, for `generate` and `chat`.

transformers generates, with the recurrent cache: every token costs the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer, continuation
from pretrain.commands import GenerationOptions
from pretrain.errors import RunError
from pretrain.huggingface.load import Pretrained
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from pretrain.huggingface.wrap import wrap
from spectral.gates.spectral_gate import uses_gates
from spectral.lm import SpectralLM

# logits divided by less overflow float32
MIN_TEMPERATURE = 1e-6


def transformers_options(options: GenerationOptions) -> dict[str, Any]:
    """The keyword arguments of `ResonanceForCausalLM.generate` for a user's options.

    Raises:
        RunError: The options contradict one another.
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
    keywords: dict[str, Any] = {
        "max_new_tokens": options.max_tokens,
        "min_new_tokens": options.min_tokens or None,
        "do_sample": sample,
        "num_beams": options.beams,
        "repetition_penalty": options.repetition_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram,
        "coverage_penalty": options.coverage_penalty,
    }
    if sample:
        keywords |= {"temperature": options.temperature, "top_p": options.top_p}
        keywords["top_k"] = options.top_k
    if options.beams > 1:
        keywords["length_penalty"] = options.length_penalty
        keywords["early_stopping"] = options.early_stopping
    if options.beam_groups > 1:
        keywords["beam_groups"] = options.beam_groups
        keywords["diversity_penalty"] = options.diversity_penalty
    return keywords


class Writer:
    """A loaded model with generation options."""

    def __init__(self, loaded: Pretrained, options: GenerationOptions):
        if type(loaded.model) is not SpectralLM:
            raise RunError(
                f"{loaded.path}: a {type(loaded.model).__name__}, which continues no text; "
                "expected a model that was trained on next tokens"
            )
        self.tokenizer: Tokenizer = loaded.tokenizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: ResonanceForCausalLM = wrap(loaded.model.to(self.device), loaded.tokenizer)
        self.options = transformers_options(options)
        # the output of a gated model depends on where chunks begin, which padding would move
        self.pads = not uses_gates(loaded.model.config.gates)
        torch.manual_seed(options.seed)

    def encode(self, text: str, name: str) -> list[int]:
        """Token ids of a text at the beginning of a document.

        Raises:
            RunError: The text is not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RunError(f"{name}: expected UTF-8 text, found other bytes ({error})") from None
        return [self.tokenizer.bos_id, *self.tokenizer.encode(text)]

    def continued(self, prompts: Sequence[list[int]], **overrides: Any) -> list[list[int]]:
        """New tokens of each prompt of a left-padded batch, without the end of the document."""
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        rows = [[self.tokenizer.pad_id] * n + p for n, p in zip(padding, prompts, strict=True)]
        mask = [[0] * n + [1] * len(p) for n, p in zip(padding, prompts, strict=True)]
        sequences: Tensor = self.model.generate(
            torch.tensor(rows, device=self.device),
            attention_mask=torch.tensor(mask, device=self.device),
            **(self.options | overrides),
        )
        return [self._until_end(row[longest:].tolist()) for row in sequences]

    def whole(self, prompt: list[int], tokens: list[int]) -> str:
        """The text of a prompt and its continuation."""
        return self.tokenizer.decode([*prompt, *tokens])

    def completion(self, prompt: list[int], tokens: list[int]) -> str:
        """The text of a continuation."""
        return continuation(self.tokenizer, prompt[-1], tokens)

    def _until_end(self, tokens: list[int]) -> list[int]:
        end = self.tokenizer.eos_id
        return tokens[: tokens.index(end)] if end in tokens else tokens


class Streamer:
    """A transformers streamer that writes text while tokens arrive, whole characters only."""

    def __init__(self, tokenizer: Tokenizer, write: Callable[[str], object]):
        self._tokenizer, self._write = tokenizer, write
        self._tokens: list[int] = []
        self._shown = ""
        self._last: int | None = None

    def put(self, value: Tensor) -> None:
        """Write the text of a new token; the first call, with the prompt, writes nothing."""
        if self._last is None:
            self._last = int(value.flatten()[-1])
            return
        self._tokens += [t for t in value.flatten().tolist() if t != self._tokenizer.eos_id]
        text = continuation(self._tokenizer, self._last, self._tokens)
        # part of a character decodes to a replacement character
        if not text.endswith("\ufffd"):
            self._write(text[len(self._shown) :])
            self._shown = text

    def end(self) -> None:
        """Write the remaining text."""
        if self._last is not None:
            text = continuation(self._tokenizer, self._last, self._tokens)
            self._write(text[len(self._shown) :])
