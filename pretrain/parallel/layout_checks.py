"""Checks that a run's layout is possible, before any process starts (imports no torch)."""

from collections.abc import Iterator

from pretrain.config import RunConfig
from pretrain.errors import RunError
from spectral.layer_pattern import head_mixture


def check_layout(run: RunConfig, num_ranks: int) -> None:
    """Refuse a layout that the run's model, sequences or batch do not allow.

    Args:
        run: The run.
        num_ranks: Number of processes that it is started with.

    Raises:
        RunError: Names the keys, the values found and the nearest ones that work.
    """
    for problem in _problems(run, num_ranks):
        raise RunError(problem)


def data_ranks(run: RunConfig, num_ranks: int) -> int:
    """Number of ranks that read different data, in a possible layout."""
    return num_ranks // run.parallel.model_ranks


def _problems(run: RunConfig, num_ranks: int) -> Iterator[str]:
    yield from _ranks(run, num_ranks)
    yield from _tensor(run)
    yield from _sequence(run)
    yield from _sources(run)
    yield from _pipeline(run)
    yield from _experts(run, num_ranks)
    yield from _zero(run)
    yield from _batch(run, data_ranks(run, num_ranks))
    yield from _smaller_steps(run, num_ranks)
    yield from _noise(run)
    yield from _tasks(run)


def _ranks(run: RunConfig, num_ranks: int) -> Iterator[str]:
    parallel = run.parallel
    needed, axes = parallel.model_ranks, "parallel.tensor x parallel.pipeline x parallel.sequence"
    if num_ranks % needed:
        yield (
            f"{axes} = {parallel.tensor} x {parallel.pipeline} x {parallel.sequence} = {needed} "
            f"does not divide the run's {num_ranks} ranks; expected a number of ranks like "
            f"{near(num_ranks, needed)}"
        )
    elif parallel.data and not _fits_data(run, num_ranks // needed):
        yield (
            f"parallel.data is {parallel.data} and {axes} is {needed}: that needs "
            f"{parallel.data * needed} ranks, found {num_ranks}; expected parallel.data = "
            f"{num_ranks // needed}, or 0"
        )


def _fits_data(run: RunConfig, num_data: int) -> bool:
    """Whether a data axis is allowed; only it shrinks if a run continues on fewer machines."""
    return num_data == run.parallel.data or (run.launch.is_elastic and num_data < run.parallel.data)


def _tensor(run: RunConfig) -> Iterator[str]:
    size, model = run.parallel.tensor, run.model
    works = _divisors(model.num_heads, *head_mixture(model))
    if model.num_heads % size:
        yield (
            f"parallel.tensor is {size}, which does not divide model.num_heads "
            f"{model.num_heads}; expected one of {works}"
        )
    for conv in head_mixture(model) if "heads" in model.mixers else ():
        for kind, heads in (("convolution", conv), ("recall", model.num_heads - conv)):
            if heads % size:
                yield (
                    f"parallel.tensor is {size}, which does not divide the {heads} {kind} heads "
                    f"of a layer (model.num_heads {model.num_heads}, model.conv_heads "
                    f"{head_mixture(model)}); expected one of {works}"
                )
    span = run.data.sequence_length // run.parallel.sequence
    if run.parallel.shard_activations and span % size:
        yield (
            f"parallel.tensor is {size}, which does not divide the {span} tokens of a span that "
            f"parallel.shard_activations shares; expected data.sequence_length "
            f"{near(run.data.sequence_length, size * run.parallel.sequence)}"
        )
    if model.ffn_dim % size:
        yield (
            f"parallel.tensor is {size}, which does not divide model.ffn_dim {model.ffn_dim}; "
            f"expected model.ffn_dim {near(model.ffn_dim, size)}"
        )


def _sequence(run: RunConfig) -> Iterator[str]:
    size, length, model = run.parallel.sequence, run.data.sequence_length, run.model
    if size == 1:
        return
    if length % size:
        yield (
            f"parallel.sequence is {size}, which does not divide data.sequence_length {length}; "
            f"expected data.sequence_length {near(length, size)}"
        )
    span, back = length // size, model.lookback
    if span < back:
        yield (
            f"parallel.sequence is {size}: a span has {span} tokens, fewer than the {back} that "
            "the next one reads of it (short convolution and model.mixers); expected at most "
            f"{max(1, length // back)} sequence ranks"
        )
    heads = model.num_heads // run.parallel.tensor
    if not model.causal and set(model.mixers) - {"heads"} and heads % size:
        yield (
            f"parallel.sequence is {size}, which does not divide the {heads} heads of a tensor "
            "rank: with model.causal false, sequence ranks exchange spans for heads in FFT and "
            f"wavelet layers; expected one of {_divisors(heads)}"
        )
    for key, chunk in model.chunk_units():
        if span % chunk:
            yield (
                f"parallel.sequence is {size}: a span has {span} tokens, and must hold whole "
                f"chunks of model.{key} {chunk}; expected data.sequence_length "
                f"{near(length, size * chunk)}"
            )


def _sources(run: RunConfig) -> Iterator[str]:
    if not run.model.source_layers:
        return
    for key, found in (
        ("pipeline", run.parallel.pipeline),
        ("shard_activations", int(run.parallel.shard_activations) + 1),
        ("expert", run.parallel.expert),
    ):
        if found > 1:
            yield (
                f"parallel.{key} is {getattr(run.parallel, key)} with model.source_layers "
                f"{run.model.source_layers}; expected tensor, sequence and data ranks alone: "
                "every block of the decoder reads what the encoder computed"
            )


def _pipeline(run: RunConfig) -> Iterator[str]:
    stages, parallel = run.parallel.pipeline, run.parallel
    if stages == 1:
        return
    if stages > run.model.num_layers:
        yield (
            f"parallel.pipeline is {stages}, more than model.num_layers {run.model.num_layers}; "
            f"expected at most {run.model.num_layers}"
        )
    if run.optim.clip == "groups" and stages > 2:
        yield (
            f"optim.clip is 'groups' with parallel.pipeline {stages}; expected 'whole', or at most "
            "2 stages: those in between may lack a group"
        )
    if parallel.zero_stage != 1:
        yield (
            f"parallel.zero_stage is {parallel.zero_stage} with parallel.pipeline {stages}; "
            "expected zero_stage 1: DeepSpeed's pipelines keep gradients whole for all "
            "micro-batches, and clip without ZeRO by the first stage's norm alone"
        )


def _experts(run: RunConfig, num_ranks: int) -> Iterator[str]:
    parallel, model, size = run.parallel, run.model, run.parallel.expert
    if parallel.shard_activations and model.feed_forward == "experts":
        yield (
            "parallel.shard_activations is true with model.feed_forward 'experts'; expected false: "
            "tensor ranks split every expert, and each needs all tokens"
        )
    if size == 1:
        return
    if model.feed_forward != "experts":
        yield (
            f"parallel.expert is {size} with model.feed_forward {model.feed_forward!r}, which has "
            "no experts; expected parallel.expert 1, or model.feed_forward 'experts'"
        )
    for axis in ("tensor", "pipeline"):
        if getattr(parallel, axis) > 1:
            yield (
                f"parallel.expert is {size} with parallel.{axis} {getattr(parallel, axis)}; "
                "expected one of them 1: data and sequence ranks share experts only if each has "
                "the whole of everything else"
            )
    works = [d for d in _divisors(model.experts.count) if num_ranks % d == 0]
    if size not in works:
        yield (
            f"parallel.expert is {size}; expected a divisor of both model.experts.count "
            f"{model.experts.count} and the {num_ranks} data and sequence ranks: one of {works}"
        )
    if run.optim.clip == "groups":
        yield (
            f"optim.clip is 'groups' with parallel.expert {size}; expected 'whole': experts of "
            "different ranks are groups of different norms"
        )
    if parallel.zero_stage not in (1, 2):
        yield (
            f"parallel.zero_stage is {parallel.zero_stage} with parallel.expert {size}; expected 1 "
            "or 2: without ZeRO, DeepSpeed clips by the norm of each rank's own experts, and its "
            "stage 3 shards every parameter over all ranks"
        )


def _zero(run: RunConfig) -> Iterator[str]:
    parallel = run.parallel
    if parallel.offload_parameters != "none" and parallel.zero_stage != 3:
        yield (
            f"parallel.offload_parameters is {parallel.offload_parameters!r} with zero_stage "
            f"{parallel.zero_stage}; expected zero_stage 3, or 'none'"
        )
    if parallel.offload_optimizer == "cpu" and parallel.zero_stage == 0:
        yield "parallel.offload_optimizer is 'cpu' with zero_stage 0; expected zero_stage 1, 2 or 3"
    if parallel.offload_optimizer == "nvme" and parallel.zero_stage != 3:
        yield (
            f"parallel.offload_optimizer is 'nvme' with zero_stage {parallel.zero_stage}; "
            "expected zero_stage 3: DeepSpeed swaps to disk in no other"
        )


def _batch(run: RunConfig, ranks: int) -> Iterator[str]:
    batch, micro = run.train.global_batch_size, run.train.micro_batch_size
    if batch % (micro * ranks):
        yield (
            f"train.global_batch_size is {batch}; expected a multiple of train.micro_batch_size x "
            f"ranks with different data = {micro} x {ranks}, for example "
            f"{near(batch, micro * ranks)}"
        )


def _smaller_steps(run: RunConfig, num_ranks: int) -> Iterator[str]:
    """Problems of the stages in which steps have fewer or shorter windows."""
    for end, rows in run.train.batch_warmup:
        train = run.train.model_copy(update={"global_batch_size": rows})
        for problem in _batch(run.model_copy(update={"train": train}), data_ranks(run, num_ranks)):
            text = problem.replace("train.global_batch_size", "the number of windows", 1)
            yield f"train.batch_warmup, before step {end}: {text}"
    for end, length in run.train.length_warmup:
        shorter = with_length(run, length)
        for problem in (*_sequence(shorter), *_tensor(shorter)):
            yield f"train.length_warmup, before step {end}: {problem}"


def _noise(run: RunConfig) -> Iterator[str]:
    if not run.monitor.noise_every:
        return
    for axis in ("tensor", "pipeline", "sequence", "expert"):
        if (size := getattr(run.parallel, axis)) > 1:
            yield (
                f"monitor.noise_every is {run.monitor.noise_every} with parallel.{axis} {size}; "
                f"expected parallel.{axis} 1, or noise_every 0: gradients of single micro-batches "
                "are measured where a rank has all of them"
            )
    if run.train.global_batch_size == run.train.micro_batch_size:
        yield (
            f"monitor.noise_every is {run.monitor.noise_every} with train.global_batch_size and "
            f"micro_batch_size {run.train.micro_batch_size}; expected at least two micro-batches "
            "per step, whose gradients can be compared"
        )


def _tasks(run: RunConfig) -> Iterator[str]:
    """Problems of lm-eval's tasks, for which a rank reads logits of its whole model."""
    axes = ("tensor", "pipeline", "sequence", "expert")
    split = {f"parallel.{axis}": getattr(run.parallel, axis) for axis in axes}
    found = [f"{key} {size}" for key, size in split.items() if size > 1]
    if run.parallel.zero_stage == 3:
        found.append("parallel.zero_stage 3")
    if run.evaluate.every and run.evaluate.tasks and found:
        yield (
            f"evaluate.tasks with {', '.join(found)}; expected ranks that hold the whole model: "
            "data-parallel ones with zero_stage at most 2. evaluate.texts works in every layout, "
            "and `resonance evaluate RUN --tasks` measures a checkpoint of any"
        )


def with_length(run: RunConfig, length: int) -> RunConfig:
    """The run with windows of another length."""
    data = run.data.model_copy(update={"sequence_length": length})
    return run.model_copy(update={"data": data})


def near(number: int, unit: int) -> str:
    """The nearest multiples of `unit` below and above `number`, which is not one."""
    below, above = number // unit * unit, (number // unit + 1) * unit
    return f"{below} or {above}" if below else str(above)


def _divisors(*numbers: int) -> list[int]:
    return [d for d in range(1, max(numbers) + 1) if not any(number % d for number in numbers)]
