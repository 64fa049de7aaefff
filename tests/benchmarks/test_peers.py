"""Peers of the comparison: causal, of equal size, and those of papers equal direct products."""

import pytest
import torch
from torch import Tensor

from benchmarks.quality.groups import GROUPS, PERMUTATIONS, examples
from benchmarks.quality.mixers_of_papers import Hyena, Retention
from benchmarks.quality.models import build, non_embedding
from benchmarks.quality.peers import PEERS
from spectral.modules.rotary import rotary_phases, rotate


def test_retention_equals_its_recurrence() -> None:
    torch.manual_seed(0)
    B, H, T, K, V = 2, 3, 9, 4, 8
    module = Retention(H * K, H).double()
    q, k, v = (torch.randn(B, H, T, width).double() for width in (K, K, V))
    phases = rotary_phases(0, T, K, 10_000.0, like=q)
    turned_q, turned_k = rotate(q, *phases), rotate(k * K**-0.5, *phases)
    state = torch.zeros(B, H, K, V).double()
    decay = 1.0 - 2.0 ** (-5.0 - torch.arange(H).double())
    expected: list[Tensor] = []
    for t in range(T):
        written = turned_k[:, :, t, :, None] * v[:, :, t, None, :]
        state = decay[:, None, None] * state + written
        expected.append(torch.einsum("bhk,bhkv->bhv", turned_q[:, :, t], state))
    torch.testing.assert_close(module.retain(q, k, v), torch.stack(expected, dim=2))


def test_hyena_equals_the_direct_product() -> None:
    torch.manual_seed(0)
    T, D = 11, 6
    module, u = Hyena(D, 16).double(), torch.randn(2, D, T).double()
    taps = module.filter(T)
    expected = module.skip[:, None] * u
    for t in range(T):
        for s in range(t + 1):
            expected[..., t] += taps[:, t - s] * u[..., s]
    torch.testing.assert_close(module.convolve(u), expected)
    with pytest.raises(ValueError, match="expected at most 16 tokens, got 17"):
        module(torch.zeros(1, 17, D).double())


@pytest.mark.parametrize("kind", PEERS)
def test_a_peer_is_causal_and_as_large_as_ours(kind: str) -> None:
    ours, model = (build(i, "small", 40, 32, {}, seed=0) for i in ("spectral", kind))
    assert non_embedding(model) == pytest.approx(non_embedding(ours), rel=0.02)
    tokens = torch.randint(40, (1, 32), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 20] = (other[:, 20] + 1) % 40
    with torch.no_grad():
        difference = (model.eval()(tokens) - model(other)).abs().amax(-1)[0]
    # an FFT's rounding is all that reaches back
    assert difference[:20].max() < 1e-4
    assert difference[20] > 1e-2
    model.train().loss(tokens, tokens).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_associative_and_its_states_are_products(group: str) -> None:
    table = GROUPS[group]
    G = range(len(table))
    assert all(table[table[a, b], c] == table[a, table[b, c]] for a in G for b in G for c in G)
    assert [sorted(row) for row in table.tolist()] == [list(G)] * len(table)
    tokens, states = examples(group, 3, 7, seed=1)
    for row, states_of_row in zip(tokens.tolist(), states.tolist(), strict=True):
        state = 0
        for token, after in zip(row, states_of_row, strict=True):
            state = int(table[state, token])
            assert state == after


def test_permutations_do_not_commute() -> None:
    table = GROUPS["S3"]
    assert PERMUTATIONS[0] == (0, 1, 2)
    assert not torch.equal(table, table.T)
