"""DeepSpeed's configuration of a run: batch, ZeRO stage, and buffers that fit the model."""

from typing import Any

import torch

from pretrain.config import RunConfig
from pretrain.parallel.mesh import Mesh
from pretrain.parallel.split_model import empty_model
from pretrain.runtime.precision import product_dtype


def deepspeed_config(run: RunConfig, mesh: Mesh) -> dict[str, Any]:
    """The DeepSpeed configuration of a run; products are in `runtime.precision`."""
    micro, batch = run.train.micro_batch_size, run.train.global_batch_size
    return {
        # which parameters travel in bfloat16 is said by each of them
        "torch_autocast": {
            "enabled": travels_in_bfloat16(run),
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        # to DeepSpeed, each span of a sequence is a separate row
        "train_batch_size": batch * mesh.sequence.size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": batch // (micro * mesh.data.size),
        # groups are clipped by the optimizer
        "gradient_clipping": run.optim.clip_norm if run.optim.clip == "whole" else 0.0,
        "zero_optimization": _zero(run),
        # activations between stages are not matrices that tensor ranks could split evenly
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False},
        "steps_per_print": 2**31,
        # ZeRO refuses optimizers that it does not know by name
        "zero_allow_untested_optimizer": True,
        # torch's AdamW also works on states that are offloaded to the CPU
        "zero_force_ds_cpu_optimizer": False,
    }


def travels_in_bfloat16(run: RunConfig) -> bool:
    """Whether ranks send one another matrices, and their gradients, in bfloat16."""
    return run.parallel.zero_stage > 0 and product_dtype(run.train.precision) == torch.bfloat16


def _zero(run: RunConfig) -> dict[str, Any]:
    parallel = run.parallel
    numel = _largest_part(run)
    # by default, buffers for any model: half a billion gradients, a billion gathered parameters
    zero: dict[str, Any] = {"stage": parallel.zero_stage, "reduce_bucket_size": numel}
    if parallel.zero_stage == 3:
        zero |= _gathered_at_most(numel)
    for key, device in (
        ("offload_optimizer", parallel.offload_optimizer),
        ("offload_param", parallel.offload_parameters),
    ):
        if device != "none":
            zero[key] = {"device": device, "nvme_path": str(parallel.nvme_path)}
    return zero


def _gathered_at_most(numel: int) -> dict[str, int]:
    """Keys of ZeRO 3 by which a rank holds one gathered part of `numel` parameters, not more."""
    return {
        "stage3_max_live_parameters": numel,
        "stage3_max_reuse_distance": numel,
        "stage3_prefetch_bucket_size": numel // 2,
        # parameters up to this size are never released: all vectors together are not much
        "stage3_param_persistence_threshold": min(100_000, numel // 1_000),
    }


def _largest_part(run: RunConfig) -> int:
    """Number of parameters of the largest part of a rank's model."""
    parts = empty_model(run.model).parts()
    largest = max(sum(p.numel() for p in part.parameters()) for _, part in parts)
    return largest // run.parallel.tensor
