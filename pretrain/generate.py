"""Text from a checkpoint, by the recurrent form: every token costs the same.

Shape letters: B batch, T time (tokens), V vocabulary.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from data_pipeline.tokenizer import load_tokenizer
from pretrain.checkpoint.loading import load_model
from pretrain.commands import GenerateCommand
from pretrain.errors import RunError
from pretrain.run_directory import tokenizer_path
from spectral.lm import SpectralLM

# below it, logits divided by it overflow float32
MIN_TEMPERATURE = 1e-6


def generate(command: GenerateCommand) -> str:
    """`resonance generate`: the prompt and its continuation.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        RunError: The prompt is not UTF-8.
    """
    model, _, checkpoint = load_model(command.checkpoint)
    tokenizer = load_tokenizer(tokenizer_path(checkpoint))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        command.prompt.encode()
    except UnicodeEncodeError as error:
        raise RunError(f"--prompt: expected UTF-8 text, found other bytes ({error})") from None
    prompt = [tokenizer.bos_id, *tokenizer.encode(command.prompt)]
    stream = sample_tokens(
        model.to(device),
        torch.tensor([prompt], device=device),
        temperature=command.temperature,
        top_k=command.top_k,
        top_p=command.top_p,
        generator=torch.Generator(device).manual_seed(command.seed),
    )
    tokens: list[int] = []
    for _, token_B in zip(range(command.max_tokens), stream, strict=False):
        if int(token_B[0]) == tokenizer.eos_id:
            break
        tokens.append(int(token_B[0]))
    return tokenizer.decode([*prompt, *tokens])


@torch.no_grad()
def sample_tokens(
    model: SpectralLM,
    tokens_BT: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield next tokens [B], endlessly.

    Args:
        model: In evaluation mode.
        tokens_BT: Prompts of equal length, at least one token.
        temperature: 0, or next to it, takes the likeliest token.
        top_k: Sample among the k likeliest; 0 for all.
        top_p: Sample among the likeliest that together have this probability.
        generator: Of random numbers.
    """
    logits_BTV, state = model.prefill(tokens_BT, num_logits=1)
    logits_BV = logits_BTV[:, -1]
    while True:
        token_B = choose_token(logits_BV, temperature, top_k, top_p, generator)
        yield token_B
        logits_BV, state = model.step(token_B, state)


def choose_token(
    logits_BV: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw a token [B] from logits; see `sample_tokens`."""
    if temperature < MIN_TEMPERATURE:
        return logits_BV.argmax(-1)
    sorted_BV, order_BV = (logits_BV.float() / temperature).sort(dim=-1, descending=True)
    if top_k > 0:
        sorted_BV[:, top_k:] = float("-inf")
    probability_BV = sorted_BV.softmax(-1)
    # keep the token that crosses the threshold, so at least one remains
    before_BV = probability_BV.cumsum(-1) - probability_BV
    probability_BV = probability_BV.masked_fill(before_BV >= top_p, 0.0)
    place_B1 = torch.multinomial(probability_BV, 1, generator=generator)
    return order_BV.gather(1, place_B1)[:, 0]
