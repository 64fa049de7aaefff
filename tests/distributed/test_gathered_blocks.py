"""ZeRO 3 gathers a block as a whole, whatever its layers read and wherever they read it."""

import pytest
import torch

from benchmarks.harness.layout_runner import measure_layout
from pretrain.config import RunConfig

MODEL = {"vocab_size": 64, "dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 32}


@pytest.mark.parametrize("mixer", ["fft", "wavelet"])
def test_parameters_read_outside_of_forward_are_there_when_recomputed(mixer: str) -> None:
    run = RunConfig.model_validate(
        {
            "model": MODEL | {"mixers": (mixer,)},
            "data": {"sequence_length": 128},
            "train": {
                "global_batch_size": 4,
                "micro_batch_size": 1,
                "activation_checkpointing": "full",
            },
            "parallel": {"zero_stage": 3},
        }
    )
    torch.manual_seed(0)
    tokens = torch.randint(64, (4 * 128 * 2 + 1,))
    losses = [measure_layout(run, ranks, tokens, 2).losses for ranks in (1, 2)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
