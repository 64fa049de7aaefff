"""Check of all numbers of machines that an elastic run may have (imports no torch).

With fewer machines the data axis shrinks; tensor ranks, stages and sequence ranks stay. So the
batch must divide over all possible numbers of data ranks.
"""

import math
from collections.abc import Sequence

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.parallel.layout_checks import check_layout, data_ranks, near


def check_fewer_nodes(run: RunConfig, ranks_per_node: int) -> list[int]:
    """The numbers of ranks that a run may have, the planned number first.

    Args:
        run: The run; its `[launch]` table has the planned and the minimum number of machines.
        ranks_per_node: Ranks of each machine.

    Raises:
        RunError: The layout is impossible on some number of machines; names it, the keys, and the
            nearest values that work.
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
    """A remedy: the nearest batch sizes that divide over all numbers of data ranks, if any do."""
    if any(number % run.parallel.model_ranks for number in ranks):
        return ""
    train = run.train
    unit = train.micro_batch_size * math.lcm(*(data_ranks(run, number) for number in ranks))
    if train.global_batch_size % unit == 0:
        return ""
    return f", or for all of them train.global_batch_size {near(train.global_batch_size, unit)}"
