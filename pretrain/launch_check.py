"""`resonance launch check`: what is known of a run, put before the checks."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.manifest import load_manifest
from data_pipeline.verify import check_sizes
from launch.job import Job
from launch.kubernetes import client as kubernetes
from launch.kubernetes import pod
from launch.kubernetes.render import manifests
from launch.preflight import (
    Finding,
    Plan,
    check_output,
    check_port,
    check_time,
    check_versions,
    judged,
    report,
)
from launch.slurm import preflight as slurm
from launch.slurm.directives import ranks_per_node
from launch.versions import REMEDY
from pretrain.config import RunConfig
from pretrain.errors import RunError
from pretrain.fewer_nodes import check_fewer_nodes
from pretrain.launch_commands import LaunchCheckCommand
from pretrain.launch_jobs import job_of
from pretrain.run_directory import check_run, find_newest, list_checkpoints
from pretrain.run_file import load_run

# float32: the parameter and AdamW's two moments.
BYTES_PER_PARAMETER = 12
TIMED_STEPS = 50


def launch_check(command: LaunchCheckCommand) -> str:
    """The report.

    Raises:
        RunError: Something would stop the run; the message is the report.
    """
    run = load_run(command.run_file)
    findings = check(run, command.launcher, on_nodes=command.on_nodes)
    if any(finding.level == "bad" for finding in findings):
        raise RunError(f"found problems\n{report(findings)}")
    return report(findings)


def require_good(
    run: RunConfig, launcher: str, sweep: Sequence[RunConfig] = (), chain: int = 1
) -> list[str]:
    """Check a run that is about to be submitted; returns lines with warnings.

    Raises:
        RunError: Something would stop it.
    """
    findings = check(run, launcher, sweep=sweep, chain=chain)
    bad = [finding for finding in findings if finding.level == "bad"]
    if bad:
        raise RunError(f"not submitted\n{report(bad)}")
    warnings = [finding for finding in findings if finding.level == "warn"]
    return [report(warnings)] if warnings else []


def check(
    run: RunConfig,
    launcher: str,
    *,
    sweep: Sequence[RunConfig] = (),
    chain: int = 1,
    on_nodes: bool = False,
) -> list[Finding]:
    """Every finding about a run or a sweep, for one launcher."""
    job = job_of(run, sweep)
    if launcher == "kubernetes":
        return [_batch(run), *_kubernetes(job)]
    findings = []
    for one in sweep or [run]:
        findings += [_data(one, launcher), *_start(one)]
    needed = _checkpoint_bytes(run)
    total = None if needed is None else needed * max(1, len(sweep))
    findings += check_output(run.train.output.absolute(), total)
    findings.append(check_versions("resonance"))
    if launcher == "local":
        return [*findings, check_port(run.launch.port)]
    plan = Plan(_steps_left(run), _seconds_per_step(run), chain)
    limits = run.launch.slurm, run.launch.stop_lead_s
    return [*findings, check_time(*limits, plan, datetime.now()), *_slurm(job, on_nodes)]


def _data(run: RunConfig, launcher: str) -> Finding:
    try:
        if launcher == "local":
            ranks = [run.launch.processes]
        else:
            ranks = check_fewer_nodes(run, ranks_per_node(run.launch))
        check_run(run, ranks[0])
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
        ranks = check_fewer_nodes(run, pod.ranks_per_pod(run.launch))
    except RunError as error:
        return Finding("bad", "run", str(error), "change the run file")
    text = f"{_joined(ranks)} ranks share the batch; the claim is not visible from here"
    return Finding("warn", "run", text, "the ranks compare shards and tokenizer when they start")


def _joined(ranks: Sequence[int]) -> str:
    return " or ".join(map(str, ranks))


def _start(run: RunConfig) -> Iterator[Finding]:
    checkpoint: Path | str | None
    remote, storage = run.checkpoint.remote, run.data.storage
    try:
        checkpoint = find_newest(run.train.output)
    except RunError as error:
        yield Finding("bad", "checkpoint", str(error), "remove the damaged checkpoints")
        return
    if remote:
        # they need more imports, which only some runs need
        from pretrain.checkpoint.remote import newest_remote, require_writable

        try:
            checkpoint = checkpoint or newest_remote(remote, storage)
            require_writable(remote, storage)
        except RunError as error:
            remedy = "see checkpoint.remote, data.storage and the credentials of the environment"
            yield Finding("bad", "store", str(error), remedy)
            return
        yield Finding("ok", "store", f"{remote} can be read and written")
    text = f"goes on from {checkpoint}" if checkpoint else "starts from scratch"
    yield Finding("ok", "checkpoint", text)


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


def _render(job: Job) -> Iterator[str]:
    yield f"{len(manifests(job))} objects keep the rules of Kubernetes"


def _steps_left(run: RunConfig) -> int:
    done = 0
    for checkpoint in list_checkpoints(run.train.output)[-1:]:
        done = int(checkpoint.name.removeprefix("step-"))
    return max(0, run.train.steps - done)


def _seconds_per_step(run: RunConfig) -> float | None:
    """The median of the last steps that this run's directory has a record of."""
    file = run.train.output / "metrics.jsonl"
    if not file.exists():
        return None
    seconds = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            # a line that a crash has cut short
            continue
        if record.get("tokens_per_s"):
            seconds.append(record["step_tokens"] / record["tokens_per_s"])
    last = sorted(seconds[-TIMED_STEPS:])
    return last[len(last) // 2] if last else None


def _checkpoint_bytes(run: RunConfig) -> int | None:
    """Bytes that checkpoints will take beyond those that are there; None without PyTorch."""
    try:
        import torch

        from spectral.lm import SpectralLM
    except ImportError:
        return None
    with torch.device("meta"):
        model = SpectralLM(run.model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    there = len(list_checkpoints(run.train.output))
    # one more than is kept: the oldest goes when the newest is complete
    return max(1, run.checkpoint.keep_last + 1 - there) * parameters * BYTES_PER_PARAMETER
