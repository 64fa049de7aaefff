"""Runs that go on with fewer machines: is every number of them possible? (imports no torch)

The data axis shrinks; tensor ranks, stages and sequence ranks stay. So the batch must divide over
all the numbers of data ranks that a run may come to have.
"""

import math
from collections.abc import Sequence

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.parallel.layout_checks import check_layout, data_ranks, near


def check_fewer_nodes(run: RunConfig, ranks_per_node: int) -> list[int]:
    """Refuse a run that some number of its machines could not carry out.

    Args:
        run: Its `[launch]` says how many machines there are, and how many are enough.
        ranks_per_node: Ranks of each machine.

    Returns:
        The numbers of ranks that it may have, the planned one first.

    Raises:
        RunError: Names the number of machines, the keys, and the nearest values that work.
    """
    config = run.launch
    fewest = config.min_nodes or config.nodes
    ranks = [nodes * ranks_per_node for nodes in range(config.nodes, fewest - 1, -1)]
    check_layout(run, ranks[0])
    for number in ranks[1:]:
        try:
            check_layout(run, number)
        except RunError as error:
            raise RunError(
                f"launch.min_nodes is {fewest} of {config.nodes}, but with "
                f"{number // ranks_per_node} machines {error}; or launch.min_nodes "
                f"{number // ranks_per_node + 1}{_batch_for_all(run, ranks)}"
            ) from None
    return ranks


def _batch_for_all(run: RunConfig, ranks: Sequence[int]) -> str:
    """The batches that divide over every number of data ranks, if the axes do."""
    if any(number % run.parallel.model_ranks for number in ranks):
        return ""
    train = run.train
    unit = train.micro_batch_size * math.lcm(*(data_ranks(run, number) for number in ranks))
    if train.global_batch_size % unit == 0:
        return ""
    return f", or for all of them train.global_batch_size {near(train.global_batch_size, unit)}"
