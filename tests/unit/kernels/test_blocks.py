"""Blocks for the cache: every row once, small ones on a CPU, one elsewhere."""

import pytest
import torch

from kernels import blocks


@pytest.mark.parametrize(("num_rows", "row_elements"), [(0, 8), (1, 8), (10, 8), (12, 8), (3, 99)])
def test_blocks_hold_every_row_once_and_fit(
    num_rows: int, row_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 32)
    rows = range(num_rows)
    parts = [
        rows[part] for part in blocks.cache_blocks(num_rows, row_elements, torch.device("cpu"))
    ]
    assert [row for part in parts for row in part] == list(rows)
    # a row that does not fit is a separate block
    assert all(len(part) * row_elements <= max(32, row_elements) for part in parts)


def test_other_devices_get_one_block() -> None:
    assert blocks.cache_blocks(10**6, 10**6, torch.device("meta")) == [slice(0, 10**6)]
