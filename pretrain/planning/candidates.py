"""Layouts of a run on a number of GPUs, in the order in which rehearsing them is worth while.

The estimates here are rough: they order, and what is shown comes from a rehearsal.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.parallel.layout_checks import check_layout, data_ranks
from pretrain.parallel.matrices import state_tensors_per_number
from pretrain.parallel.split_model import empty_model
from pretrain.planning.step_time import Machines

RECOMPUTED = ("none", "selective", "full")
# bytes kept for each token, layer and channel, by recomputation
KEPT = {"none": 110.0, "selective": 80.0, "full": 4.0}
# share of the operations that are done once more
AGAIN = {"none": 0.0, "selective": 0.15, "full": 0.33}
# share of the kept bytes that tensor ranks split without `shard_activations`
SPLIT = 0.7
FLOAT = 4


class Sizes(NamedTuple):
    """Parameters of a model: of all blocks, and of its embedding."""

    blocks: int
    table: int


class Candidate(NamedTuple):
    """A layout, and rough figures of it.

    Attributes:
        run: The run with it.
        changes: Keys that it changes, with their values.
        seconds: Rough time of a step.
        bytes: Rough peak memory.
    """

    run: RunConfig
    changes: dict[str, object]
    seconds: float
    bytes: float


def candidates(run: RunConfig, gpus: int, machines: Machines) -> list[Candidate]:
    """All possible layouts; offloading and the batch of a step stay as they are."""
    model = empty_model(run.model)
    sizes = Sizes(
        sum(p.numel() for p in model.blocks.parameters()),
        sum(p.numel() for p in model.embedding.parameters()),
    )
    found = []
    for changes in _changes(run, gpus, machines):
        changed = _with(run, changes)
        try:
            check_layout(changed, gpus)
        except RunError:
            continue
        different = {key: value for key, value in changes.items() if value != _get(run, key)}
        seconds = _seconds(changed, gpus, machines, sizes)
        found.append(Candidate(changed, different, seconds, _bytes(changed, gpus, sizes)))
    return found


def _changes(run: RunConfig, gpus: int, machines: Machines) -> Iterator[dict[str, object]]:
    powers = [2**n for n in range(gpus.bit_length()) if 2**n <= gpus]
    batch = run.train.global_batch_size
    for tensor, pipeline, sequence in itertools.product(powers, powers, powers):
        ranks = tensor * pipeline * sequence
        # tensor ranks exchange activations all the time: never between machines
        if ranks > gpus or gpus % ranks or tensor > machines.per_node or pipeline > 16:
            continue
        share = batch // (gpus // ranks)
        micros = sorted({1, 2, 4, run.train.micro_batch_size} & set(range(1, share + 1)))
        experts = [1]
        if run.model.feed_forward == "experts" and ranks == sequence:
            experts = [n for n in powers if run.model.experts.count % n == 0]
        stages = {1} if pipeline > 1 else {1, 2, 3, run.parallel.zero_stage}
        for zero, micro, again, expert in itertools.product(stages, micros, RECOMPUTED, experts):
            yield {
                "parallel.tensor": tensor,
                "parallel.pipeline": pipeline,
                "parallel.sequence": sequence,
                "parallel.expert": expert,
                "parallel.data": 0,
                "parallel.shard_activations": tensor > 1 and run.model.feed_forward != "experts",
                "parallel.zero_stage": zero,
                "train.micro_batch_size": micro,
                "train.activation_checkpointing": again,
            }


def _with(run: RunConfig, changes: dict[str, object]) -> RunConfig:
    tables: dict[str, dict[str, object]] = {"parallel": {}, "train": {}}
    for key, value in changes.items():
        table, name = key.split(".")
        tables[table][name] = value
    if tables["train"].get("activation_checkpointing") == "none":
        tables["train"]["activation_offload"] = False
    updated = {
        table: getattr(run, table).model_copy(update=values) for table, values in tables.items()
    }
    return run.model_copy(update=updated)


def _get(run: RunConfig, key: str) -> object:
    table, name = key.split(".")
    value: object = getattr(getattr(run, table), name)
    return value


def _bytes(run: RunConfig, gpus: int, sizes: Sizes) -> float:
    parallel, train = run.parallel, run.train
    stages = parallel.pipeline
    local = (sizes.blocks / stages + sizes.table) / parallel.tensor
    shards = gpus // (parallel.tensor * stages)
    values, gradients, states = (shards if parallel.zero_stage >= n else 1 for n in (3, 2, 1))
    # ZeRO's optimizer keeps a copy of the values that it updates
    state = (1 + state_tensors_per_number(run)) * (parallel.offload_optimizer == "none")
    kept = local / gradients + state * local / states
    held = FLOAT * (local / values * (parallel.offload_parameters == "none") + kept)
    tokens = train.micro_batch_size * run.data.sequence_length / parallel.sequence
    passes = train.global_batch_size // (train.micro_batch_size * data_ranks(run, gpus))
    channels = tokens * run.model.dim
    split = 1.0 if parallel.shard_activations else SPLIT
    channels *= split / parallel.tensor + 1 - split
    layers = run.model.num_layers / stages * min(stages, passes)
    block = KEPT["none"] * (train.activation_checkpointing != "none")
    return held + channels * (KEPT[train.activation_checkpointing] * layers + block)


def _seconds(run: RunConfig, gpus: int, machines: Machines, sizes: Sizes) -> float:
    parallel, train, device = run.parallel, run.train, machines.device
    stages, tensor = parallel.pipeline, parallel.tensor
    passes = train.global_batch_size // (train.micro_batch_size * data_ranks(run, gpus))
    tokens = train.micro_batch_size * run.data.sequence_length / parallel.sequence
    local = (sizes.blocks / stages + sizes.table) / tensor
    flops = (6 + 2 * AGAIN[train.activation_checkpointing]) * local * tokens * passes
    arithmetic = flops / (max(device.tflops.values()) * 1e12 * device.efficiency)
    moved = 3 * KEPT["none"] * tokens * run.model.dim * run.model.num_layers * passes
    traffic = (1 + AGAIN[train.activation_checkpointing]) * moved / (tensor * stages)
    work = arithmetic + traffic / (device.memory_gb_s * 1e9 * device.memory_efficiency)
    if tensor > 1:
        sums = 4 * run.model.num_layers / stages * passes
        share = 2 * (tensor - 1) / tensor
        work += sums * machines.link.seconds(share * FLOAT * tokens * run.model.dim, 2)
    shards = gpus // (tensor * stages)
    _, link = machines.link_of((0, gpus // stages - 1))
    reduced = passes if parallel.zero_stage >= 2 else 1
    gathered = 2 * passes if parallel.zero_stage == 3 else 1
    wire = link.seconds((2 * reduced + gathered) * FLOAT * local * (shards > 1), 1)
    return work * (1 + (stages - 1) / passes) + wire
