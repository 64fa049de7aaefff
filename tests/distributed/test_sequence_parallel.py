"""Operators on spans of a sequence: exact, and cheap on the wire whatever the length."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.distributed.ranks import run_ranks


def _axis() -> Any:
    from pretrain.parallel.mesh import Axis

    return Axis(dist.get_world_size(), dist.get_rank(), dist.group.WORLD)


def _integers(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).double()


def _oracle(rank: int) -> None:
    """lambda = 1, -1, i, -i makes every tap an integer, and nothing ever fades."""
    from pretrain.parallel.sequence_parallel import RankSpan
    from spectral.filters.modal import ModalFilter
    from spectral.layout import Layout
    from spectral.sequence.documents import chunk_documents

    axis = _axis()
    span = RankSpan(axis)
    for length in (1, 2, 3, 7, 8, 9, 17, 40):
        for chunk in (1, 4, 8, 64):
            module = ModalFilter(2, 4, chunk, 8.0).double()
            with torch.no_grad():
                module.log_decay.fill_(-math.inf)
                module.frequency.copy_(torch.arange(4) * math.pi / 2)
                module.residue.copy_(_integers((2, 4, 2), seed=length))
                module.skip.copy_(_integers((2,), seed=chunk))
            T = length * axis.size
            u, segments = _integers((2, 2, T), seed=T), torch.zeros(2, T, dtype=torch.long)
            for border in (T // 3, T // 2, length):
                segments[1, border:] += 1
            own = slice(rank * length, (rank + 1) * length)
            lag = torch.arange(T)[:, None] - torch.arange(T)
            h = module.taps(module.powers(0, T)).round()
            # forwards, and with the same filter backwards
            for direction in (span, span.reversed()):
                part, ids = u[..., own], segments[:, own]
                if direction is not span:
                    part, ids, lag = part.flip(-1), ids.flip(-1), -lag
                before = direction.before(ids, 1)
                documents = chunk_documents(ids, min(chunk, length), before)
                y, state, _ = module(part, documents, layout=Layout(span=direction))
                seen = (lag >= 0) & (segments[:, :, None] == segments[:, None, :])[:, None]
                toeplitz = torch.where(seen, h[:, lag.clamp(min=0)], 0.0)
                expected = torch.einsum("bdts,bds->bdt", toeplitz, u) + module.skip[:, None] * u
                y = y if direction is span else y.flip(-1)
                assert torch.equal(y.round(), expected[..., own]), (length, chunk, direction)
                assert state.isfinite().all()


def _moved(rank: int) -> None:
    from tests.distributed.all_to_all_convolution import long_convolution

    axis = _axis()
    length, past = 6, 4
    T = length * axis.size
    u, h = _integers((2, 8, T), seed=1), _integers((8, 9), seed=2)
    own = slice(rank * length, (rank + 1) * length)
    part = u[..., own].clone().requires_grad_()
    y = long_convolution(part, h, past, axis)
    expected = torch.zeros_like(u)
    for t in range(T):
        for tap in range(9):
            if 0 <= t + past - tap < T:
                expected[..., t] += h[:, tap] * u[..., t + past - tap]
    assert torch.equal(y.round(), expected[..., own])
    weight = _integers((2, 8, T), seed=3)
    (y * weight[..., own]).sum().backward()
    whole = u.clone().requires_grad_()
    padded = torch.nn.functional.pad(whole, (8 - past, past)).unfold(-1, 9, 1)
    ((padded * h.flip(-1)[:, None]).sum(-1) * weight).sum().backward()
    assert part.grad is not None
    assert whole.grad is not None
    assert torch.equal(part.grad.round(), whole.grad[..., own].round())


def _wire(rank: int, folder: Path) -> None:
    """Bytes of one forward and backward pass of every mixer, and of the form that moves data."""
    from pretrain.parallel.sequence_parallel import RankSpan
    from pretrain.planning.traffic import TrafficCounter
    from spectral.layout import Layout
    from spectral.lm import SpectralLM
    from tests.distributed.all_to_all_convolution import long_convolution
    from tests.distributed.features import EVERYTHING, config

    axis = _axis()
    found: dict[tuple[str, int], int] = {}
    cases = {
        "heads": config(conv_chunk=64),
        "delta": config(conv_chunk=64, recall_rule="delta", recall_phase="data"),
        "gated": config(conv_chunk=64, **EVERYTHING),
        "fft": config(mixers=("fft",), fft={"chunk": 2048}, conv_chunk=64),
        "wavelet": config(mixers=("wavelet",), conv_chunk=64),
        "encoder": config(conv_chunk=64, causal=False),
    }
    for T in (8_192, 204_800):
        for name, model_config in cases.items():
            torch.manual_seed(0)
            model = SpectralLM(model_config)
            model.layout = Layout(span=RankSpan(axis))
            tokens = torch.zeros(1, T // axis.size, dtype=torch.long)
            with TrafficCounter() as wire:
                loss = model(tokens, None, tokens)
                (loss.nll + loss.auxiliary).backward()
            found[name, T] = wire.total
        u = torch.zeros(1, 32, T // axis.size, requires_grad=True)
        with TrafficCounter() as wire:
            long_convolution(u, torch.zeros(32, 8), 0, axis).sum().backward()
        # one convolution; the models have two layers
        found["moved", T] = 2 * wire.total
    if rank == 0:
        torch.save(found, folder / "bytes.pt")


@pytest.mark.parametrize("ranks", [2, 4])
def test_convolution_on_ranks_is_the_direct_product_exactly(ranks: int, tmp_path: Path) -> None:
    run_ranks(_oracle, ranks, tmp_path)


def test_moving_the_sequence_gives_the_direct_product_and_its_gradient(tmp_path: Path) -> None:
    run_ranks(_moved, 2, tmp_path)


def test_bytes_on_the_wire_do_not_depend_on_the_length(tmp_path: Path) -> None:
    run_ranks(_wire, 2, tmp_path, tmp_path)
    found: dict[tuple[str, int], int] = torch.load(tmp_path / "bytes.pt")
    for name in {name for name, _ in found} - {"moved"}:
        assert 0 < found[name, 8_192] == found[name, 204_800]
    assert found["moved", 204_800] == 25 * found["moved", 8_192]
    # one exchange each way
    assert found["encoder", 8_192] <= 2 * found["heads", 8_192]
    for name in ("heads", "delta", "gated", "wavelet", "encoder"):
        assert found["moved", 204_800] > 20 * found[name, 204_800]
