"""A run in Weights & Biases, which may fail at any time without harm to training."""

import os
import re
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.redaction import redact
from launch.json_lines import put_aside
from pretrain.config import RunConfig
from pretrain.monitoring.jsonl import Record
from pretrain.run_file import public_table

# W&B's own are 90 s, and no limit
START_S, FINISH_S = 10.0, 60.0
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# argument of wandb.init -> variable of W&B that takes precedence over ours
VARIABLES = {
    "project": "WANDB_PROJECT",
    "id": "WANDB_RUN_ID",
    "resume": "WANDB_RESUME",
    "name": "WANDB_NAME",
    "dir": "WANDB_DIR",
    "mode": "WANDB_MODE",
}
SETTINGS = {
    "silent": "WANDB_SILENT",
    "console": "WANDB_CONSOLE",
    "init_timeout": "WANDB_INIT_TIMEOUT",
    "login_timeout": "WANDB_LOGIN_TIMEOUT",
    "finish_timeout": "WANDB_FINISH_TIMEOUT",
}


class WandbRun:
    """A started W&B run.

    It is online if WANDB_API_KEY is set, or as WANDB_MODE says, and offline if that fails.

    Args:
        run: The run.
        num_parameters: Number of parameters of its model.

    Raises:
        Exception: W&B can be started neither online nor offline.
    """

    def __init__(self, run: RunConfig, num_parameters: int):
        online = bool(os.environ.get("WANDB_API_KEY"))
        arguments = {
            "project": "resonance",
            "id": wandb_id(run.train.output),
            "resume": "allow",
            "name": run.train.output.name,
            "dir": run.train.output,
            "mode": "online" if online else "offline",
        }
        settings = {
            "silent": True,
            "console": "off",
            "init_timeout": START_S,
            "login_timeout": START_S,
            "finish_timeout": FINISH_S,
        }
        arguments = _without(arguments, VARIABLES)
        arguments["config"] = {**public_table(run), "num_parameters": num_parameters}
        command = " ".join(sys.argv)
        settings = _without(settings, SETTINGS)
        # its description of the machine has the command line, too
        settings["x_disable_meta"] = redact(command) != command
        self._run = _start(arguments, settings)
        # W&B's own step counter rejects steps that are repeated after a crash
        self._run.define_metric("*", step_metric="step")

    def log(self, record: Record, _rank_seconds: Sequence[float]) -> None:
        """Send a record."""
        self._run.log(record)

    def log_spectrum(self, step: int, spectrum: dict[str, dict[str, list[float]]]) -> None:
        """Send histograms over the heads of each filter."""
        import wandb

        figures = {
            f"{figure}/{name}": wandb.Histogram(values)
            for name, table in spectrum.items()
            for figure, values in table.items()
        }
        self._run.log(figures | {"step": step})

    def close(self) -> None:
        """Finish the run; what is not sent after a minute stays in its directory."""
        self._run.finish()


def wandb_is_wanted(run: RunConfig) -> bool:
    """Whether a run is to be logged to W&B at all."""
    return run.train.wandb != "disabled" and os.environ.get("WANDB_MODE") != "disabled"


def wandb_id(directory: Path) -> str:
    """The W&B id of a run, kept in its directory so that W&B resumes the same run."""
    file = directory / "wandb_id"
    if file.exists():
        text = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
        if ID.fullmatch(text):
            return text
        aside = put_aside(file)
        print(f"{file}: no id of W&B; kept as {aside.name}, a new run is begun", file=sys.stderr)
    file.write_text(uuid.uuid4().hex[:12], encoding="utf-8")
    return file.read_text(encoding="utf-8")


def _without(values: dict[str, Any], variables: dict[str, str]) -> dict[str, Any]:
    """The values that no variable of the environment sets."""
    return {key: value for key, value in values.items() if not os.environ.get(variables[key])}


def _start(arguments: dict[str, Any], settings: dict[str, Any]) -> Any:
    import wandb

    def init(**mode: str) -> Any:
        return wandb.init(**(arguments | mode), settings=wandb.Settings(**settings))

    try:
        return init()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001
        # a foreign library that talks to a foreign server: any error means the same; it raises
        # KeyboardInterrupt itself when nobody answers its question for a key
        text = redact(" ".join(str(error).split())) or type(error).__name__
        print(f"Weights & Biases: {text}; it continues offline", file=sys.stderr)
        # its service would keep the run that failed, and refuse another one with the same id
        wandb.teardown()
        return init(mode="offline")
