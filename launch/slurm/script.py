"""Batch script of a run: a pure function of the job, so it is tested without Slurm.

The script starts torchrun on every node, forwards a request to stop to the ranks, and afterwards
runs `launch.slurm.requeue` to decide whether the run is finished, is requeued or has failed. Every
value from outside is quoted for the shell; `$NAME` is written in this file only.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from launch.errors import LaunchError
from launch.job import Job
from launch.local import rank_environment
from launch.slurm import container
from launch.slurm.directives import directives, ranks_per_node
from launch.torchrun import FAILURE_LOG, NODE_INDEX, SECRET_FILE, torchrun_command

# seconds that torchrun on other nodes may continue after the first has ended
LAST_NODES_S = 300
CHAIN = "chain"

# comes before the ranks start, so that no request to stop is missed
TRAP = """\
step=
stopped=0
again=0
stop() {
    echo "resonance: received a request to stop; the ranks save and exit"
    stopped=1
    again=1
    if [[ -n $step ]]; then kill -USR1 "$step" || true; fi
}
trap stop USR1 TERM
"""

WAIT = """\
step=$!
status=0
wait "$step" || status=$?
# a signal ends `wait` early: wait again after each one
while ((again)); do
    again=0
    status=0
    wait "$step" || status=$?
done
trap '' USR1 TERM
"""

DECIDE = """\
# a marked line: a site's squeue may print more
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --states=all --format=state=%T |
    sed -n 's/^state=//p' | tail -n 1) || state=UNKNOWN
decision=$("$python" -m launch.slurm.requeue "${limits[@]}" "$status" "$stopped" "$state" \\
    "${SLURM_RESTART_COUNT:-0}" "$mode") || decision=stop
decision=${decision##*$'\\n'}
echo "resonance: the ranks ended with status $status; now: $decision"
case $decision in
requeue)
    scontrol requeue "$SLURM_JOB_ID"
    # Slurm ends this script
    sleep 600
    ;;
exclude\\ *)
    "$python" -m launch.slurm.resubmit "${decision#exclude }" "$mode" "$script" || true
    ;;
esac
exit "$status"
"""


def batch_script(job: Job) -> str:
    """The script for sbatch; with the argument `chain`, it runs as one job of a chain.

    Raises:
        LaunchError: A path has characters that Slurm or the container cannot handle.
    """
    return "\n".join(["#!/usr/bin/env bash", *directives(job), *_body(job), WAIT + DECIDE])


def script_path(job: Job) -> PurePosixPath:
    """Path of the script."""
    return job.directory / "job.sh"


def secret_path(job: Job) -> PurePosixPath:
    """Path of the secret that signs the rendezvous of the nodes."""
    return job.directory / ".rendezvous-secret"


def failure_logs(job: Job) -> list[PurePosixPath]:
    """Paths of the failure logs, one for each task of a sweep."""
    log = _failure_log(job)
    tasks = [f"-{task}" for task in range(len(job.run_files))] if job.sweep else [""]
    return [log.with_name(f"{log.name}{task}") for task in tasks]


def _failure_log(job: Job) -> PurePosixPath:
    """Path of the failure log, without the suffix of a task."""
    return job.directory / "failures"


def _body(job: Job) -> Iterator[str]:
    slurm = job.config.slurm
    # the first command also ends the lines that sbatch reads as directives
    yield "set -euo pipefail"
    yield f"cd -- {_word(job.working_directory)}"
    for module in slurm.modules:
        yield f"module load {shlex.quote(module)}"
    task = '-"$SLURM_ARRAY_TASK_ID"' if job.sweep else ""
    yield f"export {FAILURE_LOG}={_word(_failure_log(job))}{task}"
    yield f"export {SECRET_FILE}={_word(secret_path(job))}"
    yield "mode=${1:-single}"
    yield f"script={_word(script_path(job))}"
    run_file = f"{_word(job.directory / 'run')}{task}.toml"
    yield f"run_file={run_file}"
    # the first node, which runs this script
    yield "first=$SLURMD_NODENAME"
    yield f"port={_port(job)}"
    limits = (slurm.max_requeues, slurm.max_failures, slurm.exclude_after)
    yield f"python={_quoted(job.python)}"
    yield f"limits=({shlex.join([*map(str, limits), *slurm.exclude])})"
    yield TRAP
    step = ["srun", *_srun_options(job), *_in_container(job), *_torchrun(job)]
    yield _lines([*_environment(job), *step]) + " &"


def _port(job: Job) -> str:
    port, last = job.config.port, len(job.run_files) - 1
    if not port:
        return "$((20000 + SLURM_JOB_ID % 20000))"
    if port + last > 65535:
        raise LaunchError(
            f"launch.port {port}: expected at most {65535 - last}: each of {last + 1} tasks takes "
            "the next port"
        )
    # tasks may share a first node
    return f"$(({port} + SLURM_ARRAY_TASK_ID))" if job.sweep else str(port)


def _srun_options(job: Job) -> list[str]:
    options = [
        # in an allocation, variables of the surrounding job say otherwise
        '--nodes="$SLURM_NNODES"',
        '--ntasks="$SLURM_NNODES"',
        "--ntasks-per-node=1",
        # all of the job's memory
        "--mem=0",
        # also where SBATCH_EXPORT=NONE gave the job no variables of its submission
        "--export=ALL",
        '--cpus-per-task="$SLURM_CPUS_PER_TASK"',
        "--kill-on-bad-exit=0",
        f"--wait={LAST_NODES_S}",
    ]
    inside = container.srun_options(job)
    return [*options, *(f"{name}={_quoted(value)}" for name, value in inside.items())]


def _in_container(job: Job) -> list[str]:
    words = container.prefix(job)
    # an option's name needs no quotes
    return ["=".join(map(_quoted, word.split("=", 1))) for word in words]


def _environment(job: Job) -> list[str]:
    """The variables of the ranks, not exported: a name may be that of a variable of the script."""
    table = {name: shlex.quote(value) for name, value in rank_environment(job.config).items()}
    if job.config.slurm.container == "apptainer":
        # otherwise an image's own values are stronger
        table |= {f"APPTAINERENV_{name}": value for name, value in table.items()}
    return ["env", *(f"{name}={value}" for name, value in table.items())]


def _torchrun(job: Job) -> list[str]:
    config = job.config
    nodes = f"{config.min_nodes}:" if ":" in config.nnodes else ""
    words = torchrun_command(
        container.python(job),
        ["NODES", "--rdzv-backend=c10d", "ENDPOINT", "ID", f"{NODE_INDEX}=SLURM_NODEID"],
        PurePosixPath("RUN_FILE"),
        processes=ranks_per_node(config),
        max_restarts=config.max_restarts,
        arguments=["--auto-resume"],
    )
    variables = {
        "NODES": f'--nnodes={nodes}"$SLURM_NNODES"',
        "ENDPOINT": '--rdzv-endpoint="$first:$port"',
        "ID": '--rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"',
        "RUN_FILE": '"$run_file"',
    }
    return [shlex.quote(words[0]), *(variables.get(word, shlex.quote(word)) for word in words[1:])]


def _word(path: PurePosixPath) -> str:
    return _quoted(str(path))


def _quoted(text: str) -> str:
    if "\0" in text:
        raise LaunchError(f"expected no NUL characters, found {text!r}")
    return shlex.quote(text)


def _lines(words: Sequence[str]) -> str:
    return " \\\n    ".join(words)
