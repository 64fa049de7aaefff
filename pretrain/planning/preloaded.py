"""Imports that all rehearsals share: the fork server makes them once, for a processor."""

import importlib
import os

# read when DeepSpeed is imported; a GPU of this machine has no part in a rehearsal
os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}

for _module in ("deepspeed.runtime.pipe.engine", "pretrain.planning.rehearsal"):
    importlib.import_module(_module)
