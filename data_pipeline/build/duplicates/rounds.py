"""Joins by bucket: with earlier builds, with roots, and of all pairs that are left."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.build.duplicates.candidates import Buckets, Similarity, pairs_of
from data_pipeline.build.duplicates.documents import (
    EARLIER,
    EXACT,
    NEAR,
    ROOT,
    UNDECIDED,
    States,
    open_states,
)
from data_pipeline.build.duplicates.runs import (
    FirstSeen,
    Integers,
    ListWriter,
    Records,
    RunWriter,
    read_partition,
)

# two documents that resemble each other
PAIR = np.dtype([("later", "<i8"), ("earlier", "<i8")])


def find_earlier(buckets: Buckets, similarity: Similarity, states_file: Path, path: Path) -> None:
    """Write the documents of a partition that resemble one of an earlier build."""
    states, limits = open_states(states_file), similarity.limits
    with ListWriter(path, limits) as found:
        for new in buckets.blocks(states, (UNDECIDED,), limits):
            for old in buckets.blocks(states, (EARLIER,), limits):
                for later, earlier in pairs_of(new, old, limits.pairs):
                    found.extend(np.unique(later[similarity.resemble(later, earlier)]))


def find_blocked(buckets: Buckets, similarity: Similarity, states_file: Path, path: Path) -> None:
    """Write the documents of a partition that are not the first of all their buckets.

    The entries of undecided documents that share a bucket go to another file (`shared_file`).
    """
    states, limits = open_states(states_file), similarity.limits
    seen = FirstSeen()
    shared_keys: npt.NDArray[np.uint64] = np.empty(0, dtype=np.uint64)
    with ListWriter(path, limits) as blocked:
        for block in buckets.blocks(states, (UNDECIDED,), limits):
            later = _firsts(seen, block) != block["document"]
            shared_keys = np.union1d(shared_keys, block["key"][later])
            blocked.extend(np.unique(block["document"][later]))
        # one that is alone in a bucket will always be
        with ListWriter(shared_file(path), limits) as entries:
            for block in buckets.blocks(states, (UNDECIDED,), limits):
                entries.extend(block[np.isin(block["key"], shared_keys)])


def shared_file(path: Path) -> Path:
    """The file of shared buckets next to a file of blocked documents."""
    return path.with_name(path.name.replace("blocked", "shared"))


def _firsts(seen: FirstSeen, block: Records) -> Integers:
    return seen.update(block["key"], np.zeros(len(block), dtype=np.uint64), block["document"])


def find_like_roots(
    buckets: Buckets, similarity: Similarity, states_file: Path, path: Path
) -> None:
    """Write the documents of a partition that resemble the root of one of their buckets."""
    states, limits = open_states(states_file), similarity.limits
    seen = FirstSeen()
    with ListWriter(path, limits) as found:
        for block in buckets.blocks(states, (UNDECIDED, ROOT), limits):
            roots = _firsts(seen, block)
            chosen = (states[roots] == ROOT) & (roots != block["document"])
            later, earlier = _different(block["document"][chosen], roots[chosen])
            found.extend(np.unique(later[similarity.resemble(later, earlier)]))


def _different(later: Integers, earlier: Integers) -> tuple[Integers, Integers]:
    """Each pair once, sorted by its earlier document."""
    order = np.lexsort((later, earlier))
    later, earlier = later[order], earlier[order]
    new = np.ones(len(later), dtype=np.bool_)
    new[1:] = (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])
    return later[new], earlier[new]


def find_pairs(
    buckets: Buckets, similarity: Similarity, states_file: Path, num_ranges: int, path: Path
) -> None:
    """Write the run of all pairs of undecided documents that resemble each other.

    Its partitions are ranges of the later document.
    """
    states, limits = open_states(states_file), similarity.limits
    with RunWriter(path, num_ranges, limits) as run:
        for number, block in enumerate(buckets.blocks(states, (UNDECIDED,), limits)):
            for other_number, other in enumerate(buckets.blocks(states, (UNDECIDED,), limits)):
                if other_number > number:
                    break
                for later, earlier in pairs_of(block, other, limits.pairs):
                    similar = similarity.resemble(later, earlier)
                    pairs = np.empty(int(similar.sum()), dtype=PAIR)
                    pairs["later"], pairs["earlier"] = later[similar], earlier[similar]
                    run.add(pairs, pairs["later"] * num_ranges // len(states))


def drop_in_order(runs: Sequence[Path], num_ranges: int, states: States, limit: int) -> None:
    """Apply the rule to all pairs, by their later document in the order of the corpus."""
    for number in range(num_ranges):
        blocks = list(read_partition(runs, PAIR, number, num_ranges, limit))
        if not blocks:
            continue
        # sorted by the later, then by the earlier document
        for later, earlier in np.unique(np.concatenate(blocks)).tolist():
            if states[earlier] < EXACT:
                states[later] = NEAR
