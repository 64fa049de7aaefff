"""Overlapping frames of a sequence and their spectra: input and output of the hierarchical FFT.

Frame j holds C new tokens and V that it shares with its neighbour, F = C + V in all. Frames are
weighted by a learned window, transformed, and joined by a learned cross-fade that undoes the
window: synthesis(analysis(x)) = x.

Shape letters: B batch, D channels, T time (tokens), J frames, C new tokens of a frame, V tokens
that two frames share, F = C + V, K = F // 2 + 1 bins.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def window_functions(length: int, like: Tensor) -> Tensor:
    """Hann, Hamming and rectangular window, periodic, as SciPy's `get_window`: [3, length]."""
    place = torch.arange(length, dtype=like.dtype, device=like.device) / length
    cosine = (2.0 * math.pi * place).cos() if length > 1 else -torch.ones_like(place)
    return torch.stack([0.5 - 0.5 * cosine, 0.54 - 0.46 * cosine, torch.ones_like(cosine)])


class Frames(nn.Module):
    """Learned analysis window and cross-fade of one layer.

    Frame length is an argument; no parameter depends on it.
    """

    def __init__(self, overlap: float):
        super().__init__()
        self.overlap = overlap
        self.window_logits = nn.Parameter(torch.empty(3))
        # logarithm of the steepness, and position, of the cross-fade
        self.fade = nn.Parameter(torch.empty(2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise with an equal mixture of the three windows, and a gentle cross-fade."""
        nn.init.zeros_(self.window_logits)
        with torch.no_grad():
            self.fade.copy_(torch.tensor([math.log(3.0), 0.0]))

    def shared(self, chunk: int) -> int:
        """Tokens V that frames of `chunk` new tokens share: at least one if there is overlap."""
        return math.ceil(self.overlap * chunk)

    def window(self, length: int) -> Tensor:
        """Softmax-weighted mixture of the three windows [F], positive where frames count."""
        shares_3 = self.window_logits.softmax(0)
        return shares_3 @ window_functions(length, shares_3)

    def fade_in(self, shared: int) -> Tensor:
        """Weight of the later of two frames where they overlap [V]; the earlier has the rest."""
        place_V = (
            torch.arange(shared, dtype=self.fade.dtype, device=self.fade.device) + 0.5
        ) / max(shared, 1)
        return (self.fade[0].exp() * (2.0 * place_V - 1.0 - self.fade[1])).sigmoid()

    def weights(self, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
        """Synthesis weights of a frame [F], the first one's head [V] and the last one's tail [V].

        Cross-faded frames are divided by the cross-faded window.
        """
        shared = self.shared(chunk)
        window_F, later_V = self.window(chunk + shared), self.fade_in(shared)
        head_V, tail_V = window_F[:shared], window_F[chunk:]
        faded_V = later_V * head_V + (1.0 - later_V) * tail_V
        weights_F = torch.cat(
            [later_V / faded_V, 1.0 / window_F[shared:chunk], (1.0 - later_V) / faded_V]
        )
        return weights_F, 1.0 / head_V, 1.0 / tail_V

    def analysis(self, u_BDT: Tensor, chunk: int) -> Tensor:
        """Spectra of frames centred on chunks: complex [B, J, D, K]. Cost: O(B D T log C)."""
        T, V = u_BDT.shape[-1], self.shared(chunk)
        left, J = -(-V // 2), -(-T // chunk)
        padded_BDT = F.pad(u_BDT, (left, J * chunk - T + V - left))
        frames_BDJF = padded_BDT.unfold(-1, chunk + V, chunk)
        return self.spectra(frames_BDJF.transpose(1, 2))

    def spectra(self, frames_BJDF: Tensor) -> Tensor:
        """Windowed FFT of frames that are cut already: complex [B, J, D, K]."""
        return torch.fft.rfft(frames_BJDF * self.window(frames_BJDF.shape[-1]))

    def synthesis(self, spectra_BJDK: Tensor, chunk: int, length: int) -> Tensor:
        """The signal [B, D, T] whose frames have these spectra; inverse of `analysis`."""
        V = self.shared(chunk)
        frames_BJDF = torch.fft.irfft(spectra_BJDK, n=chunk + V)
        weights_F, head_V, tail_V = self.weights(chunk)
        J = frames_BJDF.shape[1]
        weights_JF = weights_F.expand(J, -1)
        # nothing fades into the first frame nor out of the last
        first_JF = torch.cat([head_V, weights_F[V:]]).expand(1, -1)
        weights_JF = torch.cat([first_JF, weights_JF[1:]])
        last_1F = torch.cat([weights_JF[-1, :chunk], tail_V])[None]
        weights_JF = torch.cat([weights_JF[:-1], last_1F])
        frames_BJDF = frames_BJDF * weights_JF[:, None]
        tail_BJDV = frames_BJDF[..., chunk:]
        before_BJDV = F.pad(tail_BJDV[:, :-1], (0, 0, 0, 0, 1, 0))
        chunks_BJDC = add_head(frames_BJDF[..., :chunk], before_BJDV)
        signal_BDT = chunks_BJDC.transpose(1, 2).flatten(-2)
        signal_BDT = torch.cat([signal_BDT, tail_BJDV[:, -1]], dim=-1)
        left = -(-V // 2)
        return signal_BDT[..., left : left + length]


def add_head(chunks_C: Tensor, tails_V: Tensor) -> Tensor:
    """Add the tails of the frames before to the first V tokens of chunks."""
    return chunks_C + F.pad(tails_V, (0, chunks_C.shape[-1] - tails_V.shape[-1]))
