"""Keys without effect are named, and chunks fit their sequences."""

from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.build import needs as build_needs
from data_pipeline.config import BuildConfig
from data_pipeline.idle_keys import idle_keys, leaves
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.idle_keys import NEEDS, idle_keys_of
from pretrain.quickstart import RECIPES
from pretrain.run_checks import check_chunks, check_run
from pretrain.run_file import dump_run, load_run, with_chunk
from spectral.lm import SpectralLM

DATASETS = [{"path": "a"}, {"path": "b"}]
CLASSES = {"objective.kind": "classify", "model.classes": 2}
PAIRS = {"objective.kind": "text_to_text", "model.source_layers": 1}
MASKED = {"objective.kind": "masked_token", "model.causal": False}
# a value that has no effect, and keys with which it has one
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("model.conv_heads", [2], {}),
    ("model.fft.overlap", 0.25, {"model.mixers": ["fft"]}),
    ("model.wavelet.levels", 2, {"model.mixers": ["wavelet"]}),
    ("model.num_modes", 4, {}),
    ("model.conv_chunk", 4, {}),
    ("model.recall_chunk", 4, {}),
    ("model.rotary_base", 9.0, {}),
    ("model.recall_rule", "delta", {}),
    ("model.recall_phase", "data", {}),
    ("model.recall_bias", True, {}),
    ("model.recall_strength", 1.0, {"model.recall_rule": "delta"}),
    ("model.recall_erase", "channel", {"model.recall_rule": "delta"}),
    ("model.experts.count", 4, {"model.feed_forward": "experts"}),
    ("model.gates.selection_parts", [], {"model.gates.selection": True}),
    ("model.gates.consistency_weight", 0.1, {"model.gates.bands": True}),
    ("model.pooling", "max", CLASSES),
    ("objective.labels", ["a", "b"], CLASSES),
    ("model.source_bands", 2, PAIRS),
    ("model.source_dim", 2, PAIRS),
    ("objective.mask_rate", 0.2, MASKED),
    ("objective.mask_span", 2, MASKED),
    ("objective.mask_random", 0.2, MASKED),
    ("objective.mask_keep", 0.2, MASKED),
    ("data.long_texts", "cut", CLASSES),
    ("data.prefetch", 2, {"data.num_workers": 1}),
    ("data.worker_timeout_s", 9.0, {"data.num_workers": 1}),
    ("data.shuffle_block", 2, {"data.shuffle": True}),
    ("data.seed", 2, {"data.datasets": DATASETS}),
    ("data.cache", "/x", {"data.datasets": [{"path": "http://x"}]}),
    ("data.storage.anonymous", True, {"data.valid": "s3://x/y"}),
    ("optim.momentum", 0.5, {"optim.name": "muon"}),
    ("optim.update_rms", 0.5, {"optim.name": "muon"}),
    ("optim.base_width", 64, {"optim.scale": "width"}),
    ("optim.schedule_by", "tokens", {"train.batch_warmup": [[3, 4]]}),
    ("optim.warmup_steps", 7, {"optim.warmup_share": 0.0}),
    ("optim.final_ratio", 0.5, {"optim.schedule": "linear"}),
    ("optim.decay_start", 60, {"optim.schedule": "cosine"}),
    ("optim.decay_steps", 7, {"optim.schedule": "wsd"}),
    ("optim.decay_share", 0.3, {"optim.schedule": "wsd"}),
    ("train.validate_every", 7, {"data.valid": "x"}),
    ("train.validate_batches", 7, {"data.valid": "x", "train.validate_every": 5}),
    ("evaluate.texts", ["x.txt"], {"evaluate.every": 5}),
    ("evaluate.tasks", ["x"], {"evaluate.every": 5}),
    ("evaluate.limit", 7, {"evaluate.tasks": ["x"]}),
    ("train.loss_scale_window", 7, {"train.precision": "fp16"}),
    ("train.activation_checkpoint_every", 2, {"train.activation_checkpointing": "full"}),
    ("parallel.shard_activations", True, {"parallel.tensor": 2}),
    ("train.gradient_reduction", "float32", {"train.precision": "bf16"}),
    ("parallel.nvme_path", "/x", {"parallel.offload_optimizer": "nvme"}),
    ("checkpoint.keep_every", 7, {"checkpoint.every": 7}),
    ("guard.limit", 7, {"guard.on_spike": "rollback"}),
    ("guard.limit_steps", 7, {"guard.on_spike": "skip"}),
    ("monitor.peak_tflops", 1.0, {"monitor.every": 5}),
    ("monitor.prometheus_address", "0.0.0.0", {"monitor.prometheus_port": 9}),
]
# none of the keys of a case has an effect with these
IDLE = {
    "optim.schedule": "constant",
    "optim.warmup_share": 0.1,
    "data.num_workers": 0,
    "data.shuffle": False,
    "checkpoint.every": 0,
    "guard.on_nonfinite": "stop",
    "monitor.every": 0,
    "train.precision": "float32",
}
ONE_KIND = {"model.conv_heads": {"model.mixers": ["wavelet"]}} | {
    "model.num_modes": {"model.conv_heads": [0]},
    "model.conv_chunk": {"model.conv_heads": [0]},
    "model.recall_chunk": {"model.conv_heads": [4]},
    "model.rotary_base": {"model.conv_heads": [4]},
    "model.recall_rule": {"model.conv_heads": [4]},
    "model.recall_phase": {"model.conv_heads": [4]},
    "model.recall_bias": {"model.conv_heads": [4]},
}


def _run(*tables: dict[str, Any]) -> RunConfig:
    return RunConfig.model_validate(_table(*tables))


def _table(*tables: dict[str, Any]) -> dict[str, Any]:
    """Nested tables of dotted keys."""
    table: dict[str, Any] = {}
    for key, value in {key: value for each in tables for key, value in each.items()}.items():
        *parents, last = key.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return table


def test_defaults_have_an_effect_and_every_need_a_case() -> None:
    assert list(idle_keys_of(RunConfig())) == []
    known = {key for key, _ in leaves(RunConfig())}
    covered = [key for key, _, _ in CASES]
    for need in NEEDS:
        for name in need.keys:
            assert any(key == name or key.startswith(f"{name}.") for key in known)
            same = ("model.fft.direct", "data.cache_bytes", "data.storage.endpoint_url")
            related = name in (*same, "train.initial_loss_scale")
            assert related or any(key.startswith(name) for key in covered), name


@pytest.mark.parametrize(("key", "value", "needs"), CASES, ids=[key for key, _, _ in CASES])
def test_a_key_without_effect_is_named(key: str, value: Any, needs: dict[str, Any]) -> None:
    def named(run: RunConfig) -> bool:
        return any(line.startswith(f"{key} = ") for line in idle_keys_of(run))

    assert named(_run(IDLE, ONE_KIND.get(key, {}), {key: value}))
    assert not named(_run(IDLE, {key: value}, needs))


def test_recipes_set_no_key_without_effect() -> None:
    for recipe in RECIPES.glob("*.toml"):
        assert list(idle_keys_of(load_run(recipe))) == []


BUILD_CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("cleaning.gopher.min_words", 9, {"cleaning.gopher.quality": True}),
    ("cleaning.near_ngram", 9, {"cleaning.near_duplicates": True}),
    ("read.text_key", "body", {"read.format": "jsonl"}),
    ("read.document", "line", {"read.format": "auto"}),
    ("storage.anonymous", True, {"sources": ["s3://x"]}),
]


@pytest.mark.parametrize(("key", "value", "needs"), BUILD_CASES)
def test_a_key_of_a_build_without_effect_is_named(
    key: str, value: Any, needs: dict[str, Any]
) -> None:
    idle = {"read.format": "parquet" if key == "read.document" else "text"}
    for changes, expected in (({}, 1), (needs, 0)):
        config = BuildConfig.model_validate(_table(idle, {key: value}, changes))
        lines = list(idle_keys(config, BuildConfig(), build_needs.NEEDS))
        assert [line.startswith(f"{key} = {value} has no effect") for line in lines] == [
            True
        ] * expected


def test_weights_without_effect_are_named() -> None:
    corners = [{"step": 0, "weight": 1.0}]
    (line,) = idle_keys_of(_run({"data.datasets": [{"path": "a", "weight": 2.0}]}))
    assert line == "data.datasets[0].weight = 2.0 has no effect: there is no other dataset"
    scheduled = [{"path": "a"}, {"path": "b", "weight": 2.0, "schedule": corners}]
    (line,) = idle_keys_of(_run({"data.datasets": scheduled}))
    assert line == "data.datasets[1].weight = 2.0 has no effect: its schedule decides"
    assert not list(
        idle_keys_of(_run({"data.datasets": [{"path": "a", "weight": 2.0}, DATASETS[1]]}))
    )


def test_offload_without_checkpointing_is_refused() -> None:
    with pytest.raises(RunError, match="activation_offload is true with"):
        check_run(_run({"train.activation_offload": True}), 1)


@pytest.mark.parametrize(
    ("length", "chunk"), [(512, 128), (96, 16), (8_192, 2_048), (204_800, 8_192), (3, 1), (4, 1)]
)
def test_an_fft_chunk_is_chosen_for_the_sequences(length: int, chunk: int) -> None:
    run = with_chunk(_run({"model.mixers": ["fft"], "data.sequence_length": length}), None)
    assert run.model.fft.chunk == chunk
    check_chunks(run)
    assert with_chunk(run, None) == run


def test_a_checkpoint_keeps_its_chunk_on_longer_sequences(tmp_path: Path) -> None:
    short = with_chunk(_run({"model.mixers": ["fft"], "data.sequence_length": 512}), None)
    (tmp_path / "run.toml").write_text(dump_run(short))
    longer = _run({"model.mixers": ["fft"], "data.sequence_length": 204_800})
    assert with_chunk(longer, tmp_path).model == short.model
    # of a version that chose 8,192 for every model, those without the mixer too
    (tmp_path / "run.toml").write_text(dump_run(_run({"model.fft.chunk": 8_192})))
    assert with_chunk(RunConfig(), tmp_path).model.fft.chunk == 8_192


def test_a_single_chunk_is_refused() -> None:
    for name, chunks in (("fft.chunk", [512, 8_192]), ("conv_chunk", [512])):
        for chunk in chunks:
            model = {"model.mixers": ["heads", "fft"], "model.gates.bands": True}
            with pytest.raises(
                RunError, match=f"model.{name} is {chunk} and .* at most 511, better 128"
            ):
                check_chunks(_run(model, {"model.fft.chunk": 128}, {f"model.{name}": chunk}))
    check_chunks(_run({"model.mixers": ["fft"], "model.fft.chunk": 511}))


def test_every_parameter_of_a_default_fft_layer_learns() -> None:
    keys = {"mixers": ["fft"], "dim": 16, "num_layers": 1, "vocab_size": 40, "num_modes": 4}
    run = with_chunk(_run({f"model.{key}": value for key, value in keys.items()}), None)
    torch.manual_seed(0)
    model = SpectralLM(run.model)
    tokens = torch.randint(40, (1, run.data.sequence_length + 1))
    loss = model(tokens[:, :-1], torch.zeros_like(tokens[:, 1:]), tokens[:, 1:])
    loss.nll.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0.0, name
