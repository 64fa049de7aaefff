"""Diverse beam search: groups of beams, each penalised for tokens that earlier groups chose.

transformers no longer has it. This is a decoding method for its `generate`, and uses transformers'
logits processors and stopping criteria and the model's recurrent cache.

Shape letters: N rows (prompts x beams), T time (tokens), V vocabulary.

Source: Vijayakumar et al. 2018, arXiv 1610.02424, with Hamming diversity.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList


class Hypothesis(NamedTuple):
    """A finished sequence.

    Attributes:
        score: Log-probability, normalised by length.
        tokens: Tokens after the prompt.
    """

    score: float
    tokens: list[int]


class Group:
    """A group of beams for a prompt: its open beams and its best finished sequences."""

    def __init__(self, rows: list[int], config: GenerationConfig):
        self.rows, self.config = rows, config
        self.scores = [0.0] + [float("-inf")] * (len(rows) - 1)
        self.tokens: list[list[int]] = [[] for _ in rows]
        self.finished: list[Hypothesis] = []

    def normalised(self, score: float, length: int) -> float:
        """Score of a sequence of `length` tokens, divided by length ** length_penalty."""
        return score / float(length**self.config.length_penalty)

    @property
    def is_done(self) -> bool:
        """Whether no open beam can become better than the finished sequences."""
        if len(self.finished) < len(self.rows):
            return False
        if self.config.early_stopping is True:
            return True
        length = len(self.tokens[0]) + 1
        best_open = self.normalised(max(self.scores), length)
        return min(hypothesis.score for hypothesis in self.finished) >= best_open

    def finish(self, score: float, tokens: list[int]) -> None:
        """Add a complete sequence; only the best are kept."""
        self.finished.append(Hypothesis(self.normalised(score, len(tokens)), tokens))
        self.finished.sort(key=lambda hypothesis: -hypothesis.score)
        del self.finished[len(self.rows) :]

    def advance(self, scores_NV: Tensor, end: set[int]) -> list[int]:
        """Choose the next tokens.

        Args:
            scores_NV: Log-probabilities of the next token, for the rows of all groups.
            end: Ids that end a sequence.

        Returns:
            The row that each of this group's beams continues.
        """
        vocab = scores_NV.shape[1]
        total = scores_NV[self.rows].double() + torch.tensor(self.scores)[:, None].to(scores_NV)
        count = min((1 + len(end)) * len(self.rows), total.numel())
        best, index = total.flatten().topk(count)
        chosen: list[tuple[float, int, int]] = []
        for place, (score, flat) in enumerate(zip(best.tolist(), index.tolist(), strict=True)):
            beam, token = divmod(flat, vocab)
            if token in end:
                # ignore an EOS that ranks below every continuing beam
                if place < len(self.rows):
                    self.finish(score, [*self.tokens[beam], token])
            elif len(chosen) < len(self.rows):
                chosen.append((score, beam, token))
        self.scores = [score for score, _, _ in chosen]
        self.tokens = [[*self.tokens[beam], token] for _, beam, token in chosen]
        return [self.rows[beam] for _, beam, _ in chosen]


@torch.no_grad()
def diverse_beam_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    beam_groups: int = 1,
    diversity_penalty: float = 0.0,
    **model_kwargs: Any,
) -> Tensor:
    """The best sequences of every prompt, with the prompt, best first, padded.

    A `custom_generate` of transformers.

    Args:
        model: A model whose cache has `reorder_cache`.
        input_ids: Prompts [N, T], each repeated num_beams times.
        logits_processor: Applied to log-probabilities.
        stopping_criteria: Limits of the length.
        generation_config: num_beams, num_return_sequences, length_penalty, early_stopping.
        beam_groups: A divisor of num_beams. One group is beam search.
        diversity_penalty: Subtracted from a token's score each time that an earlier group chose it.
        model_kwargs: Keyword arguments of the model's forward.

    Raises:
        ValueError: The groups do not divide the beams.
    """
    beams, num_rows = generation_config.num_beams, input_ids.shape[0]
    if beam_groups < 1 or beams % beam_groups:
        raise ValueError(f"beam_groups: expected a divisor of num_beams {beams}, got {beam_groups}")
    width = beams // beam_groups
    prompts = [
        [
            Group(list(range(first + g * width, first + (g + 1) * width)), generation_config)
            for g in range(beam_groups)
        ]
        for first in range(0, num_rows, beams)
    ]
    ends = generation_config.eos_token_id
    end = set(ends if isinstance(ends, list) else [ends]) - {None}
    prompt_tokens = input_ids.shape[1]
    while not all(group.is_done for groups in prompts for group in groups):
        inputs = model.prepare_inputs_for_generation(input_ids, **model_kwargs)
        output = model(**inputs)
        scores_NV = output.logits[:, -1].float().log_softmax(-1)
        scores_NV = logits_processor(input_ids, scores_NV)
        sources = list(range(num_rows))
        for groups in prompts:
            taken_V = torch.zeros_like(scores_NV[0])
            for group in groups:
                if not group.is_done:
                    continued = group.advance(scores_NV - diversity_penalty * taken_V, end)
                    for row, source in zip(group.rows, continued, strict=True):
                        sources[row] = source
                for tokens in group.tokens:
                    taken_V[tokens[-1]] += 1.0
        order = torch.tensor(sources, device=input_ids.device)
        if output.past_key_values is not None:
            output.past_key_values.reorder_cache(order)
        model_kwargs = model._update_model_kwargs_for_generation(output, model_kwargs)
        # rows are numbered in the order of prompts, groups and beams
        last = [tokens[-1] for groups in prompts for group in groups for tokens in group.tokens]
        column = torch.tensor(last, device=input_ids.device)
        input_ids = torch.cat([input_ids[order], column[:, None]], dim=1)
        if bool(stopping_criteria(input_ids, scores_NV).all()):
            break
    return _best(prompts, input_ids[::beams, :prompt_tokens], generation_config)


def _best(prompts: list[list[Group]], prompt_BT: Tensor, config: GenerationConfig) -> Tensor:
    rows = []
    for groups, prompt in zip(prompts, prompt_BT, strict=True):
        for group in groups:
            for score, tokens in zip(group.scores, group.tokens, strict=True):
                if len(group.finished) < len(group.rows) and score > float("-inf"):
                    group.finish(score, tokens)
        ranked = sorted((h for g in groups for h in g.finished), key=lambda h: -h.score)
        rows += [[*prompt.tolist(), *h.tokens] for h in ranked[: config.num_return_sequences]]
    longest, pad = max(map(len, rows)), config.pad_token_id or 0
    padded = [[*row, *[pad] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, device=prompt_BT.device)
