"""Checks of a causal model for information that reaches a logit which must not have it.

Every check changes something that certain logits must not depend on, and compares them.

Shape letters: B batch, T time (tokens), V vocabulary.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

# of the largest logit and the dtype's precision: sums of many terms, in another order
TOLERATED = {torch.float64: 1e5, torch.float32: 1e3, torch.bfloat16: 16.0, torch.float16: 16.0}
CACHES = ("past_key_values", "cache_params", "state")


class LeakResult(NamedTuple):
    """Result of a check.

    Attributes:
        check: Its name, an item of `CHECKS`.
        verdict: "ok", "leaks", or "refused" if the model raises an error.
        difference: Largest difference of logits that must be equal; NaN if refused.
        position: First position whose logits differ by more than rounding; None if none does.
        tolerance: Difference that rounding explains.
        note: Cause, where it is known.
    """

    check: str
    verdict: str
    difference: float
    position: int | None
    tolerance: float
    note: str = ""


class Probe:
    """A model and random tokens for it.

    Attributes:
        tokens: A row [1, T], and `others` [1, T] of which every token differs from it.
    """

    def __init__(self, model: Any, length: int, seed: int = 0):
        self.model, self.length = model, length
        vocab_size = int(model.config.get_text_config().vocab_size)
        generator = torch.Generator().manual_seed(seed)
        shape = (1, length)
        self.tokens = torch.randint(vocab_size, shape, generator=generator)
        shift = torch.randint(1, vocab_size, shape, generator=generator)
        self.others = (self.tokens + shift) % vocab_size
        self.parameters = inspect.signature(model.forward).parameters
        self.expected = self(self.tokens)
        precision = torch.finfo(next(model.parameters()).dtype)
        scale = float(self.expected.abs().max())
        self.tolerance = TOLERATED[next(model.parameters()).dtype] * precision.eps * scale

    @torch.no_grad()
    def __call__(self, tokens: Tensor, **keywords: Any) -> Tensor:
        """Logits [B, T, V]."""
        return self.run(tokens, **keywords).logits.double()

    @torch.no_grad()
    def run(self, tokens: Tensor, **keywords: Any) -> Any:
        """The model's output."""
        keywords.setdefault("use_cache", False)
        return self.model(input_ids=tokens, **keywords)

    def compare(self, check: str, found_TV: Tensor, expected_TV: Tensor) -> LeakResult:
        """The result of a check whose logits must be equal."""
        difference_T = (found_TV - expected_TV).abs().amax(-1)
        # NaN is no number that rounding explains
        moved_T = ~(difference_T <= self.tolerance)
        position = int(moved_T.nonzero()[0]) if bool(moved_T.any()) else None
        return LeakResult(
            check,
            "ok" if position is None else "leaks",
            float(difference_T.max()),
            position,
            self.tolerance,
        )


def causality(probe: Probe) -> LeakResult:
    """Whether later tokens move earlier logits, for several places where they begin to differ."""
    T = probe.length
    results = []
    for cut in sorted({1, 2, T // 5, T // 2, T - T // 7, T - 1}):
        changed = torch.cat([probe.tokens[:, :cut], probe.others[:, cut:]], dim=1)
        found = probe(changed)[0, :cut]
        results.append(probe.compare("causality", found, probe.expected[0, :cut]))
    leaks = [result for result in results if result.position is not None]
    worst = max(leaks or results, key=lambda result: result.difference)
    first = min((result.position for result in leaks if result.position is not None), default=None)
    return worst._replace(position=first)


def document_ways(first: int, length: int, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """Ways to tell a model that a row of two documents has the second one from `first` on."""
    second = (torch.arange(length) >= first).int()[None]
    positions = torch.cat([torch.arange(first), torch.arange(length - first)])[None]
    borders = torch.tensor([0, first, length], dtype=torch.int32)
    longest = max(first, length - first)
    same = second[0][:, None] == second[0]
    allowed = torch.ones(length, length).tril().bool() & same
    mask = torch.zeros(1, 1, length, length, dtype=dtype)
    return {
        "position_ids": {"position_ids": positions},
        "cu_seq_lens": {
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_q": longest,
            "max_length_k": longest,
        },
        "seq_idx": {"seq_idx": second},
        "attention_mask": {
            "attention_mask": mask.masked_fill(~allowed, torch.finfo(dtype).min),
            "position_ids": positions,
        },
    }


def documents(probe: Probe, way: str) -> LeakResult:
    """Whether the first of two packed documents moves the second, when told of them in one way."""
    first, dtype = probe.length * 2 // 5, next(probe.model.parameters()).dtype
    told = document_ways(first, probe.length, dtype)[way]
    if "position_ids" not in probe.parameters and way == "attention_mask":
        told.pop("position_ids")
    check = f"documents by {way}"
    logits = probe(probe.tokens, **told)
    changed = torch.cat([probe.others[:, :first], probe.tokens[:, first:]], dim=1)
    result = probe.compare(check, probe(changed, **told)[0, first:], logits[0, first:])
    if result.position is None:
        return result
    note = "the model ignores it" if torch.equal(logits, probe.expected) else ""
    return result._replace(position=first + result.position, note=note)


def padding(probe: Probe, side: str) -> LeakResult:
    """Whether padding moves the logits of a row."""
    count = probe.length // 3
    other = probe.others[:, :count]
    mask, extra = torch.ones_like(probe.tokens), torch.zeros_like(other)
    order = (1, -1) if side == "left" else (-1, 1)
    tokens = torch.cat([other, probe.tokens][:: order[0]], dim=1)
    mask = torch.cat([extra, mask][:: order[0]], dim=1)
    keywords: dict[str, Any] = {"attention_mask": mask}
    if "position_ids" in probe.parameters:
        # as `generate` counts them
        keywords["position_ids"] = (mask.cumsum(1) - 1).masked_fill(mask == 0, 1)
    found = probe(tokens, **keywords)[0, mask[0] == 1]
    return probe.compare(f"{side} padding", found, probe.expected[0])


def batch_mates(probe: Probe) -> LeakResult:
    """Whether other rows of a batch move the logits of a row."""
    mates = torch.cat([probe.others, probe.tokens, probe.tokens.flip(1)])
    return probe.compare("batch mates", probe(mates)[1], probe.expected[0])


def cache(probe: Probe, piece: int) -> LeakResult:
    """Whether a row in pieces, with a cache, has the logits of the whole row."""
    start = probe.length * 3 // 5
    # ends in a piece that is shorter than the others
    end = min(start + 3 * piece + max(piece // 2, 1), probe.length)
    output = probe.run(probe.tokens[:, :start], use_cache=True)
    logits = [output.logits[0]]
    for first in range(start, end, piece):
        name = next((name for name in CACHES if getattr(output, name, None) is not None), None)
        if name is None:
            raise ValueError("returns no cache")
        last = min(first + piece, end)
        keywords = {name: getattr(output, name), "attention_mask": torch.ones(1, last).long()}
        if "position_ids" in probe.parameters:
            # without attention layers, some models cannot count the tokens in their cache
            keywords["position_ids"] = torch.arange(first, last)[None]
        output = probe.run(probe.tokens[:, first:last], use_cache=True, **keywords)
        logits.append(output.logits[0])
    words = "tokens one by one" if piece == 1 else f"pieces of {piece} tokens"
    found = torch.cat(logits).double()
    return probe.compare(f"cache, {words}", found, probe.expected[0, :end])


CHECKS: dict[str, Callable[[Probe], LeakResult]] = {
    "causality": causality,
    **{
        f"documents by {way}": functools.partial(documents, way=way)
        for way in ("position_ids", "cu_seq_lens", "seq_idx", "attention_mask")
    },
    "left padding": functools.partial(padding, side="left"),
    "right padding": functools.partial(padding, side="right"),
    "batch mates": batch_mates,
    "cache, tokens one by one": functools.partial(cache, piece=1),
    "cache, pieces of 7 tokens": functools.partial(cache, piece=7),
}


def run_checks(model: Any, length: int, checks: tuple[str, ...] = ()) -> Iterator[LeakResult]:
    """Results of checks, by default of all.

    Args:
        model: A causal model of transformers, in evaluation mode.
        length: Tokens of a row; longer than the model's chunks, or their borders are not checked.
        checks: Names in `CHECKS`.
    """
    probe = Probe(model, length)
    for name in checks or CHECKS:
        try:
            yield CHECKS[name](probe)
        except Exception as error:  # noqa: BLE001
            # whatever a model raises, it does not give a wrong answer
            reason = str(error).strip().splitlines()[0][:80] if str(error).strip() else repr(error)
            yield LeakResult(name, "refused", float("nan"), None, probe.tolerance, reason)
