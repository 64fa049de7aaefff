"""What do asynchronous checkpoints cost?

    python benchmarks/checkpoint.py

One run of a model of about 50M parameters on one rank: 40 steps without saving and 40 steps with
two asynchronous saves, by turns of four steps, so that a busy neighbour hits both. What training
waits for (the copy to host memory, the probe) and what the writer takes from it are both counted.
Prints what each save cost, a line per bar, and exits with 1 if a bar falls short.
"""

import tempfile
import time
import warnings
from pathlib import Path

import torch
from bars import Bar, judge

from data_pipeline.stream.batch import Batch
from pretrain.checkpoint.save import Saver
from pretrain.config import RunConfig
from pretrain.parallel.build_model import build_model
from pretrain.parallel.mesh import build_mesh
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.runtime.ranks import init_ranks
from pretrain.training.engine import build_engine, finish_step
from pretrain.training.gradient import compute_gradient

STEPS, SAVES, TURN = 40, 2, 4
SLOWER = 1.05
TOKENS = 256


def settings(folder: Path) -> RunConfig:
    """About 50M parameters."""
    return RunConfig.model_validate(
        {
            "model": {
                "vocab_size": 16_384,
                "dim": 640,
                "num_layers": 8,
                "num_heads": 8,
                "conv_heads": [4],
                "ffn_dim": 1_792,
            },
            "data": {"sequence_length": TOKENS},
            "train": {
                "output": folder,
                "global_batch_size": 1,
                "micro_batch_size": 1,
                "steps": 10_000,
            },
        }
    )


def main() -> None:
    """Train, save, compare."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        run = settings(Path(folder))
        ranks = init_ranks()
        mesh = build_mesh(run.parallel, ranks)
        engine = build_engine(run, build_model(run, mesh), ranks, mesh)
        saver, heartbeat = Saver(run, None, ranks), Heartbeat(Path(folder), 0)
        tokens = torch.randint(run.model.vocab_size, (1, TOKENS + 1))
        batch = Batch(
            tokens[:, :-1], tokens[:, 1:], torch.zeros(1, TOKENS, dtype=torch.long), [[(0, 0)]]
        )

        def step() -> None:
            compute_gradient(engine, [batch], TOKENS, ranks, mesh, heartbeat, 0.0, noise=0)
            finish_step(engine, apply=True)

        parameters = sum(parameter.numel() for parameter in engine.module.parameters())
        print(f"{parameters:,} parameters")
        for _ in range(2):
            step()
        seconds = {"without": 0.0, "with": 0.0}
        saved, waited = 0, []
        turns = STEPS // TURN
        save_at = {turns * (2 * i + 1) // (2 * SAVES) for i in range(SAVES)}
        for turn in range(turns):
            for kind in ("without", "with"):
                begin = time.perf_counter()
                if kind == "with" and turn in save_at:
                    saved += 1
                    start = time.perf_counter()
                    saver.begin(engine, {"step": saved})
                    waited.append(time.perf_counter() - start)
                for _ in range(TURN):
                    step()
                if kind == "with" and turn in save_at:
                    # all that the writer takes belongs to this side
                    saver.wait()
                seconds[kind] += time.perf_counter() - begin
        size = sum(f.stat().st_size for f in Path(folder).glob("checkpoints/step-*/tensors/*"))
        print(f"{STEPS} steps without saving: {seconds['without']:.1f} s")
        print(f"{STEPS} steps with {SAVES} saves of {size / SAVES / 2**20:,.0f} MiB: ", end="")
        print(f"{seconds['with']:.1f} s; training waited {', '.join(f'{s:.2f}' for s in waited)} s")
        ratio = seconds["with"] / seconds["without"]
        torch.distributed.destroy_process_group()
    name = f"{STEPS} steps with {SAVES} asynchronous saves / without"
    judge([Bar(name, ratio, SLOWER, at_most=True)])


if __name__ == "__main__":
    main()
