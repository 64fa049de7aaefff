"""`resonance launch kubernetes`: manifests, printed or submitted."""

import sys

from launch.kubernetes import client, pod
from launch.kubernetes.render import dump, manifests
from pretrain.launch_commands import LaunchKubernetesCommand
from pretrain.run_file import load_run
from pretrain.submit.check import require_good, require_possible
from pretrain.submit.jobs import pods_job_of


def launch_kubernetes(command: LaunchKubernetesCommand) -> str:
    """The manifests of a run, or the names of created objects (`resonance launch kubernetes`).

    Raises:
        RunError: The run file is wrong, or a finding of the check would stop the run.
        LaunchError: A value cannot be rendered, or the cluster refuses.
    """
    run = load_run(command.run_file)
    job = pods_job_of(run)
    documents = manifests(job)
    if not command.submit:
        require_possible(run, pod.ranks_per_pod(run.launch))
        if pod.has_secret(job):
            print(
                f"resonance launch kubernetes: the pods also need a Secret {pod.secret_name(job)}, "
                "which --submit makes; without it, for example: openssl rand -hex 32 | kubectl "
                f"create secret generic {pod.secret_name(job)} "
                f"--from-file={pod.SECRET_KEY}=/dev/stdin",
                file=sys.stderr,
            )
        return dump(documents)
    warnings = require_good(run, "kubernetes", gpu=command.gpu, force=command.force)
    return "\n".join([*warnings, client.submit(job, documents)])
