"""`resonance launch check`: the facts about a run, and all checks before its submission."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.redaction import redact
from data_pipeline.shards.manifest import load_manifest
from data_pipeline.shards.verify import check_sizes
from launch.job import Job
from launch.kubernetes import client as kubernetes
from launch.kubernetes import pod
from launch.kubernetes.render import manifests
from launch.preflight import (
    Finding,
    check_output,
    check_port,
    check_time,
    check_versions,
    judged,
    report,
)
from launch.slurm import preflight as slurm
from launch.slurm.directives import ranks_per_node
from launch.submissions import NAME as LEDGER
from launch.versions import REMEDY
from pretrain.checkpoint.catalog import find_newest, list_checkpoints
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.launch_commands import LaunchCheckCommand
from pretrain.run_checks import check_run
from pretrain.run_file import load_run
from pretrain.submit.jobs import job_of, launch_directory, pods_job_of, require_ended
from pretrain.submit.memory_check import check_memory
from pretrain.submit.mounts import check_mounts
from pretrain.submit.node_counts import check_fewer_nodes
from pretrain.submit.remaining_work import checkpoint_bytes, longest_plan
from pretrain.submit.sweep import check_tasks

STORE_REMEDY = "see checkpoint.remote, data.storage and the credentials of the environment"


def launch_check(command: LaunchCheckCommand) -> str:
    """The report on a run (`resonance launch check`).

    Raises:
        RunError: A finding would stop the run; the message is the report.
    """
    run = load_run(command.run_file)
    findings = check(
        run, command.launcher, on_nodes=command.on_nodes, gpu=command.gpu, force=command.force
    )
    if any(finding.level == "bad" for finding in findings):
        raise RunError(f"found problems\n{report(findings)}")
    return redact(report(findings))


def require_good(
    run: RunConfig,
    launcher: str,
    sweep: Sequence[RunConfig] = (),
    keys: Sequence[str] = (),
    chain: int = 1,
    *,
    gpu: str = "",
    force: bool = False,
) -> list[str]:
    """Check a run that is about to be submitted.

    Args:
        run: The run, or the base of the sweep.
        launcher: `slurm` or `kubernetes`.
        sweep: The runs of the sweep's tasks.
        keys: Keys in which they differ.
        chain: Number of jobs that run one after another.
        gpu: Name of the GPU whose memory the run must fit; empty for launch.slurm.gpu_type.
        force: Whether a run may be too big for it.

    Returns:
        A report of the warnings, if there are any.

    Raises:
        RunError: A finding would stop the run.
    """
    findings = check(run, launcher, sweep=sweep, keys=keys, chain=chain, gpu=gpu, force=force)
    bad = [finding for finding in findings if finding.level == "bad"]
    if bad:
        raise RunError(f"not submitted\n{report(bad)}")
    warnings = [finding for finding in findings if finding.level == "warn"]
    return [redact(report(warnings))] if warnings else []


def check(
    run: RunConfig,
    launcher: str,
    *,
    sweep: Sequence[RunConfig] = (),
    keys: Sequence[str] = (),
    chain: int = 1,
    on_nodes: bool = False,
    gpu: str = "",
    force: bool = False,
) -> list[Finding]:
    """All findings about a run or a sweep, for one launcher.

    Args:
        run: The run, or the base of the sweep.
        launcher: `local`, `slurm` or `kubernetes`.
        sweep: The runs of the sweep's tasks.
        keys: Keys in which they differ.
        chain: Number of jobs that run one after another.
        on_nodes: Whether to compare versions on the nodes, too.
        gpu: Name of the GPU whose memory the run must fit; empty for launch.slurm.gpu_type.
        force: Whether a run may be too big for it.
    """
    memory = [*check_memory(sweep or [run], launcher, gpu, force=force)]
    if launcher == "kubernetes":
        job = pods_job_of(run)
        return [
            _batch(run),
            check_mounts(run, job, launcher),
            *memory,
            _earlier_jobs(run),
            *_kubernetes(job),
        ]
    runs = sweep or [run]
    findings = [*memory, *_store(run)]
    for task in runs:
        findings += [_data(task, launcher), _start(task)]
    sizes = [size for size in map(checkpoint_bytes, runs) if size is not None]
    findings += check_output(run.train.output.absolute(), sum(sizes) if sizes else None)
    findings.append(check_versions("resonance"))
    if launcher == "local":
        return [*findings, check_port(run.launch.port)]
    if sweep:
        findings.append(_tasks(sweep, keys))
    limits = run.launch.slurm, run.launch.stop_lead_s
    findings.append(check_time(*limits, longest_plan(runs, chain), datetime.now()))
    findings.append(_earlier_jobs(run))
    job = job_of(run, sweep)
    if run.launch.slurm.container != "none":
        findings += [check_mounts(task, job, launcher) for task in runs]
    return [*findings, *_slurm(job, on_nodes)]


def require_possible(run: RunConfig, ranks_per_machine: int) -> list[int]:
    """Check what needs no disk: the layouts on all possible numbers of machines, and the data keys.

    Returns:
        The numbers of ranks that the run may have, the planned number first.

    Raises:
        RunError: A number of ranks cannot share the work, or there is no training data.
    """
    if not run.data.datasets:
        raise RunError('data.datasets is empty; expected for example [{ path = "data/train" }]')
    return check_fewer_nodes(run, ranks_per_machine)


def _data(run: RunConfig, launcher: str) -> Finding:
    try:
        if launcher == "local":
            ranks = [run.launch.processes]
        else:
            ranks = require_possible(run, ranks_per_node(run.launch))
        checkpoints = list_checkpoints(run.train.output)
        check_run(run, ranks[0], checkpoints[-1] if checkpoints else None)
        for path in [*(dataset.path for dataset in run.data.datasets), run.data.valid]:
            if path:
                check_sizes(path, load_manifest(path, run.data.storage), run.data.storage)
    except (RunError, DataError, OSError) as error:
        remedy = "change the run file, or build the data: `resonance data build`"
        return Finding("bad", "run", str(error), remedy)
    return Finding(
        "ok", "run", f"{_joined(ranks)} ranks share the batch; shards and tokenizer agree"
    )


def _batch(run: RunConfig) -> Finding:
    try:
        ranks = require_possible(run, pod.ranks_per_pod(run.launch))
    except RunError as error:
        return Finding("bad", "run", str(error), "change the run file")
    text = f"{_joined(ranks)} ranks share the batch; the claim is not visible from here"
    return Finding("warn", "run", text, "the ranks compare shards and tokenizer when they start")


def _joined(ranks: Sequence[int]) -> str:
    return " or ".join(map(str, ranks))


def _store(run: RunConfig) -> Iterator[Finding]:
    """Whether the store is writable; a sweep's tasks write below the base run's store."""
    remote = run.checkpoint.remote
    if not remote:
        return
    # imported only by the runs that need it
    from pretrain.checkpoint.remote import require_writable

    try:
        require_writable(remote, run.data.storage)
    except RunError as error:
        yield Finding("bad", "store", str(error), STORE_REMEDY)
        return
    yield Finding("ok", "store", f"{remote} can be read and written")


def _start(run: RunConfig) -> Finding:
    checkpoint: Path | str | None
    try:
        checkpoint = find_newest(run.train.output)
    except RunError as error:
        return Finding("bad", "checkpoint", str(error), "remove the damaged checkpoints")
    if run.checkpoint.remote and not checkpoint:
        from pretrain.checkpoint.remote import newest_remote

        try:
            checkpoint = newest_remote(run.checkpoint.remote, run.data.storage)
        except RunError as error:
            return Finding("bad", "store", str(error), STORE_REMEDY)
    text = f"resumes from {checkpoint}" if checkpoint else "starts from scratch"
    return Finding("ok", "checkpoint", text)


def _tasks(sweep: Sequence[RunConfig], keys: Sequence[str]) -> Finding:
    try:
        check_tasks(sweep, keys)
    except (RunError, DataError) as error:
        remedy = "choose another train.output and checkpoint.remote, or remove the earlier sweep's"
        return Finding("bad", "sweep", str(error), remedy)
    return Finding("ok", "sweep", f"no checkpoint of other values in {len(sweep)} directories")


def _earlier_jobs(run: RunConfig) -> Finding:
    ledger = launch_directory(run) / LEDGER
    remedy = (
        "`resonance launch cancel` ends it; or choose another train.output; or, if no cluster "
        f"knows it any more, remove {ledger}"
    )
    return judged("jobs", require_ended(run), remedy)


def _slurm(job: Job, on_nodes: bool) -> Iterator[Finding]:
    remedy = "`sinfo` and `scontrol show partition` list what there is; see [launch.slurm]"
    yield judged("slurm", slurm.can_start(job), remedy)
    if on_nodes:
        yield judged("nodes", slurm.versions_agree(job), REMEDY)


def _kubernetes(job: Job) -> Iterator[Finding]:
    remedy = "see [launch.kubernetes] in docs/launch.md"
    rendered = judged("manifests", _render(job), remedy)
    yield rendered
    if rendered.level == "ok":
        remedy = "create the claim, name another, or set launch.kubernetes.claim_size"
        yield judged("claim", kubernetes.require_claim(job), remedy)
        remedy = (
            "`resonance launch cancel` deletes what was submitted from here; or choose another "
            "train.output or launch.name"
        )
        yield judged("job", kubernetes.require_new(job, manifests(job)), remedy)


def _render(job: Job) -> Iterator[str]:
    yield f"{len(manifests(job))} objects keep the rules of Kubernetes"
