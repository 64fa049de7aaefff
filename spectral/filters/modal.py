"""Spectral modes: causal filters that are sums of damped complex sinusoids.

    h[t] = Re sum_m a_m lambda_m^t + skip * [t = 0],    lambda_m = exp(-alpha_m + i omega_m)

One filter, three equal forms: direct (Toeplitz, the reference), chunked FFT with a carried state
(training) and recurrent (decoding).

Shape letters: B batch, D channel, T time (tokens), J chunk, C time inside a chunk, N = B * J rows,
M modes, E document starts inside a chunk.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.document_reset.op import document_reset
from kernels.fft_conv.op import fft_conv
from kernels.modal.op import modal_read, modal_state
from kernels.modal.reference import ModePowers, mode_powers
from spectral.config import ModelConfig
from spectral.layout import SINGLE_DEVICE, Layout
from spectral.sequence.documents import ChunkDocuments

# carried states [N, D, M] -> gated states of the same shape
Gate = Callable[[Tensor], Tensor]


class FilterEnd(NamedTuple):
    """Final state of a sequence, in two parts.

    Attributes:
        local_BDM: State that the last chunk built up from zero.
        carried_BDM: State that entered that chunk; zero if a document began in it.
        decay_DM: Factor by which that carried state has decayed since.
    """

    local_BDM: Tensor
    carried_BDM: Tensor
    decay_DM: Tensor

    def total(self) -> Tensor:
        """The state after the last token [B, D, M]."""
        return self.local_BDM + self.decay_DM * self.carried_BDM


class ModalFilter(nn.Module):
    """A learnable causal filter of M modes per channel.

    Time constants 1 / alpha begin log-spaced from one token to `max_time_constant`, frequencies
    random and denser towards zero. Parameters are real and none is as long as the sequence.

    Source: design of S4D (Gu et al. 2022, arXiv 2206.11893) without its discretisation.
    """

    def __init__(self, num_channels: int, num_modes: int, chunk: int, max_time_constant: float):
        super().__init__()
        self.num_channels, self.num_modes, self.chunk = num_channels, num_modes, chunk
        self.max_time_constant = max_time_constant
        self.log_decay = nn.Parameter(torch.empty(num_channels, num_modes))
        self.frequency = nn.Parameter(torch.empty(num_channels, num_modes))
        self.residue = nn.Parameter(torch.empty(num_channels, num_modes, 2))
        self.skip = nn.Parameter(torch.empty(num_channels))
        self._decay: tuple[tuple[object, ...], Tensor] | None = None
        self.reset_parameters()

    @classmethod
    def from_config(cls, config: ModelConfig, num_channels: int) -> "ModalFilter":
        """A filter with the modes and the chunk of a configuration."""
        return cls(num_channels, config.num_modes, config.conv_chunk, config.max_time_constant)

    def reset_parameters(self) -> None:
        """Initialise all parameters from the global random state."""
        with torch.no_grad():
            frequency = torch.rand_like(self.frequency) * torch.rand_like(self.frequency) * math.pi
            # modes in the order of their frequencies, so that neighbours and bands mean something;
            # time constants are assigned at random
            frequency, order = frequency.sort(dim=-1)
            log_tau = torch.linspace(0.0, math.log(self.max_time_constant), self.num_modes)
            self.frequency.copy_(frequency)
            self.log_decay.copy_(-log_tau.to(order.device)[order])
            # sqrt(2 alpha) gives each mode's impulse response unit energy
            scale_DM1 = (2.0 * self.log_decay.exp()).sqrt()[..., None]
            self.residue.normal_(std=0.3 / math.sqrt(self.num_modes)).mul_(scale_DM1)
            self.skip.fill_(1.0)

    def powers(self, start: int, length: int) -> Tensor:
        """lambda^t for t = start ... start + length - 1: complex [D, M, length].

        Long phases lose all precision in float32 (omega * 204,800 is off by hundredths of a
        radian), so exponents are evaluated in float64 at about 2 sqrt(length) times and the table
        is their outer product in the parameters' precision: relative error about 1e-7 for any t.
        """
        exponent_DM1 = self.log_lambda()[..., None]
        block = 1 << (max(length - 1, 1).bit_length() + 1) // 2
        time = torch.arange(0, max(block, length), device=exponent_DM1.device, dtype=torch.float64)
        fine_DMt = torch.exp(exponent_DM1 * time[:block])
        coarse_DMs = torch.exp(exponent_DM1 * (start + time[:length:block]))
        dtype = torch.complex128 if self.residue.dtype == torch.float64 else torch.complex64
        table = coarse_DMs.to(dtype)[..., :, None] * fine_DMt.to(dtype)[..., None, :]
        return table.flatten(-2)[..., :length]

    def log_lambda(self) -> Tensor:
        """Logarithm of lambda_m of every channel: complex128 [D, M], since phases grow long."""
        return torch.complex(-self.log_decay.double().exp(), self.frequency.double())

    def decay(self) -> Tensor:
        """lambda_m of every channel: complex128 [D, M].

        Cached in eval mode until the parameters change: decoding needs it at every token.
        """
        parts = self.log_decay, self.frequency
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.log_lambda().exp()
        key = tuple((p.device, p.data_ptr(), p._version) for p in parts)
        if self._decay is None or self._decay[0] != key:
            self._decay = key, self.log_lambda().exp()
        return self._decay[1]

    def train(self, mode: bool = True) -> "ModalFilter":
        """Set the mode, and drop the cached decay: optimizers may write to parameters unnoticed."""
        self._decay = None
        return super().train(mode)

    def amplitudes(self) -> Tensor:
        """a_m of every channel: complex [D, M]."""
        # not view_as_complex: ZeRO lays parameters end to end, also at odd offsets
        return torch.complex(self.residue[..., 0], self.residue[..., 1])

    def taps(self, powers_DMt: Tensor) -> Tensor:
        """h[t] without the skip term, from a table of powers that begins at t = 0: real [D, t]."""
        return torch.einsum("dm,dmt->dt", self.amplitudes(), powers_DMt).real

    def direct(self, u_BDT: Tensor) -> Tensor:
        """The definition, as a Toeplitz product. Cost: O(B D T^2); for tests."""
        T = u_BDT.shape[-1]
        h_DT = self.taps(self.powers(0, T))
        lag_TT = torch.arange(T)[:, None] - torch.arange(T)
        toeplitz_DTT = torch.where(lag_TT >= 0, h_DT[:, lag_TT.clamp(min=0)], 0.0)
        return torch.einsum("dts,bds->bdt", toeplitz_DTT, u_BDT) + self.skip[:, None] * u_BDT

    def forward(
        self,
        u_BDT: Tensor,
        documents: ChunkDocuments | None = None,
        state_BDM: Tensor | None = None,
        layout: Layout = SINGLE_DEVICE,
        gate: Gate | None = None,
    ) -> tuple[Tensor, Any, None]:
        """Chunked form: every chunk by FFT, everything older through the carried state.

        Args:
            u_BDT: Signal.
            documents: Borders in chunks of min(chunk, T) tokens; nothing crosses a border.
            state_BDM: State after the tokens before this sequence (zero if None), complex.
            layout: Carries states to later spans.
            gate: Function of the carried states [B * J, D, M] that gives the states to read.

        Returns:
            (y_BDT, final state, no losses). The final state is [B, D, M] or, with a gate, its two
            parts (`FilterEnd`).

        Cost: O(B D T (log C + M)) time, O(B D T) memory. Exact for every chunk length.
        """
        B, D, T = u_BDT.shape
        C = min(self.chunk, T)
        J = -(-T // C)
        last_length = T - (J - 1) * C
        share = layout.heads.share
        log_lambda_DM, residue_DM = share(self.log_lambda()), share(self.amplitudes())
        powers = mode_powers(log_lambda_DM, C, residue_DM.dtype)
        if last_length < C:
            u_BDT = F.pad(u_BDT, (0, C - last_length))
        u_DNC = u_BDT.transpose(0, 1).reshape(D, B * J, C).contiguous()
        before_NC = after_NC = None
        if documents is not None:
            before_NC = documents.before_first_BJC.view(B * J, C)
            after_NC = documents.after_last_BJC.view(B * J, C)
        update_BJDM = modal_state(u_DNC, powers, after_NC).view(D, B, J, -1).permute(1, 2, 0, 3)
        decay_JDM = (C * log_lambda_DM).exp().to(residue_DM.dtype).expand(J, -1, -1)
        local_BDM, decay_DM = update_BJDM[:, -1], decay_JDM[-1]
        if last_length < C:
            # the state at the end of the last chunk, which is shorter
            last_DBr = u_DNC.view(D, B, J, C)[:, :, -1, :last_length]
            after_Br = None if after_NC is None else after_NC.view(B, J, C)[:, -1, :last_length]
            local_BDM = modal_state(last_DBr, powers, after_Br).transpose(0, 1)
            decay_DM = (last_length * log_lambda_DM).exp().to(residue_DM.dtype)
            update_BJDM = torch.cat([update_BJDM[:, :-1], local_BDM[:, None]], dim=1)
            decay_JDM = torch.cat([decay_JDM[:-1], decay_DM[None]])
        decay_BJDM = decay_JDM.expand(B, -1, -1, -1)
        if documents is not None:
            decay_BJDM = decay_BJDM * documents.keep_BJ[..., None, None]
        if state_BDM is None:
            state_BDM = update_BJDM.new_zeros(B, D, self.num_modes)
        carry = layout.span.start_carry(
            decay_BJDM.flatten(2),
            update_BJDM.flatten(2)[..., None],
            state_BDM.flatten(1)[..., None],
        )

        # a mode is read immediately in its chunk, and one token later in the next
        scale_DM = residue_DM * log_lambda_DM.exp().to(residue_DM.dtype)
        skip_D1C = F.pad(share(self.skip)[:, None, None], (0, C - 1))
        h_D1C = modal_read(residue_DM[:, None], powers, skip_D1C)
        y_DNC = fft_conv(u_DNC, h_D1C[:, 0])
        if documents is not None:
            y_DNC = self._isolate(y_DNC, u_DNC, scale_DM, powers, documents)
        incoming_BJN1, _ = carry.wait()
        incoming_NDM = incoming_BJN1.view(B * J, D, -1)
        read_NDM = incoming_NDM if gate is None else gate(incoming_NDM)
        y_DNC = modal_read((scale_DM * read_NDM).transpose(0, 1), powers, y_DNC, before_NC)
        y_BDT = y_DNC.view(D, B, J * C).transpose(0, 1)[..., :T]

        last_BDM = incoming_NDM.view(B, J, D, -1)[:, -1]
        if documents is not None:
            last_BDM = last_BDM * documents.keep_BJ[:, -1, None, None]
        end = FilterEnd(local_BDM, last_BDM, decay_DM)
        return y_BDT, end if gate else end.total(), None

    def step(
        self,
        u_BD: Tensor,
        state_BDM: Tensor,
        position: int = 0,
        layout: Layout = SINGLE_DEVICE,
    ) -> tuple[Tensor, Tensor]:
        """Recurrent form: one token. Constant time and memory: O(B D M).

        Without gates, `position` and `layout` have no effect.

        Products are complex128: powers of a rounded lambda drift by 1e-4 in 204,800 steps.
        """
        del position, layout
        state_BDM = (state_BDM * self.decay()).to(state_BDM.dtype) + u_BD[..., None]
        y_BD = (self.amplitudes() * state_BDM).sum(-1).real
        return y_BD + self.skip * u_BD, state_BDM

    def _isolate(
        self,
        y_DNC: Tensor,
        u_DNC: Tensor,
        scale_DM: Tensor,
        powers: ModePowers,
        documents: ChunkDocuments,
    ) -> Tensor:
        """The output without the signal that the chunk's FFT leaked from earlier documents."""
        return document_reset(
            y_DNC, u_DNC, scale_DM, powers, documents.row_E, documents.start_E, documents.stop_E
        )
