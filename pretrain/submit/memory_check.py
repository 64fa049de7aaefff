"""Check that a run fits into the memory of its GPUs, by the planner."""

from collections.abc import Iterator, Sequence

from launch.kubernetes.pod import ranks_per_pod
from launch.preflight import Finding
from launch.slurm.directives import ranks_per_node
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.planning.devices import Devices, load_devices

GIB = 2**30
# links carry no memory, so any network will do
NETWORK = "400"


def check_memory(
    runs: Sequence[RunConfig], launcher: str, gpu: str, *, force: bool
) -> Iterator[Finding]:
    """Whether runs fit; nothing if no GPU is named, neither by the user nor by Slurm's options.

    Args:
        runs: The tasks of a sweep, or one run.
        launcher: `local`, `slurm` or `kubernetes`.
        gpu: Name of the GPU; empty for launch.slurm.gpu_type.
        force: Whether to submit a run that does not fit all the same.

    Raises:
        RunError: `gpu` is unknown.
    """
    devices = load_devices()
    name = gpu or (runs[0].launch.slurm.gpu_type if launcher == "slurm" else "")
    if not name:
        return
    if not gpu and name.lower() not in devices.gpus:
        yield Finding(
            "warn",
            "memory",
            f"launch.slurm.gpu_type is {name!r}, a GPU that the planner does not know",
            f"--gpu names what comes near: {', '.join(devices.gpus)}",
        )
        return
    devices.gpu(name)
    checked: list[tuple[object, ...]] = []
    for run in runs:
        # other keys change no memory
        shape = run.model, run.parallel, run.train.micro_batch_size, run.data.sequence_length
        if shape not in checked:
            checked.append(shape)
            yield _finding(run, launcher, name, devices, force=force)


def _finding(run: RunConfig, launcher: str, gpu: str, devices: Devices, *, force: bool) -> Finding:
    try:
        from pretrain.planning.figures import figures, preload
        from pretrain.planning.plan import describe_memory, machines_of
        from pretrain.planning.search import changes, nearest_that_fits
    except ImportError:
        remedy = "check where PyTorch is installed"
        return Finding("warn", "memory", "unknown: PyTorch is not installed here", remedy)
    preload(run)
    config, per_node = run.launch, 0
    if launcher == "local":
        gpus = config.processes
    else:
        per_node = ranks_per_pod(config) if launcher == "kubernetes" else ranks_per_node(config)
        gpus = config.nodes * per_node
    machines = machines_of(devices, gpu, NETWORK, per_node)
    try:
        result = figures(run, gpus, machines)
    except RunError as error:
        return Finding("bad", "memory", str(error), "change the run file")
    text = describe_memory(result, machines)
    if result.fits:
        return Finding("ok", "memory", text)
    near = nearest_that_fits(run, gpus, machines)
    remedy = (
        f"nearest that fits, {near.bytes / GIB:,.1f} GiB: {changes(run, near.run)}"
        if near
        else f"no layout that fits was found on {gpus} GPUs: use more, or offloading"
    )
    return Finding("warn" if force else "bad", "memory", text, f"{remedy}; or --force")
