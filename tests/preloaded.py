"""Imports that ranks and commands of tests share: the fork server makes them once.

No import here may start a thread: a forked process would wait forever for a lock that it held.
jemalloc's, which comes with pyarrow, is the exception: jemalloc takes care of forks itself.
"""

import importlib
import os

# read when libraries are loaded
os.environ["OMP_NUM_THREADS"] = "1"
# counts GPUs without opening them: a process that has opened one cannot be forked
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import torch

if not torch.cuda.is_available():
    # as `pretrain.runtime.ranks.init_ranks` does before DeepSpeed is imported
    os.environ["DS_ACCELERATOR"] = "cpu"

from pretrain import cli

MODULES = (
    "deepspeed",
    "deepspeed.moe.layer",
    "lm_eval.evaluator",
    "lm_eval.tasks",
    "matplotlib.pyplot",
    "megatron.core.parallel_state",
    "megatron.core.tensor_parallel.layers",
    "pandas",
    "pretrain.training.trainer",
    "pytest",
    "tests.conftest",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "transformers",
)

for module in (*MODULES, *(command.module for command in cli.COMMANDS.values())):
    importlib.import_module(module)
