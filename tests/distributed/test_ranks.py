"""Ranks that are forked with their imports done are as new as processes that start from nothing."""

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.ranks import run_ranks

NAMES = ("fresh", "first", "after")
# jemalloc, which comes with pyarrow, takes care of forks
THREADS_THAT_MAY_BE = {"jemalloc_bg_thd"}
# of torch and DeepSpeed, who set them when they are imported
VARIABLES_OF_IMPORTS = {"TORCHINDUCTOR_CACHE_DIR", "PYTORCH_NVML_BASED_CUDA_CHECK"}


def _describe(rank: int, file: Path) -> None:
    """Write down what a process might have inherited."""
    is_imported = {"deepspeed", "megatron.core", "transformers"} <= set(sys.modules)
    import deepspeed
    from megatron.core import parallel_state

    parent = os.getppid()
    threads = {each.name: each / "comm" for each in Path(f"/proc/{parent}/task").iterdir()}
    del threads[str(parent)]
    state = {
        "is imported": is_imported,
        "threads of the parent": [file.read_text().strip() for file in threads.values()],
        "environment": {k: v for k, v in os.environ.items() if k not in VARIABLES_OF_IMPORTS},
        "folder": str(Path.cwd()),
        "threads": torch.get_num_threads(),
        "dtype": str(torch.get_default_dtype()),
        "seeds": [torch.initial_seed(), random.random(), float(np.random.rand())],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gradients": torch.is_grad_enabled(),
        "DeepSpeed's group": repr(deepspeed.comm.comm.cdb),
        "Megatron's groups": parallel_state.model_parallel_is_initialized(),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGUSR1)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "function": json.loads.__qualname__,
    }
    file.with_suffix(f".{rank}").write_text(json.dumps(state))


def _leave_a_mess(_rank: int) -> None:
    """Change what a process keeps for its whole life."""
    from megatron.core import parallel_state

    from pretrain.runtime.deepspeed_setup import start_deepspeed

    start_deepspeed()
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    os.environ["LEFT_OVER"] = "1"
    os.chdir("/")
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    random.seed(1)
    torch.use_deterministic_algorithms(True)
    torch.set_grad_enabled(False)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    mock.patch("json.loads", int).start()


def _train(rank: int, folder: Path, name: str) -> None:
    """Describe this process; then train a few steps and write down what they gave."""
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer

    _describe(rank, folder / name)
    run = load_run(folder / f"{name}.toml")
    trainer = Trainer(run, init_ranks())
    records = []
    for batches in trainer.loader:
        record = trainer.train_step(batches)
        assert record is not None
        records.append([record["loss"], record["grad_norm"]])
        if trainer.progress.step == run.train.steps:
            break
    trainer.journal.close()
    trainer.engine.destroy()
    (folder / f"{name}.{rank}.losses").write_text(json.dumps(records))


@pytest.fixture(scope="module")
def folder(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of ranks that import everything, of the first forked ones, of ones after a mess."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONLY_NOW", "1")
        for name in NAMES:
            output = str(folder / name)
            small_corpus.run_file(folder / f"{name}.toml", workers=0, output=output)
            if name == "after":
                run_ranks(_leave_a_mess, 2, folder)
            run_ranks(_train, 2, folder, folder, name, fresh=name == "fresh")
    return folder


def test_a_rank_has_nothing_of_an_earlier_one(folder: Path) -> None:
    names = [f"{name}.{rank}" for name, rank in itertools.product(NAMES, range(2))]
    states = {name: json.loads((folder / name).read_text()) for name in names}
    expected = states["fresh.0"]
    assert expected["environment"]["ONLY_NOW"] == "1"
    seeds = [seed for state in states.values() for seed in state.pop("seeds")]
    assert len(set(seeds)) == len(seeds)
    for name, state in states.items():
        threads = state.pop("threads of the parent")
        is_forked = not name.startswith("fresh")
        assert state.pop("is imported") == is_forked
        assert not is_forked or set(threads) <= THREADS_THAT_MAY_BE
        assert state == expected, name


def test_runs_in_a_row_are_those_of_processes_that_start_from_nothing(folder: Path) -> None:
    for rank in range(2):
        losses = [json.loads((folder / f"{name}.{rank}.losses").read_text()) for name in NAMES]
        assert len(losses[0]) == 6
        assert losses[1] == losses[0]
        assert losses[2] == losses[0]


def _fail(rank: int, how: str) -> None:
    if rank == 0:
        # until it is ended for the other one's failure
        time.sleep(3600)
    elif how == "raises":
        raise KeyError("lost in rank 1")
    elif how == "exits":
        sys.exit(7)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", "KeyError: 'lost in rank 1'"),
        ("exits", "process 1 terminated with exit code 7"),
        ("is killed", "process 1 terminated with signal SIGKILL"),
    ],
)
def test_a_rank_that_fails_fails_its_test_and_no_other(
    how: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=message):
        run_ranks(_fail, 2, tmp_path, how)
    run_ranks(_describe, 2, tmp_path, tmp_path / "after")
    assert (tmp_path / "after.0").exists()
