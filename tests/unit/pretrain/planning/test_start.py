"""The largest preset starts on 512 ranks within its share and one block: shapes alone show it."""

from concurrent.futures import ProcessPoolExecutor

import pytest

from pretrain.config import RunConfig
from pretrain.planning.rehearsal import rehearse_start
from spectral.presets import PRESETS
from tests.processes import CONTEXT

RANKS, FLOAT = 512, 4
# DeepSpeed's buffer for gradients, `reduce_bucket_size`, which ZeRO 3 makes at the start
BUCKET = 500_000_000


@pytest.mark.slow
@pytest.mark.parametrize("tensor", [1, 8])
def test_the_largest_preset_never_holds_more_than_its_share_and_a_block(tensor: int) -> None:
    preset = PRESETS["xlarge"]
    run = RunConfig.model_validate(
        {
            "model": preset.model.model_dump(),
            "data": {"sequence_length": preset.context_length},
            "train": {"global_batch_size": RANKS, "micro_batch_size": 1},
            "parallel": {"zero_stage": 3, "tensor": tensor},
        }
    )
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        peak = pool.submit(rehearse_start, run, RANKS, 0).result()
    # parameters, gradients, master weights, two moments
    share = 5 * preset.num_parameters / RANKS
    block = preset.num_parameters / preset.model.num_layers
    assert peak.device_bytes - FLOAT * BUCKET < 1.2 * FLOAT * (share + block)
