"""Run directories with made-up records, for reports."""

import json
from pathlib import Path
from typing import Any


def made_up_run(folder: Path, *, steps: int = 60, total: int = 60, **keys: Any) -> Path:
    """A run directory as a trainer leaves it, without checkpoints.

    Args:
        folder: The directory.
        steps: Steps that are recorded.
        total: Its `train.steps`.
        keys: Keys of `[optim]`.
    """
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        record = {
            "step": step,
            "tokens": 100 * step,
            "step_tokens": 100,
            "loss": 2.0 + 4.0 / step,
            "grad_norm": 1.0 / step,
            "learning_rate": 1e-3,
            "tokens_per_s": 1000.0 + step % 7,
        }
        if step % 10 == 0:
            record |= {"mfu": 0.4, "memory_bytes": 2e9, "seconds/forward": 0.1}
            record |= {"seconds/communication": 0.05, "spectrum_entropy/0": 0.5 + step / 1000}
        lines.append(record)
        if step % 20 == 0:
            lines.append({"step": step, "tokens": 100 * step, "valid_loss": 2.1 + 4.0 / step})
    write_lines(folder / "metrics.jsonl", lines)
    events = [("start", 0), ("save", 20), ("skip", 30), ("straggler", 35), ("resume", 20)]
    write_lines(
        folder / "events.jsonl",
        [
            {"time": 1.79e9 + number, "step": step, "event": kind, "text": f"of {kind}"}
            for number, (kind, step) in enumerate(events)
        ],
    )
    optim = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
    text = f"[train]\nsteps = {total}\n[optim]\n{optim}\n"
    (folder / "run.toml").write_text(text, encoding="utf-8")
    evaluation = {"checkpoint": "x", "data": "valid", "losses": {"model": 2.2, "unigram": 6.5}}
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    write_lines(folder / "samples.jsonl", [{"step": 60, "prompt": "def ", "text": "main():"}])
    return folder


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """A file of JSON lines."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_text(text, encoding="utf-8")
