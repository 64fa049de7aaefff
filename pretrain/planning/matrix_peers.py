"""A stand-in for the ranks that hold the other parts of muon's matrices.

What this rank holds of a matrix says how many ranks share it; each of them owns its share of such
matrices. Real ranks share out the work by its cost, so these sums are near theirs, not equal.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist

from pretrain.checkpoint.boxes import Box
from pretrain.training import matrix_exchange


def replace_peers(replace: Callable[..., None]) -> None:
    """Replace the agreement of ranks about their matrices.

    Args:
        replace: Replaces an attribute for the time of a rehearsal.
    """

    def gather(everyone: list[Any], local: Any, **_: Any) -> None:
        everyone[:] = [local] * len(everyone)

    replace(dist, "all_gather_object", gather)
    replace(matrix_exchange, "_plan", _plan)


def _plan(own: list[Any], everyone: Sequence[Any], rank: int) -> Any:
    """The exchange of one round, from this rank's parts alone."""
    ranks = len(everyone)
    peer = (rank + 1) % ranks
    shapes = {slot.key: slot.shape for slot in own}
    held: Counter[Any] = Counter()
    for slot in own:
        held[slot.key] += slot.box.sizes[0] * slot.box.sizes[1]
    owned: dict[Any, tuple[int, ...]] = {}
    turns: Counter[int] = Counter()
    for key, (rows, columns) in shapes.items():
        holders = min(ranks, round(rows * columns / held[key]))
        if turns[holders] % holders == rank % holders:
            owned[key] = rows, columns
        turns[holders] += 1
    slots = sorted(own, key=lambda slot: slot.key not in owned)
    arriving = [(slot.key, slot.box) for slot in slots if slot.key in owned]
    sent, received = [0] * ranks, [0] * ranks
    for key, size in held.items():
        sent[rank if key in owned else peer] += size
    for key, (rows, columns) in owned.items():
        missing = rows * columns - held[key]
        received[rank] += held[key]
        received[peer] += missing
        # the values are nobody's, so any places of the matrix do
        places = (missing // columns, columns), (1, missing % columns)
        arriving += [(key, Box((0, 0), sizes)) for sizes in places if sizes[0] * sizes[1]]
    return matrix_exchange._Round(slots, sent, arriving, received, owned)
