"""Whole models: causal by their Jacobian, one result in every form, documents apart."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from spectral.config import ModelConfig
from spectral.lm import SpectralLM

MIXTURES = {"mixed": (2,), "alternating": (4, 0), "convolution": (4,), "recall": (0,)}


def _config(conv_heads: tuple[int, ...] = (2,), **changes: object) -> ModelConfig:
    values: dict[str, object] = {
        "vocab_size": 40,
        "dim": 16,
        "num_layers": 2,
        "num_heads": 4,
        "conv_heads": conv_heads,
        "num_modes": 3,
        "conv_chunk": 8,
        "recall_chunk": 4,
        "ffn_dim": 24,
        "max_time_constant": 1e6,
    }
    return ModelConfig.model_validate(values | changes)


def _model(config: ModelConfig) -> SpectralLM:
    torch.manual_seed(0)
    model = SpectralLM(config).double()
    with torch.no_grad():
        # as far from the initial values as training goes, and far from the identity
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def _tokens(*shape: int) -> Tensor:
    return torch.randint(40, shape, generator=torch.Generator().manual_seed(3))


def _jacobian(model: SpectralLM, tokens_BT: Tensor, segments_BT: Tensor | None) -> Tensor:
    """[T, T]: how much the logits at t move with the embedding of the token at s."""
    T = tokens_BT.shape[1]
    embedded: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.embedding.register_forward_hook(keep)
    logits = model(tokens_BT, segments_BT)
    handle.remove()
    rows = []
    for t in range(T):
        direction = torch.randn_like(logits[0, t])
        (grad,) = torch.autograd.grad(logits[0, t] @ direction, embedded[0], retain_graph=True)
        rows.append(grad[0].norm(dim=-1))
    return torch.stack(rows)


@pytest.mark.parametrize("conv_heads", MIXTURES.values(), ids=MIXTURES.keys())
def test_no_logit_depends_on_a_later_token(conv_heads: tuple[int, ...]) -> None:
    model = _model(_config(conv_heads))
    influence_TT = _jacobian(model, _tokens(1, 21), None)
    future = influence_TT.triu(1)
    assert future.max() <= 1e-6 * influence_TT.max()
    # and the past is really seen, all of it
    assert (influence_TT > 1e-6 * influence_TT.max()).sum() == 21 * 22 // 2


@pytest.mark.parametrize("conv_heads", MIXTURES.values(), ids=MIXTURES.keys())
def test_no_logit_depends_on_another_document(conv_heads: tuple[int, ...]) -> None:
    # borders inside chunks, at their edges, and two in a row
    segments = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5])[None]
    influence_TT = _jacobian(_model(_config(conv_heads)), _tokens(1, 21), segments)
    same_TT = segments.T == segments
    assert (influence_TT * ~same_TT).max() <= 1e-6 * influence_TT.max()
    seen_TT = influence_TT > 1e-6 * influence_TT.max()
    assert torch.equal(seen_TT, same_TT.tril())


@pytest.mark.parametrize("conv_heads", MIXTURES.values(), ids=MIXTURES.keys())
@pytest.mark.parametrize("T", [1, 4, 8, 9, 30])
def test_recurrent_form_equals_parallel_form(conv_heads: tuple[int, ...], T: int) -> None:
    model, tokens = _model(_config(conv_heads)), _tokens(2, T)
    parallel = model(tokens)
    logits, state = model.prefill(tokens[:, :1])
    outputs = [logits[:, 0]]
    for t in range(1, T):
        logits, state = model.step(tokens[:, t], state)
        outputs.append(logits)
    assert state.position == T
    torch.testing.assert_close(torch.stack(outputs, dim=1), parallel)


def test_a_packed_document_computes_as_if_alone() -> None:
    model, tokens = _model(_config()), _tokens(1, 40)
    segments = torch.zeros(1, 40, dtype=torch.long)
    segments[:, 13:] = 1
    segments[:, 29:] = 2
    packed = model(tokens, segments)
    for begin, end in ((0, 13), (13, 29), (29, 40)):
        torch.testing.assert_close(packed[:, begin:end], model(tokens[:, begin:end]))
    # and the state after it holds the last document only
    following = _tokens(1)
    logits, _ = model.step(following, model.prefill(tokens, segments)[1])
    alone = torch.cat([tokens[:, 29:], following[:, None]], dim=1)
    torch.testing.assert_close(logits, model(alone)[:, -1])


def test_loss_is_the_cross_entropy_of_the_logits() -> None:
    model, tokens = _model(_config()), _tokens(2, 20)
    labels = tokens.roll(-1, dims=1)
    labels[:, -1] = -100
    logits = model(tokens).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum")
    torch.testing.assert_close(model(tokens, labels_BT=labels), expected)


def test_activation_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = _model(_config())
        model.activation_checkpointing = checkpointing
        model(_tokens(1, 20), labels_BT=_tokens(1, 20)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_parameters_do_not_depend_on_chunk_lengths() -> None:
    model, tokens = _model(_config()), _tokens(1, 50)
    other = SpectralLM(_config(conv_chunk=32, recall_chunk=16)).double()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(tokens), model(tokens))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 18}, "dim must be a multiple of num_heads, got dim=18, num_heads=4"),
        ({"conv_heads": (5,)}, "at most num_heads=4, got"),
        ({"dim": 12}, "must be even, got 3"),
        ({"conv_chunk": 0}, "greater than or equal to 1"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_architectures_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _config(**changes)  # type: ignore[arg-type]


def test_impossible_sequences_are_refused() -> None:
    model = _model(_config())
    with pytest.raises(ValueError, match="expected \\[B, T\\] with T >= 1, got \\(2, 0\\)"):
        model(_tokens(2, 0))
    with pytest.raises(ValueError, match="got 1 then 0 at row 0, position 2"):
        model(_tokens(1, 3), torch.tensor([[0, 1, 0]]))
    with pytest.raises(ValueError, match=r"expected shape \(1, 3\), got \(1, 2\)"):
        model(_tokens(1, 3), torch.tensor([[0, 1]]))
