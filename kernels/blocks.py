"""Blocks of rows that fit into a processor's cache, for the references."""

import torch

# elements of a block's largest tensor: several of them stay in a second-level cache
BLOCK_ELEMENTS = 1 << 16


def cache_blocks(num_rows: int, row_elements: int, device: torch.device) -> list[slice]:
    """Slices of consecutive rows, each small enough for the cache of a CPU.

    Other devices get one block: a GPU gains nothing from small ones.

    Args:
        num_rows: Rows to divide.
        row_elements: Elements of a row in the largest tensor.
        device: Device of the tensors.
    """
    size = max(1, BLOCK_ELEMENTS // max(1, row_elements)) if device.type == "cpu" else num_rows
    return [slice(begin, begin + size) for begin in range(0, num_rows, max(1, size))]
