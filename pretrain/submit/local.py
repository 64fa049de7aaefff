"""`resonance launch local`: hand this process over to torchrun."""

import os
import shlex

from launch.local import local_command, rank_environment
from launch.preflight import check_port
from pretrain.checkpoint.resume import find_start
from pretrain.commands import LaunchLocalCommand
from pretrain.errors import RunError
from pretrain.run_checks import check_run
from pretrain.run_file import load_run


def launch_local(command: LaunchLocalCommand) -> str:
    """Start every rank of a run on this machine; returns the command if it was only to be shown.

    Raises:
        RunError: The run file is missing or wrong, or its port is taken.
    """
    run = load_run(command.run_file)
    # what would stop every rank is said once, here
    find_start(run, resume=command.resume)
    config = run.launch
    check_run(run, config.processes)
    port = check_port(config.port)
    if port.level == "bad":
        raise RunError(f"{port.text}; {port.remedy}")
    # decided above; ranks that torchrun starts again go on from a checkpoint that is newer
    arguments = local_command(command.run_file, config, ["--auto-resume"])
    environment = rank_environment(config)
    if not command.dry_run:
        # torchrun takes this process's place: signals reach it, and its exit status is ours
        os.execvpe(arguments[0], arguments, {**os.environ, **environment})
    settings = [f"{key}={shlex.quote(value)}" for key, value in environment.items()]
    return " ".join([*settings, shlex.join(arguments)])
