"""What must hold of every causal model: checks that raise, for models as they are and as broken."""

import torch
from torch import Tensor

from spectral.config import ModelConfig
from spectral.lm import SpectralLM

# In chunks of 8: borders inside chunks, at an edge, two in a row, and a document that begins inside
# a chunk and goes on in the next.
SEGMENTS = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5])[None]
T = SEGMENTS.shape[1]


def small_config(**changes: object) -> ModelConfig:
    """A few thousand parameters, and filters that hardly fade: fast ones hide leaks."""
    values: dict[str, object] = {
        "vocab_size": 40,
        "dim": 16,
        "num_layers": 2,
        "num_heads": 4,
        "conv_heads": (2,),
        "num_modes": 3,
        "conv_chunk": 8,
        "recall_chunk": 4,
        "ffn_dim": 24,
        "max_time_constant": 1e6,
    }
    return ModelConfig.model_validate(values | changes)


def small_model(config: ModelConfig) -> SpectralLM:
    """In float64, as far from the initial values as training goes and far from the identity."""
    torch.manual_seed(0)
    model = SpectralLM(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def some_tokens(*shape: int) -> Tensor:
    """The same random token ids at every call."""
    return torch.randint(40, shape, generator=torch.Generator().manual_seed(3))


def influence(model: SpectralLM, segments_BT: Tensor | None) -> Tensor:
    """[T, T]: how much the logits at t move with the embedding of the token at s."""
    embedded: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    handle = model.embedding.register_forward_hook(keep)
    logits = model(some_tokens(1, T), segments_BT)
    handle.remove()
    generator = torch.Generator().manual_seed(1)
    rows = []
    for t in range(T):
        direction = torch.randn(logits.shape[-1], generator=generator, dtype=logits.dtype)
        (grad,) = torch.autograd.grad(logits[0, t] @ direction, embedded[0], retain_graph=True)
        rows.append(grad[0].norm(dim=-1))
    return torch.stack(rows)


def check_causal(model: SpectralLM) -> None:
    """No logit depends on a later token, and every logit on every earlier one."""
    influence_TT = influence(model, None)
    limit = 1e-6 * influence_TT.max()
    assert influence_TT.triu(1).max() <= limit, "a logit sees the future"
    assert torch.equal(influence_TT > limit, torch.ones(T, T, dtype=torch.bool).tril()), (
        "a logit does not see its past"
    )


def check_isolated(model: SpectralLM) -> None:
    """No logit depends on another document, and every logit on all of its own's past.

    Nor does what is decoded after a packed prompt.
    """
    influence_TT = influence(model, SEGMENTS)
    limit = 1e-6 * influence_TT.max()
    same_TT = SEGMENTS.T == SEGMENTS
    assert (influence_TT * ~same_TT).max() <= limit, "a logit sees another document"
    assert torch.equal(influence_TT > limit, same_TT.tril()), "a logit does not see its document"
    check_state_isolated(model)


def check_bidirectional(model: SpectralLM, segments_BT: Tensor | None) -> None:
    """Every logit depends on every token of its document, and on no other."""
    influence_TT = influence(model, segments_BT)
    limit = 1e-6 * influence_TT.max()
    same_TT = torch.ones(T, T, dtype=torch.bool)
    if segments_BT is not None:
        same_TT = segments_BT == segments_BT.T
    assert (influence_TT * ~same_TT).max() <= limit, "a logit sees another document"
    assert torch.equal(influence_TT > limit, same_TT), "a logit does not see its document"


@torch.no_grad()
def check_recurrent(model: SpectralLM, length: int = T) -> None:
    """One token at a time gives the logits of the whole sequence."""
    tokens = some_tokens(2, length)
    parallel = model(tokens)
    logits, state = model.prefill(tokens[:, :1])
    outputs = [logits[:, 0]]
    for t in range(1, length):
        logits, state = model.step(tokens[:, t], state)
        outputs.append(logits)
    assert state.position == length
    torch.testing.assert_close(torch.stack(outputs, dim=1), parallel)


@torch.no_grad()
def check_state_isolated(model: SpectralLM) -> None:
    """What comes after a packed prompt hears its last document only."""
    # one border more for the last chunk, and one for the chunk before it
    for length in (T - 1, T):
        segments = SEGMENTS[:, :length]
        tokens = some_tokens(1, length)
        others = torch.where(segments == segments[:, -1:], tokens, (tokens + 7) % 40)
        states = [model.prefill(row, segments)[1] for row in (tokens, others)]
        for token in some_tokens(12):
            steps = [model.step(token[None], state) for state in states]
            states = [state for _, state in steps]
            difference = (steps[0][0] - steps[1][0]).abs().max()
            assert difference < 1e-9, "a state hears another document"


def check_gradients(config: ModelConfig) -> None:
    """Training moves every parameter, auxiliary losses included."""
    model = small_model(config).train()
    loss = model(some_tokens(2, 40), labels_BT=some_tokens(2, 40))
    (loss.nll + loss.auxiliary).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
