"""`resonance launch slurm`: a batch script, printed or submitted."""

import sys

from launch.errors import LaunchError
from launch.slurm import client
from launch.slurm.commands import test_only
from launch.slurm.directives import ranks_per_node
from launch.slurm.script import batch_script
from pretrain.launch_commands import LaunchSlurmCommand
from pretrain.run_file import load_run
from pretrain.submit.check import require_good, require_possible
from pretrain.submit.jobs import job_of
from pretrain.submit.sweep import sweep_keys, sweep_runs


def launch_slurm(command: LaunchSlurmCommand) -> str:
    """The batch script of a run, or the numbers of submitted jobs (`resonance launch slurm`).

    Raises:
        RunError: The run file or the sweep is wrong, or a finding of the check would stop the run.
        LaunchError: A value cannot be rendered, or Slurm refuses.
    """
    run = load_run(command.run_file)
    sweep = sweep_runs(run, command.sweep) if command.sweep else []
    if sweep and command.chain > 1:
        raise LaunchError("--sweep and --chain exclude one another: tasks are requeued separately")
    job = job_of(run, sweep)
    if not command.submit:
        for task in sweep or [run]:
            require_possible(task, ranks_per_node(task.launch))
        print(
            f"resonance launch slurm: only printed; --submit checks the run, writes the files that "
            f"the script names, below {job.directory}, and submits it",
            file=sys.stderr,
        )
        return batch_script(job)
    warnings = require_good(
        run,
        "slurm",
        sweep,
        sweep_keys(command.sweep),
        command.chain,
        gpu=command.gpu,
        force=command.force,
    )
    script = client.write_files(job)
    test_only(script)
    numbers = client.submit(job, script, command.chain)
    return "\n".join([*warnings, f"submitted {', '.join(numbers)}: {script}"])
