"""Loss on text files: with a carried state, or with sliding windows.

Shape letters: T time (tokens), V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.commands import EvaluateCommand
from pretrain.errors import RunError
from pretrain.evaluation.text_loss import TextLoss, read_text
from pretrain.huggingface.load import load_pretrained
from spectral.backbone import LMState
from spectral.lm import SpectralLM

# tokens per forward pass of an exported folder, which does not record the training length
DEFAULT_WINDOW = 2_048


def evaluate_text(command: EvaluateCommand) -> str:
    """Loss, perplexity and bits per byte of each file and of all together.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: A file cannot be read, or is not UTF-8.
        RunError: The windows are impossible.
    """
    loaded = load_pretrained(command.checkpoint)
    trained = loaded.run.data.sequence_length if loaded.run else DEFAULT_WINDOW
    window = command.sequence_length or trained
    stride = command.stride or max(1, window // 2)
    if stride > window:
        raise RunError(f"--stride is {stride}; expected at most the window, {window}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = loaded.model.to(device)
    losses = []
    for file in command.text:
        text = read_text(file)
        ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(text)]
        tokens = torch.tensor(ids, device=device)
        if command.state == "carried":
            nll_T = carried_nll(model, tokens, window)
        else:
            nll_T = sliding_nll(model, tokens, window, stride)
        total = float(nll_T.double().sum())
        losses.append(TextLoss(str(file), total, len(nll_T), len(text.encode())))
    if len(losses) > 1:
        sums = (sum(column) for column in zip(*(loss[1:] for loss in losses), strict=True))
        losses.append(TextLoss("all", *sums))
    return "\n".join(map(str, losses))


@torch.no_grad()
def carried_nll(model: SpectralLM, tokens_T: Tensor, window: int) -> Tensor:
    """Negative log-likelihood of each token after the first, given all before it [T - 1].

    Exact for any length, in constant memory: the state is passed from window to window.
    """
    # windows begin where chunks begin, because gates depend on a chunk's beginning
    chunk = model.config.conv_chunk
    window = -(-window // chunk) * chunk
    state: LMState | None = None
    losses = []
    inputs, labels = tokens_T[:-1], tokens_T[1:]
    for start in range(0, len(inputs), window):
        part = inputs[start : start + window]
        logits_BTV, state = model.prefill(part[None], None, state)
        label_T = labels[start : start + window]
        losses.append(F.cross_entropy(logits_BTV[0].float(), label_T, reduction="none"))
    return torch.cat(losses) if losses else tokens_T.new_zeros(0, dtype=torch.float32)


@torch.no_grad()
def sliding_nll(model: SpectralLM, tokens_T: Tensor, window: int, stride: int) -> Tensor:
    """Negative log-likelihood of each token after the first, given at most `window` before it.

    Each window starts from an empty state; its last `stride` tokens count (in the first, all).
    """
    inputs, labels = tokens_T[:-1], tokens_T[1:]
    losses, done = [], 0
    while done < len(inputs):
        end = min(len(inputs), window if done == 0 else done + stride)
        begin = max(0, end - window)
        logits_BTV, _ = model.prefill(inputs[None, begin:end], num_logits=end - done)
        losses.append(F.cross_entropy(logits_BTV[0].float(), labels[done:end], reduction="none"))
        done = end
    return torch.cat(losses) if losses else tokens_T.new_zeros(0, dtype=torch.float32)
