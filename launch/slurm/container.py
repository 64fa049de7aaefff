"""Container of the ranks: options of srun (pyxis), or a program before theirs (apptainer)."""

from launch.errors import LaunchError
from launch.job import Job
from launch.local import rank_environment
from launch.torchrun import FAILURE_LOG, SECRET_FILE


def srun_options(job: Job) -> dict[str, str]:
    """Options of srun for pyxis, by name; none for other containers.

    Raises:
        LaunchError: See `mounts`.
    """
    slurm = job.config.slurm
    if slurm.container != "pyxis":
        return {}
    return {
        "--container-image": slurm.image,
        "--container-mounts": ",".join(mounts(job)),
        "--container-workdir": str(job.working_directory),
        # otherwise an image's own values are stronger
        "--container-env": ",".join([FAILURE_LOG, SECRET_FILE, *rank_environment(job.config)]),
    }


def prefix(job: Job) -> list[str]:
    """The words before the ranks' command for apptainer; none for other containers.

    Raises:
        LaunchError: See `mounts`.
    """
    slurm = job.config.slurm
    if slurm.container != "apptainer":
        return []
    device = ["--nv"] if slurm.gpus else []
    binds = [f"--bind={mount}" for mount in mounts(job)]
    workdir = f"--pwd={job.working_directory}"
    return ["apptainer", "exec", *device, *binds, workdir, slurm.image]


def python(job: Job) -> str:
    """The Python interpreter of the ranks."""
    slurm = job.config.slurm
    return job.python if slurm.container == "none" else slurm.container_python


def mounts(job: Job) -> list[str]:
    """Mounts of the container as HOST:INSIDE: the run's directories, and the configured ones.

    Raises:
        LaunchError: A directory of the run has a name that cannot be mounted.
    """
    directories = dict.fromkeys(map(str, (job.working_directory, job.directory, job.output)))
    for path in directories:
        if ":" in path or "," in path:
            raise LaunchError(f"a container cannot mount a path with ':' or ',', found {path!r}")
    return [*(f"{path}:{path}" for path in directories), *job.config.slurm.mounts]
