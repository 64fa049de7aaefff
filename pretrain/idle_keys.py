"""Keys that a run sets and that have no effect in it (imports no torch)."""

from collections.abc import Callable, Iterator

from data_pipeline.idle_keys import Need, idle_keys
from data_pipeline.storage.files import is_remote
from pretrain.config import RunConfig
from spectral.gates.keys import GATE_PARTS
from spectral.layer_pattern import head_mixture


def _has_recall(run: RunConfig) -> bool:
    model = run.model
    return "heads" in model.mixers and min(head_mixture(model)) < model.num_heads


def _has_modes(run: RunConfig) -> bool:
    model = run.model
    return set(model.mixers) != {"heads"} or max(head_mixture(model)) > 0


def _gates_act(run: RunConfig) -> bool:
    gates = run.model.gates
    losses = ("entropy_weight", "consistency_weight")
    return any(getattr(gates, part) for part in GATE_PARTS if part not in losses)


def _urls(run: RunConfig) -> list[str]:
    return [*(dataset.path for dataset in run.data.datasets), run.data.valid, run.checkpoint.remote]


def _reads_remote(run: RunConfig) -> bool:
    return any(is_remote(url) for url in _urls(run) if url != run.checkpoint.remote)


def _skips(run: RunConfig) -> bool:
    return bool({run.guard.on_nonfinite, run.guard.on_spike} & {"skip", "rollback"})


def _learns(*kinds: str) -> Callable[[RunConfig], bool]:
    return lambda run: run.objective.kind in kinds


NEEDS = (
    Need(
        (
            "objective.mask_rate",
            "objective.mask_span",
            "objective.mask_random",
            "objective.mask_keep",
        ),
        _learns("masked_token"),
        "objective.kind = 'masked_token'",
    ),
    Need(
        ("objective.labels",),
        _learns("classify"),
        "objective.kind = 'classify'",
    ),
    Need(
        ("data.long_texts",),
        _learns("classify", "text_to_text"),
        "objective.kind = 'classify' or 'text_to_text'",
    ),
    Need(
        ("model.source_bands", "model.source_dim"),
        lambda run: run.model.source_layers > 0,
        "model.source_layers above 0",
    ),
    Need(
        ("model.pooling",),
        _learns("classify", "masked_token"),
        "objective.kind = 'classify' or 'masked_token'",
    ),
    Need(("model.conv_heads",), lambda run: "heads" in run.model.mixers, "'heads' in model.mixers"),
    Need(("model.fft",), lambda run: "fft" in run.model.mixers, "'fft' in model.mixers"),
    Need(("model.fft.direct",), lambda run: not run.model.causal, "model.causal = false"),
    Need(
        ("model.wavelet",), lambda run: "wavelet" in run.model.mixers, "'wavelet' in model.mixers"
    ),
    Need(
        ("model.num_modes", "model.conv_chunk"),
        _has_modes,
        "convolution heads, or other model.mixers",
    ),
    Need(
        (
            *("model.recall_chunk", "model.rotary_base", "model.recall_rule"),
            *("model.recall_phase", "model.recall_bias"),
        ),
        _has_recall,
        "recall heads",
    ),
    Need(
        ("model.recall_strength", "model.recall_erase"),
        lambda run: _has_recall(run) and run.model.recall_rule == "delta",
        "recall heads with model.recall_rule = 'delta'",
    ),
    Need(
        ("model.experts",),
        lambda run: run.model.feed_forward == "experts",
        "model.feed_forward = 'experts'",
    ),
    Need(
        ("model.gates.selection_parts",),
        lambda run: run.model.gates.selection,
        "model.gates.selection",
    ),
    Need(
        ("model.gates.consistency_weight",),
        _gates_act,
        "another key of model.gates that changes what is read",
    ),
    Need(
        ("data.prefetch", "data.worker_timeout_s"),
        lambda run: run.data.num_workers > 0,
        "data.num_workers above 0",
    ),
    Need(("data.shuffle_block",), lambda run: run.data.shuffle, "data.shuffle"),
    Need(
        ("data.seed",),
        lambda run: run.data.shuffle or len(run.data.datasets) > 1,
        "data.shuffle, or several data.datasets",
    ),
    Need(("data.cache", "data.cache_bytes"), _reads_remote, "datasets on HTTP or S3"),
    Need(
        ("data.storage.endpoint_url", "data.storage.anonymous"),
        lambda run: any(url.startswith("s3:") for url in _urls(run)),
        "a dataset or checkpoint.remote on S3",
    ),
    Need(
        ("optim.momentum", "optim.update_rms"),
        lambda run: run.optim.name == "muon",
        "optim.name = 'muon'",
    ),
    Need(
        ("optim.base_width",),
        lambda run: run.optim.scale == "width",
        "optim.scale = 'width'",
    ),
    Need(
        ("optim.schedule_by",),
        lambda run: bool(run.train.batch_warmup or run.train.length_warmup),
        "train.batch_warmup or train.length_warmup",
    ),
    Need(
        ("optim.warmup_steps",), lambda run: run.optim.warmup_share == 0, "optim.warmup_share = 0"
    ),
    Need(
        ("optim.final_ratio",),
        lambda run: run.optim.schedule != "constant",
        "an optim.schedule that decays",
    ),
    Need(
        ("optim.decay_start",),
        lambda run: run.optim.schedule in ("cosine", "linear"),
        "optim.schedule = 'cosine' or 'linear'",
    ),
    Need(
        ("optim.decay_steps", "optim.decay_share"),
        lambda run: run.optim.schedule == "wsd",
        "optim.schedule = 'wsd'",
    ),
    Need(("optim.decay_share",), lambda run: run.optim.decay_steps == 0, "optim.decay_steps = 0"),
    Need(("train.validate_every",), lambda run: bool(run.data.valid), "data.valid"),
    Need(
        ("train.validate_batches",),
        lambda run: bool(run.data.valid and run.train.validate_every),
        "data.valid and train.validate_every above 0",
    ),
    Need(
        ("evaluate.texts", "evaluate.tasks"),
        lambda run: run.evaluate.every > 0,
        "evaluate.every above 0",
    ),
    Need(("evaluate.limit",), lambda run: bool(run.evaluate.tasks), "evaluate.tasks"),
    Need(
        ("train.gradient_reduction",),
        lambda run: run.train.precision in ("auto", "bf16") and run.parallel.zero_stage > 0,
        "train.precision = 'bf16' and parallel.zero_stage above 0",
    ),
    Need(
        ("train.initial_loss_scale", "train.loss_scale_window"),
        lambda run: run.train.precision == "fp16",
        "train.precision = 'fp16'",
    ),
    Need(
        ("train.activation_checkpoint_every",),
        lambda run: run.train.activation_checkpointing != "none",
        "train.activation_checkpointing",
    ),
    Need(
        ("parallel.shard_activations",),
        lambda run: run.parallel.tensor > 1,
        "parallel.tensor above 1",
    ),
    Need(
        ("parallel.nvme_path",),
        lambda run: "nvme" in (run.parallel.offload_optimizer, run.parallel.offload_parameters),
        "offloading to nvme",
    ),
    Need(
        ("checkpoint.keep_every",), lambda run: run.checkpoint.every > 0, "checkpoint.every above 0"
    ),
    Need(("guard.limit",), _skips, "guard.on_nonfinite or on_spike that skips steps"),
    Need(
        ("guard.limit_steps",),
        lambda run: _skips(run) and run.guard.limit > 0,
        "guard.limit above 0, and guard.on_nonfinite or on_spike that skips steps",
    ),
    Need(("monitor.peak_tflops",), lambda run: run.monitor.every > 0, "monitor.every above 0"),
    Need(
        ("monitor.prometheus_address",),
        lambda run: run.monitor.prometheus_port > 0,
        "monitor.prometheus_port",
    ),
)


def idle_keys_of(run: RunConfig) -> Iterator[str]:
    """A line for each key that differs from its default and has no effect in the run."""
    yield from idle_keys(run, RunConfig(), NEEDS)
    datasets = run.data.datasets
    for number, dataset in enumerate(datasets):
        if dataset.weight != 1.0 and (dataset.schedule or len(datasets) == 1):
            instead = "its schedule decides" if dataset.schedule else "there is no other dataset"
            yield f"data.datasets[{number}].weight = {dataset.weight} has no effect: {instead}"
