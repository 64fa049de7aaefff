"""Text to text: causal in the target, one pair apart from others, recurrent as in parallel."""

import pytest
import torch
from torch import Tensor

from spectral.seq2seq import SpectralSeq2Seq
from tests.unit.spectral.causality.checks import small_config, some_tokens

# three pairs and padding; sides of different lengths, across chunks of 4 and 8
SIDES = (5, 4, 9, 6, 2, 3, 4)
SEGMENTS = torch.repeat_interleave(torch.arange(len(SIDES)), torch.tensor(SIDES))[None]
T = SEGMENTS.shape[1]
CASES: dict[str, dict[str, object]] = {
    "heads": {},
    "fft": {"mixers": ("fft",), "fft": {"chunk": 4}},
    "one band": {"source_bands": 1},
}


def _model(**changes: object) -> SpectralSeq2Seq:
    torch.manual_seed(0)
    model = SpectralSeq2Seq(small_config(source_layers=2, **changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def _influence(model: SpectralSeq2Seq) -> Tensor:
    """[T, T]: how much the logits at t move with the embedding of the token at s."""
    embedded: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.embedding.register_forward_hook(keep)
    logits = model(some_tokens(1, T), SEGMENTS)
    handle.remove()
    weights = torch.randn(logits.shape[-1], dtype=torch.float64)
    rows = []
    for t in range(T):
        (row,) = torch.autograd.grad(logits[0, t] @ weights, embedded[0], retain_graph=True)
        rows.append(row[0].norm(dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("name", CASES)
def test_targets_see_their_source_and_their_past_alone(name: str) -> None:
    model = _model(**CASES[name])
    influence = _influence(model)
    segments, time = SEGMENTS[0], torch.arange(T)
    is_target = segments % 2 == 1
    of_source = segments[:, None] - 1 == segments[None, :]
    of_past = (segments[:, None] == segments[None, :]) & (time[:, None] >= time[None, :])
    allowed = (of_source | of_past)[is_target]
    largest = influence.max()
    assert (influence[is_target][~allowed] <= 1e-10 * largest).all()
    seen = influence[is_target][of_source[is_target]]
    # every token of a source reaches every token of its target
    assert (seen > 1e-8 * largest).all()


# the output of an FFT depends on where its chunks begin, which differs alone and in a packed row
@pytest.mark.parametrize("name", ["heads", "one band"])
def test_the_recurrent_form_writes_what_the_parallel_one_reads(name: str) -> None:
    model, tokens = _model(**CASES[name]), some_tokens(1, T)
    packed = model(tokens, SEGMENTS)
    ends = torch.tensor(SIDES).cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    longest = max(SIDES[0:6:2])
    sources = torch.zeros(3, longest, dtype=torch.long)
    lengths = torch.tensor(SIDES[0:6:2])
    for pair in range(3):
        sources[pair, : lengths[pair]] = tokens[0, starts[2 * pair] : ends[2 * pair]]
    state = model.start(sources, lengths)
    sizes = [part.shape for part in state.sources]
    for t in range(min(SIDES[1:6:2])):
        places = torch.tensor([starts[2 * pair + 1] + t for pair in range(3)])
        logits, state = model.step_pair(tokens[0, places], state)
        torch.testing.assert_close(logits, packed[0, places])
    assert [part.shape for part in state.sources] == sizes


def test_positions_align_source_and_target() -> None:
    """Bands with a frequency tell a source from the same tokens in another order."""
    model, tokens = _model(), some_tokens(1, T)
    swapped = tokens.clone()
    swapped[0, 1:3] = tokens[0, 1:3].flip(0)
    first = slice(5, 9)
    assert (model(tokens, SEGMENTS) - model(swapped, SEGMENTS))[0, first].abs().max() > 1e-6


def test_rows_without_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="segment_ids: expected those of pairs"):
        _model()(some_tokens(1, 5))
    with pytest.raises(ValueError, match="source_layers is 2 with causal false"):
        small_config(source_layers=2, causal=False)
