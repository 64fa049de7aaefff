"""Whole models: causal by their Jacobian, one result in every form, documents apart."""

import pytest
import torch
from pydantic import ValidationError

from spectral.lm import SpectralLM
from spectral.mixers.build import MIXERS
from tests.unit.spectral.causality.checks import (
    check_causal,
    check_gradients,
    check_isolated,
    check_recurrent,
    small_config,
    small_model,
    some_tokens,
)
from tests.unit.spectral.gates.test_spectral_gate import SETTINGS

RECALL: dict[str, dict[str, object]] = {
    "delta": {"recall_rule": "delta"},
    "turning": {"recall_phase": "data", "recall_bias": True},
    "every key": {
        "recall_rule": "delta",
        "recall_erase": "channel",
        "recall_phase": "data",
        "recall_bias": True,
    },
}
MIXTURES = {"mixed": (2,), "by turns": (), "convolution": (4,), "recall": (0,)}


@pytest.mark.parametrize("conv_heads", MIXTURES.values(), ids=MIXTURES.keys())
def test_no_logit_depends_on_a_later_token(conv_heads: tuple[int, ...]) -> None:
    check_causal(small_model(small_config(conv_heads=conv_heads)))


@pytest.mark.parametrize("conv_heads", MIXTURES.values(), ids=MIXTURES.keys())
def test_no_logit_depends_on_another_document(conv_heads: tuple[int, ...]) -> None:
    check_isolated(small_model(small_config(conv_heads=conv_heads)))


@pytest.mark.parametrize("conv_heads", MIXTURES.values(), ids=MIXTURES.keys())
@pytest.mark.parametrize("length", [1, 4, 8, 9, 30])
def test_recurrent_form_equals_parallel_form(conv_heads: tuple[int, ...], length: int) -> None:
    check_recurrent(small_model(small_config(conv_heads=conv_heads)), length)


@pytest.mark.parametrize("name", RECALL)
def test_recall_heads_of_every_kind(name: str) -> None:
    config = small_config(conv_heads=(0,), **RECALL[name])
    check_causal(small_model(config))
    check_isolated(small_model(config))
    for length in (1, 4, 9, 30):
        check_recurrent(small_model(config), length)
    check_gradients(config)


@pytest.mark.parametrize("mixer", [*MIXERS, "delta"])
@pytest.mark.parametrize("gates", ["none", "bands", "selection"])
def test_decoding_under_autocast(mixer: str, gates: str) -> None:
    """The recurrent form differs from the parallel one by a few roundings to bfloat16.

    By the median: some tokens' keys and gates enlarge rounding errors in either form.
    """
    changes = RECALL["every key"] if mixer == "delta" else {"mixers": (mixer,)}
    changes = {**changes, **SETTINGS.get(gates, {})}
    config = small_config(fft={"chunk": 8}, num_modes=8, **changes)
    model, tokens = small_model(config).float(), some_tokens(8, 30)
    errors = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = model(tokens).float()
        _, state = model.prefill(tokens[:, :13])
        for position in range(13, 30):
            logits, state = model.step(tokens[:, position], state)
            expected = whole[:, position]
            errors.append((logits - expected).norm(dim=-1) / expected.norm(dim=-1))
    # five times bfloat16's unit of rounding
    assert torch.cat(errors).median() < 5 * 2.0**-8
    with torch.no_grad():
        assert not torch.allclose(whole, model(tokens), atol=1e-4), "nothing was rounded"


def test_a_packed_document_computes_as_if_alone() -> None:
    model, tokens = small_model(small_config()), some_tokens(1, 40)
    segments = torch.zeros(1, 40, dtype=torch.long)
    segments[:, 13:] = 1
    segments[:, 29:] = 2
    packed = model(tokens, segments)
    for begin, end in ((0, 13), (13, 29), (29, 40)):
        torch.testing.assert_close(packed[:, begin:end], model(tokens[:, begin:end]))
    # and the state after it holds the last document only
    following = some_tokens(1)
    logits, _ = model.step(following, model.prefill(tokens, segments)[1])
    alone = torch.cat([tokens[:, 29:], following[:, None]], dim=1)
    torch.testing.assert_close(logits, model(alone)[:, -1])


def test_loss_is_the_cross_entropy_of_the_logits() -> None:
    model, tokens = small_model(small_config()), some_tokens(2, 20)
    labels = tokens.roll(-1, dims=1)
    labels[:, -1] = -100
    logits = model(tokens).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, labels.flatten(), reduction="sum")
    loss = model(tokens, labels_BT=labels)
    torch.testing.assert_close(loss.nll, expected)
    assert loss.auxiliary == 0.0


def test_activation_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = small_model(small_config())
        model.activation_checkpointing = checkpointing
        model(some_tokens(1, 20), labels_BT=some_tokens(1, 20)).nll.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_parameters_do_not_depend_on_chunk_lengths() -> None:
    model, tokens = small_model(small_config()), some_tokens(1, 50)
    other = SpectralLM(small_config(conv_chunk=32, recall_chunk=16)).double()
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(tokens), model(tokens))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 18}, "dim must be a multiple of num_heads, got dim=18, num_heads=4"),
        ({"conv_heads": (5,)}, "at most num_heads=4, got"),
        ({"dim": 12}, "must be even, got 3"),
        ({"conv_chunk": 0}, "greater than or equal to 1"),
        # sizes whose bytes no 64 bits hold, and layers that take hours to make
        ({"dim": 2**31}, "less than or equal to 16777216"),
        ({"num_layers": 10**9}, "less than or equal to 16384"),
        ({"recall_strength": 2.5}, "recall_strength\n  Input should be less than or equal to 2"),
        ({"recall_strength": 0.0}, "recall_strength\n  Input should be greater than 0"),
        ({"recall_rule": "rule"}, "recall_rule\n  Input should be 'decay' or 'delta'"),
        ({"recall_phase": "free"}, "recall_phase\n  Input should be 'static' or 'data'"),
        ({"depth": 3}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_architectures_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        small_config(**changes)  # type: ignore[arg-type]


def test_impossible_sequences_are_refused() -> None:
    model = small_model(small_config())
    with pytest.raises(ValueError, match="expected \\[B, T\\] with T >= 1, got \\(2, 0\\)"):
        model(some_tokens(2, 0))
    with pytest.raises(ValueError, match="got 1 then 0 at row 0, position 2"):
        model(some_tokens(1, 3), torch.tensor([[0, 1, 0]]))
    with pytest.raises(ValueError, match=r"expected shape \(1, 3\), got \(1, 2\)"):
        model(some_tokens(1, 3), torch.tensor([[0, 1]]))


@pytest.mark.parametrize("mixers", [(mixer,) for mixer in MIXERS])
def test_every_parameter_is_initialised_whatever_its_memory_held(mixers: tuple[str, ...]) -> None:
    gates = SETTINGS["everything"]
    changes = {"mixers": mixers, "embedding": "harmonic", "feed_forward": "frequency"}
    config = small_config(num_modes=8, **gates, **changes)
    model = SpectralLM(config)
    torch.manual_seed(1)
    model.reset_parameters()
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for value in model.state_dict().values():
        value.fill_(float("nan"))
    torch.manual_seed(1)
    model.reset_parameters()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
