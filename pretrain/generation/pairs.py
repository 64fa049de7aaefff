"""Targets of sources, by transformers' `generate`: a target token costs the same for any source."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from transformers.modeling_outputs import CausalLMOutputWithPast

from pretrain.commands import GenerationOptions
from pretrain.generation.writer import Writer, transformers_options
from pretrain.huggingface.load import Pretrained
from pretrain.huggingface.modeling_resonance import ResonanceForCausalLM
from pretrain.huggingface.wrap import config_of
from spectral.seq2seq import PairState, SpectralSeq2Seq


class PairCache:
    """State of the targets so far, and of their sources; its size is constant."""

    is_compileable = False

    def __init__(self, state: PairState):
        self.state = state

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of target tokens so far, the same in every layer."""
        del layer_idx
        return 0 if self.state.target is None else self.state.target.position

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give row i the state of row beam_idx[i]."""

        def chosen(part: Any) -> Any:
            return part.index_select(0, beam_idx) if isinstance(part, Tensor) else part

        self.state = PairState(*tree_map(chosen, tuple(self.state)))


class PairDecoder(ResonanceForCausalLM):
    """The decoder of a text-to-text model for `generate`, whose prompt is the BOS of targets.

    Attributes:
        pairs: The model.
        sources: State of the sources that the next call writes targets of.
    """

    def __init__(self, model: SpectralSeq2Seq, config: Any):
        # its layers are those of `pairs`
        with torch.device("meta"):
            super().__init__(config)
        self.__dict__["pairs"] = model
        self.sources: PairState | None = None

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.pairs.parameters()).device

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, past_key_values: PairCache | None = None, **_: Any
    ) -> dict[str, Any]:
        """The keyword arguments of `forward` for the newest target token."""
        return {"input_ids": input_ids[:, -1:], "past_key_values": past_key_values}

    def forward(
        self, input_ids: Tensor, past_key_values: PairCache | None = None, **_: Any
    ) -> CausalLMOutputWithPast:
        """Logits of the token after a target token [N, 1, V], and the cache.

        Args:
            input_ids: The newest token of each target [N, 1].
            past_key_values: State before it; None at BOS, with N a multiple of the sources.
        """
        assert self.sources is not None, "set `sources` before the first token"
        if past_key_values is None:
            beams = len(input_ids) // len(self.sources.sources[0])
            layers = tuple(s.repeat_interleave(beams, dim=0) for s in self.sources.sources)
            past_key_values = PairCache(PairState(layers))
        logits_NV, state = self.pairs.step_pair(input_ids[:, 0], past_key_values.state)
        return CausalLMOutputWithPast(
            logits=logits_NV[:, None].float(), past_key_values=PairCache(state)
        )


class PairWriter(Writer):
    """A loaded text-to-text model with generation options."""

    def __init__(self, loaded: Pretrained, options: GenerationOptions):
        model = loaded.model
        assert isinstance(model, SpectralSeq2Seq)
        self.tokenizer = loaded.tokenizer
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.pairs = model.to(self.device)
        self.decoder = PairDecoder(model, config_of(model, loaded.tokenizer)).eval()
        self.options = transformers_options(options)
        self.pads = True
        torch.manual_seed(options.seed)

    def encode(self, text: str, name: str) -> list[int]:
        """Token ids of a source.

        Raises:
            RunError: The text is not UTF-8.
        """
        return [*super().encode(text, name), self.tokenizer.eos_id]

    @torch.no_grad()
    def continued(self, prompts: Sequence[list[int]], **overrides: Any) -> list[list[int]]:
        """Target tokens of each source, without the end."""
        lengths = [len(prompt) for prompt in prompts]
        rows = [p + [self.tokenizer.pad_id] * (max(lengths) - len(p)) for p in prompts]
        self.decoder.sources = self.pairs.start(
            torch.tensor(rows, device=self.device), torch.tensor(lengths, device=self.device)
        )
        first = torch.full((len(rows), 1), self.tokenizer.bos_id, device=self.device)
        sequences: Tensor = self.decoder.generate(
            first, attention_mask=torch.ones_like(first), **(self.options | overrides)
        )
        return [self._until_end(row[1:].tolist()) for row in sequences]

    def whole(self, prompt: list[int], tokens: list[int]) -> str:
        """The text of a target."""
        return self.completion(prompt, tokens)

    def completion(self, prompt: list[int], tokens: list[int]) -> str:
        """The text of a target."""
        del prompt
        return self.tokenizer.decode(tokens)


def writer_of(loaded: Pretrained, options: GenerationOptions) -> Writer:
    """The writer of a model of texts or of pairs."""
    kind = PairWriter if isinstance(loaded.model, SpectralSeq2Seq) else Writer
    return kind(loaded, options)
