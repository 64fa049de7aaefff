"""#SBATCH lines of a batch script."""

import re

from launch.config import LaunchConfig
from launch.errors import LaunchError
from launch.job import Job
from launch.slurm_config import gpus_of

SAFE = re.compile(r"[A-Za-z0-9_./:=+,@%-]+")


def directives(job: Job) -> list[str]:
    r"""The #SBATCH lines of a job, in a fixed order.

    Raises:
        LaunchError: The launch directory has characters that Slurm cannot handle: line breaks, or
            % and \, which it replaces in the names of logs.
    """
    slurm = job.config.slurm
    if re.search(r"[%\\]", str(job.directory)):
        raise LaunchError(
            f"Slurm cannot write logs below a path with % or \\; found {str(job.directory)!r}: "
            "choose another train.output"
        )
    lines = [f"#SBATCH --{key}={_quoted(key, value)}" for key, value in options(job).items()]
    lines.append("#SBATCH --requeue" if slurm.max_requeues else "#SBATCH --no-requeue")
    flags = [key for key, value in slurm.options.items() if value is True]
    flags = ["exclusive", *flags] if slurm.exclusive else flags
    return [*lines, *(f"#SBATCH --{flag}" for flag in flags)]


def options(job: Job) -> dict[str, str]:
    """The options of a job that have a value, by the names of Slurm's commands."""
    config, slurm = job.config, job.config.slurm
    table = {
        "job-name": job.name,
        # with tasks per node, Slurm would start on the fewest nodes of a range
        "nodes": config.nnodes.replace(":", "-"),
        "cpus-per-task": str(slurm.cpus_per_node or ranks_per_node(config) * config.threads),
        "gpus-per-node": _gpus(config),
        "gres": slurm.gres,
        "mem": slurm.memory,
        "mem-per-cpu": slurm.mem_per_cpu,
        "mem-per-gpu": slurm.mem_per_gpu,
        "time": slurm.time_limit,
        "deadline": slurm.deadline,
        **node_choice(job),
        "licenses": slurm.licenses,
        "comment": slurm.comment,
        "signal": f"B:USR1@{config.stop_lead_s}",
        "open-mode": "append",
        "chdir": str(job.directory),
        "output": "%x-%A_%a.log" if job.sweep else "%x-%j.log",
    }
    if job.sweep:
        limit = f"%{slurm.array_limit}" if slurm.array_limit else ""
        table["array"] = f"0-{len(job.run_files) - 1}{limit}"
    free = {key: str(value) for key, value in slurm.options.items() if value is not True}
    return {key: value for key, value in (table | free).items() if value}


def node_choice(job: Job) -> dict[str, str]:
    """The options with a value that choose a job's nodes; a check of the nodes takes them too."""
    slurm = job.config.slurm
    table = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "reservation": slurm.reservation,
        "constraint": slurm.constraint,
        "nodelist": ",".join(slurm.nodelist),
        "exclude": ",".join(slurm.exclude),
    }
    return {key: value for key, value in table.items() if value}


def ranks_per_node(config: LaunchConfig) -> int:
    """Number of ranks per node: one per GPU, or as many as on this machine."""
    return config.slurm.gpus or config.processes


def _gpus(config: LaunchConfig) -> str:
    slurm = config.slurm
    if not slurm.gpus_per_node or gpus_of(slurm.gres):
        return ""
    return f"{slurm.gpu_type}:{slurm.gpus_per_node}" if slurm.gpu_type else str(slurm.gpus_per_node)


def _quoted(key: str, value: str) -> str:
    """A value, quoted for sbatch: outside quotes a space ends the value.

    Inside quotes, a backslash escapes the next character.
    """
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise LaunchError(f"#SBATCH --{key}: expected no control characters, found {value!r}")
    if SAFE.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
