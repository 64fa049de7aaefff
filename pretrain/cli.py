"""The `resonance` command; only the functions it calls import torch, so `--help` is fast."""

import difflib
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import tyro
from pydantic import BaseModel, ValidationError

import data_pipeline.config as data_config
from data_pipeline.errors import DataError
from data_pipeline.redaction import redact
from launch.errors import LaunchError
from pretrain import commands, launch_commands
from pretrain.config import RunConfig
from pretrain.doctor.command import DoctorCommand
from pretrain.errors import RunError
from pretrain.run_file import describe, load_run
from pretrain.terminal import TRACEBACK, OutputError, complain, standard_streams

USER_ERRORS = (DataError, LaunchError, RunError, OSError)


class Command(NamedTuple):
    """A sub-command.

    Attributes:
        arguments: The model that its flags fill.
        module: Module of the function, imported when the command runs.
        function: Name of the function that receives the model; its return value is printed.
    """

    arguments: type[BaseModel]
    module: str
    function: str


COMMANDS = {
    "tokenizer train": Command(
        data_config.TokenizerTrainConfig, "data_pipeline.build.train_tokenizer", "train_tokenizer"
    ),
    "data build": Command(data_config.BuildConfig, "data_pipeline.build.build", "build"),
    "data verify": Command(data_config.VerifyConfig, "data_pipeline.shards.verify", "verify"),
    "data stats": Command(data_config.StatsConfig, "data_pipeline.shards.stats", "stats"),
    "pretrain": Command(commands.PretrainCommand, "pretrain.training.train", "pretrain"),
    "evaluate": Command(commands.EvaluateCommand, "pretrain.evaluation.evaluate", "evaluate"),
    "embed": Command(commands.EmbedCommand, "pretrain.evaluation.embed", "embed"),
    "generate": Command(commands.GenerateCommand, "pretrain.generation.generate", "generate"),
    "chat": Command(commands.ChatCommand, "pretrain.generation.chat", "chat"),
    "checkpoint export": Command(commands.ExportCommand, "pretrain.huggingface.export", "export"),
    "checkpoint import": Command(
        commands.ImportCommand, "pretrain.huggingface.import_folder", "import_folder"
    ),
    "checkpoint verify": Command(
        commands.VerifyCheckpointCommand, "pretrain.checkpoint.verify", "verify"
    ),
    "checkpoint inspect": Command(commands.InspectCommand, "pretrain.checkpoint.verify", "inspect"),
    "checkpoint average": Command(
        commands.AverageCommand, "pretrain.evaluation.average", "average"
    ),
    "checkpoint fetch": Command(
        commands.FetchCommand, "pretrain.checkpoint.remote", "fetch_command"
    ),
    "launch local": Command(
        launch_commands.LaunchLocalCommand, "pretrain.submit.local", "launch_local"
    ),
    "launch slurm": Command(
        launch_commands.LaunchSlurmCommand, "pretrain.submit.slurm", "launch_slurm"
    ),
    "launch kubernetes": Command(
        launch_commands.LaunchKubernetesCommand, "pretrain.submit.kubernetes", "launch_kubernetes"
    ),
    "launch check": Command(
        launch_commands.LaunchCheckCommand, "pretrain.submit.check", "launch_check"
    ),
    "launch status": Command(
        launch_commands.LaunchStatusCommand, "pretrain.submit.jobs", "launch_status"
    ),
    "launch logs": Command(
        launch_commands.LaunchLogsCommand, "pretrain.submit.jobs", "launch_logs"
    ),
    "launch cancel": Command(
        launch_commands.LaunchCancelCommand, "pretrain.submit.jobs", "launch_cancel"
    ),
    "plan": Command(launch_commands.PlanCommand, "pretrain.planning.plan", "plan"),
    "doctor": Command(DoctorCommand, "pretrain.doctor.machine", "doctor"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a sub-command; exit with 2 for a wrong call and 1 for work that could not be done."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # training goes on without a terminal
    with standard_streams(may_lose_output=words[:1] == ["pretrain"]):
        name, flags = _find_command(words)
        try:
            _run(name, flags)
        except KeyboardInterrupt as error:
            complain(f"resonance {name}: interrupted", error)
            sys.exit(130)
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001 (whatever it is, the user gets one message)
            complain(redact(f"resonance {name}: {_explain(error, flags)}"), error)
            sys.exit(error.status if isinstance(error, RunError) else 1)


def _run(name: str, flags: list[str]) -> None:
    command = COMMANDS[name]
    parsed = _parse(name, command, flags)
    run_command = getattr(importlib.import_module(command.module), command.function)
    result = run_command(parsed)
    if result is not None:
        print(result)


def _explain(error: Exception, flags: list[str]) -> str:
    """The message of an error; one that no check has foreseen names the files of the command."""
    if isinstance(error, USER_ERRORS):
        return str(error)
    text = (str(error).splitlines() or [""])[0]
    problem = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    files = [flag for flag in flags if os.path.exists(flag)]  # noqa: PTH110 (any text)
    where = f"{', '.join(files)}: " if files else ""
    return f"{where}{problem}{text and ': '}{text}; {TRACEBACK}=1 shows where"


def _find_command(arguments: list[str]) -> tuple[str, list[str]]:
    for length in (2, 1):
        name = " ".join(arguments[:length])
        if name in COMMANDS:
            return name, arguments[length:]
    asked_for_help = not arguments or arguments[0] in ("-h", "--help")
    if not asked_for_help:
        words = [word for word in arguments[:2] if not word.startswith("-")]
        near = difflib.get_close_matches(" ".join(words), COMMANDS, n=1, cutoff=0.4)
        hint = f"; did you mean: {near[0]}?" if near else ""
        print(f"resonance: unknown command: {' '.join(words)}{hint}\n", file=sys.stderr)
    stream = sys.stdout if asked_for_help else sys.stderr
    print("usage: resonance COMMAND [--help]\n", file=stream)
    for name, command in COMMANDS.items():
        summary = (command.arguments.__doc__ or "").splitlines()[0]
        summary = summary.removeprefix(f"`resonance {name}`: ")
        print(f"  {name:<18} {summary[:1].upper()}{summary[1:]}", file=stream)
    sys.exit(0 if asked_for_help else 2)


def _parse(name: str, command: Command, arguments: list[str]) -> Any:
    arguments = append_repeated(arguments, set(_list_options(command.arguments)))
    default = None
    if command.arguments is commands.PretrainCommand and not {"-h", "--help"} & set(arguments[:1]):
        if not arguments or arguments[0].startswith("-"):
            found = arguments[0] if arguments else "nothing"
            print(f"resonance {name}: expected a run file first, found {found}", file=sys.stderr)
            sys.exit(2)
        run_file = Path(arguments[0])
        default = commands.PretrainCommand(run_file=run_file, run=load_run(run_file))
    # tyro requires what has no default; with a run file, the file is the default
    arguments_of = functools.partial(tyro.cli, prog=f"resonance {name}", args=arguments)
    try:
        if default is None:
            return arguments_of(command.arguments)
        return arguments_of(command.arguments, default=default)
    except ValidationError as error:
        # checks over several tables run after tyro has read all flags
        text = f"resonance {name}: {describe(error, command.arguments)}"
        print(redact(text), file=sys.stderr)
        sys.exit(2)


def append_repeated(arguments: Sequence[str], list_options: Set[str]) -> list[str]:
    """The arguments with the values of a list option that is given more than once in one place.

    tyro keeps those of the last one, and its own remedy refuses several values after one option.

    Args:
        arguments: Arguments of a sub-command.
        list_options: Options that take any number of values.
    """
    groups: list[list[str]] = [[]]
    values = groups[0]
    first: dict[str, list[str]] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        option = name.replace("_", "-")
        if not argument.startswith("--"):
            values.append(argument)
        elif option not in list_options:
            groups.append(values := [argument])
        else:
            if option not in first:
                groups.append(first.setdefault(option, [name]))
            values = first[option]
            values += [value] if equals else []
    return [word for group in groups for word in group]


def _list_options(model: type[BaseModel], prefix: str = "--") -> Iterator[str]:
    """Options of a model that take any number of values, those of nested models included."""
    for name, field in model.model_fields.items():
        option = f"{prefix}{name.replace('_', '-')}"
        kind = field.annotation
        if get_origin(kind) in (tuple, list, dict):
            yield option
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            # the run file's tables are options without a name in front
            yield from _list_options(kind, prefix if kind is RunConfig else f"{option}.")


if __name__ == "__main__":
    main()
