"""`resonance launch local`: all ranks on this machine, under torchrun."""

import os
import shlex

from launch.local import local_command, rank_environment
from launch.preflight import check_port
from pretrain.checkpoint.resume import checked_start
from pretrain.errors import RunError
from pretrain.launch_commands import LaunchLocalCommand
from pretrain.resilience.run_lock import RunLock
from pretrain.run_file import load_run


def launch_local(command: LaunchLocalCommand) -> str:
    """Replace this process by torchrun with all ranks of a run (`resonance launch local`).

    Returns:
        The command, with --dry-run.

    Raises:
        RunError: The run file is missing or wrong, or its port is taken.
    """
    run = load_run(command.run_file)
    config, lock = run.launch, None if command.dry_run else RunLock(run.train.output)
    try:
        # an error that would stop every rank is reported once, here; rank 0 takes the lock again
        checked_start(run, config.processes, lock, resume=command.resume)
    finally:
        if lock is not None:
            lock.release()
    port = check_port(config.port)
    if port.level == "bad":
        raise RunError(f"{port.text}; {port.remedy}")
    # --resume is checked above; ranks that torchrun restarts resume from newer checkpoints
    arguments = local_command(command.run_file, config, ["--auto-resume"])
    environment = rank_environment(config)
    if not command.dry_run:
        # torchrun takes this process's place: signals reach it, and its exit status is ours
        os.execvpe(arguments[0], arguments, {**os.environ, **environment})
    settings = [f"{key}={shlex.quote(value)}" for key, value in environment.items()]
    return " ".join([*settings, shlex.join(arguments)])
