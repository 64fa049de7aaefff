"""Excitation of a model by a text: carried spectra, recall maps, and the reach of a token.

Shape letters: B batch, T time (tokens), H heads, K channels of a head, S source tokens, V
vocabulary.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.monitoring.spectrum import (
    Filters,
    SpectrumObserver,
    figures_of,
    filters_of,
    read_energy,
)
from spectral.backbone import LMState
from spectral.filters.gated import GatedFilter
from spectral.filters.modal import ModalFilter
from spectral.lm import SpectralLM
from spectral.mixers.heads import HeadsMixer
from spectral.mixers.recall_heads import _vectors

# tokens of a recall map, columns of a spectrogram, rows of a pass that looks for context
MAP_TOKENS, MOST_COLUMNS, PASS_ROWS = 96, 96, 8
# a changed token counts as far as it moves the output by this share of the most
MOVES = 0.01


class RecallMap(NamedTuple):
    """Contributions of tokens to what the recall heads of a layer read.

    Attributes:
        weights_HTS: Norm of what token s wrote and token t reads, as a share of all that t reads.
        layer: Number of the layer.
    """

    weights_HTS: Tensor
    layer: int


@torch.no_grad()
def usage_of(model: SpectralLM, tokens_T: Tensor) -> dict[str, dict[str, list[float]]]:
    """Figures of every head of every filter after a text, as training samples them."""
    filters = _filters(model)
    with SpectrumObserver(model, filters) as observer:
        model(tokens_T[None])
    return figures_of(observer.table, filters)


@torch.no_grad()
def spectrograms(model: SpectralLM, tokens_T: Tensor) -> tuple[list[int], dict[str, Tensor]]:
    """Energy of each mode as it is read from the state, after more and more tokens of a text.

    Returns:
        (positions, by the filter's name the energy of its modes [modes, positions], as means over
        channels).
    """
    chunk = model.config.conv_chunk
    # gates read where chunks begin
    stride = chunk * max(1, -(-len(tokens_T) // (chunk * MOST_COLUMNS)))
    gated = {id(m.filter): m for m in model.modules() if isinstance(m, GatedFilter)}
    modules = {
        name: gated.get(id(m), m) for name, m in model.named_modules() if isinstance(m, ModalFilter)
    }
    ends: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: ends.update({name: out[1]}))
        for name, module in modules.items()
    ]
    columns: dict[str, list[Tensor]] = {name: [] for name in modules}
    positions = []
    state: LMState | None = None
    try:
        for begin in range(0, len(tokens_T), stride):
            part = tokens_T[None, begin : begin + stride]
            _, state = model.prefill(part, None, state, num_logits=1)
            positions.append(begin + part.shape[1])
            for name, module in modules.items():
                columns[name].append(read_energy(module, ends[name])[0].double().mean(0))
    finally:
        for hook in hooks:
            hook.remove()
    return positions, {name: torch.stack(parts, dim=1) for name, parts in columns.items()}


@torch.no_grad()
def recall_maps(model: SpectralLM, tokens_T: Tensor) -> list[RecallMap]:
    """Which token wrote what is read, for the last tokens of a text and each layer of recall heads.

    y_t = sum over s of (q_t . k_s) decay(s to t) v_s: a map has the norms of its terms.
    """
    maps = []
    for layer, terms_HTSK in _recall_terms(model, tokens_T[-MAP_TOKENS:]):
        norm_HTS = terms_HTSK.norm(dim=-1)
        maps.append(RecallMap(norm_HTS / norm_HTS.sum(-1, keepdim=True).clamp_min(1e-30), layer))
    return maps


def _recall_terms(model: SpectralLM, tokens_T: Tensor) -> list[tuple[int, Tensor]]:
    """Every term of the sums that the recall heads of each layer read [H, T, S, K]."""
    found: list[tuple[int, Tensor]] = []

    def watch(layer: int, mixer: HeadsMixer) -> None:
        mix_heads = mixer.mix_heads

        def watched(qkv_BT3D: Tensor, controls: Any, context: Any, past: Any) -> Any:
            # what delta heads erase, and rotations by content, are no such sum
            if controls is not None and controls.strength_BTH is controls.angle_BTHF is None:
                recall_BT3R = mixer._by_kind(qkv_BT3D)[1]
                length = recall_BT3R.shape[1]
                q, k, _, v = _vectors(recall_BT3R, controls, mixer.qk_bias, context, length)
                q_HTK, k_HTK, v_HTK = (x[0].double() for x in (q, k, v))
                total_HT = controls.log_decay_BTH[0].double().T.cumsum(-1)
                decay_HTS = (total_HT[:, :, None] - total_HT[:, None]).exp()
                score_HTS = (q_HTK @ k_HTK.mT * decay_HTS).tril()
                found.append((layer, score_HTS[..., None] * v_HTK[:, None]))
            return mix_heads(qkv_BT3D, controls, context, past)

        mixer.mix_heads = watched  # type: ignore[method-assign]

    mixers = [(i, block.mixer) for i, block in enumerate(model.blocks)]
    heads = [(i, mixer) for i, mixer in mixers if isinstance(mixer, HeadsMixer)]
    try:
        for layer, mixer in heads:
            watch(layer, mixer)
        with torch.no_grad():
            model(tokens_T[None])
    finally:
        for _, mixer in heads:
            mixer.__dict__.pop("mix_heads", None)
    return found


@torch.no_grad()
def context_reach(model: SpectralLM, tokens_T: Tensor) -> tuple[list[int], list[float]]:
    """Changes of the prediction after a text by another token at some distance.

    Returns:
        (distances in tokens from the last one, divergence of the prediction with another token
        there from that of the text, in nats).
    """
    T = len(tokens_T)
    distances = sorted({0, *(int(2 ** (p / 2)) for p in range(40))} & set(range(T)))
    generator = torch.Generator().manual_seed(0)
    shift = torch.randint(1, model.config.vocab_size, (len(distances),), generator=generator)
    rows_BT = tokens_T.repeat(len(distances), 1)
    for row, distance in enumerate(distances):
        place = T - 1 - distance
        rows_BT[row, place] = (rows_BT[row, place] + shift[row]) % model.config.vocab_size
    expected_V = _last(model, tokens_T[None])[0]
    changed_BV = torch.cat([_last(model, part) for part in rows_BT.split(PASS_ROWS)])
    divergence_B = F.kl_div(changed_BV, expected_V, reduction="none", log_target=True).sum(-1)
    return distances, divergence_B.clamp_min(0.0).tolist()


def effective_context(distances: list[int], divergences: list[float]) -> int:
    """The largest distance at which a change moves the prediction by 1% of the most."""
    most = max(divergences)
    reached = [d for d, moved in zip(distances, divergences, strict=True) if moved >= MOVES * most]
    return max(reached, default=0) if most > 0.0 else 0


def _last(model: SpectralLM, tokens_BT: Tensor) -> Tensor:
    logits_B1V, _ = model.prefill(tokens_BT, num_logits=1)
    return logits_B1V[:, 0].double().log_softmax(-1)


def _filters(model: SpectralLM) -> Filters:
    return filters_of(model, model.config.dim // model.config.num_heads)
