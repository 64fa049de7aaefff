"""Options of sbatch: those of the launcher, and the free ones of `[launch.slurm.options]`."""

import re
from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import AfterValidator, StrictBool, StrictInt, StrictStr

from launch.field_types import no_control

NODES = "launch.nodes and launch.min_nodes"
GPUS = "launch.slurm.gpus_per_node"
TASKS = "the launcher: a node has one task, which starts the ranks"
LOGS = "the launcher: `resonance launch logs` reads OUTPUT/launch"
SUBMISSION = "the launcher: sbatch only submits, and prints the job number"
REQUEUE = "launch.slurm.max_requeues"
# options that every script or submission sets, or that would break what the launcher relies on
FIXED = {
    "array": "--sweep and launch.slurm.array_limit",
    "batch": "the launcher: the script runs on the first node, where the ranks meet",
    "chdir": "train.output",
    "clusters": "SLURM_CLUSTERS in the environment, which all commands of Slurm read",
    "cpus-per-gpu": "launch.slurm.cpus_per_node",
    "cpus-per-task": "launch.slurm.cpus_per_node",
    "error": LOGS,
    "help": SUBMISSION,
    "job-name": "launch.name",
    "no-requeue": REQUEUE,
    "nodefile": NODES,
    "nodes": NODES,
    "ntasks": TASKS,
    "ntasks-per-core": TASKS,
    "ntasks-per-gpu": TASKS,
    "ntasks-per-node": TASKS,
    "ntasks-per-socket": TASKS,
    "open-mode": LOGS,
    "output": LOGS,
    "parsable": SUBMISSION,
    "quiet": SUBMISSION,
    "requeue": REQUEUE,
    "signal": "launch.stop_lead_s",
    "tasks-per-node": TASKS,
    "test-only": SUBMISSION,
    "time": "launch.slurm.time_limit",
    "usage": SUBMISSION,
    "version": SUBMISSION,
    "wait": SUBMISSION,
    "wrap": SUBMISSION,
}
# options that a script sets if their key does; the key of `constraint` is launch.slurm.constraint
KEYS = {
    **{
        name: f"launch.slurm.{name.replace('-', '_')}"
        for name in (
            "account",
            "comment",
            "constraint",
            "deadline",
            "exclude",
            "exclusive",
            "gpus-per-node",
            "gres",
            "licenses",
            "mem-per-cpu",
            "mem-per-gpu",
            "nodelist",
            "partition",
            "qos",
            "reservation",
        )
    },
    "gpus": GPUS,
    "gpus-per-socket": GPUS,
    "gpus-per-task": GPUS,
    "mem": "launch.slurm.memory",
}
# options of which sbatch accepts one
RIVALS = (
    {"mem", "mem-per-cpu", "mem-per-gpu"},
    {"gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task"},
)
# variables of sbatch that are not named as their option
VARIABLES = {
    "SBATCH_ARRAY_INX": "array",
    "SBATCH_MEM_PER_NODE": "mem",
    "SBATCH_REQ_SWITCH": "switches",
    "SBATCH_TIMELIMIT": "time",
}


def _free(table: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    """Check a table of options.

    Raises:
        ValueError: A name has not the form of an option, or the launcher sets the option.
    """
    for name, value in table.items():
        if not re.fullmatch(r"[a-z][a-z0-9]+(-[a-z0-9]+)*", name, re.ASCII):
            raise ValueError(
                f"expected the long names of sbatch's options without '--', such as 'mail-type', "
                f"found {name!r}"
            )
        owners = {**FIXED, **KEYS}
        # sbatch also accepts the beginning of a name
        option = next(
            (key for key in (name, *owners) if key in owners and key.startswith(name)), ""
        )
        if option:
            raise ValueError(
                f"{name} is set by {owners[option]}; expected options of sbatch that have no key "
                "here"
            )
        if isinstance(value, str):
            no_control(value)
        if value is False or value == "":
            raise ValueError(
                f"{name}: expected a value, or true for an option without one, found {value!r}; "
                "leave it out to not set it"
            )
    return table


FreeOptions = Annotated[dict[str, StrictStr | StrictInt | StrictBool], AfterValidator(_free)]


def overriding_variables(environment: Mapping[str, str], options: Collection[str]) -> set[str]:
    """Names of the SBATCH_ variables that would replace what a script sets.

    For sbatch, a variable is stronger than an #SBATCH line. Variables of options that the script
    leaves open, such as SBATCH_ACCOUNT, apply as they do on a login node.

    Args:
        environment: Environment of sbatch.
        options: Options of the script's #SBATCH lines.
    """
    closed = {*FIXED, *options}
    for rivals in RIVALS:
        if not rivals.isdisjoint(options):
            closed |= rivals
    return {
        name
        for name in environment
        if name.startswith("SBATCH_")
        and VARIABLES.get(name, name.removeprefix("SBATCH_").lower().replace("_", "-")) in closed
    }
