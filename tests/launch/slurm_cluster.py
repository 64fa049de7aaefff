"""A real Slurm cluster of several nodes on one machine, for one test session.

slurmctld, munged and a slurmd per node. Every node lives in its own network, UTS and mount
namespace, with its own address on a bridge and its own host name, so that a node can be killed.
Needs root, Debian's slurm-wlm and munge, iproute2 and util-linux.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from launch.slurm import client
from launch.slurm.job_states import JobState

PROGRAMS = (
    "slurmctld",
    "slurmd",
    "munged",
    "sbatch",
    "scontrol",
    "ip",
    "nsenter",
    "unshare",
    "setpriv",
)
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

SLURM_CONF = """\
ClusterName=tests
SlurmctldHost={host}({controller})
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=6
InactiveLimit=0
KillWait=5
MinJobAge=3600
MessageTimeout=5
UnkillableStepTimeout=20
JobRequeue=1
EnforcePartLimits=ALL
DefMemPerCPU=1000
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1:00:00 GraceTime=5 State=UP
PartitionName=short Nodes=ALL MaxTime=00:05:00 State=UP
PartitionName=urgent Nodes=ALL MaxTime=1:00:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=endless Nodes=ALL MaxTime=UNLIMITED State=UP
PartitionName=broken Nodes=ALL MaxTime=1:00:00 State=DOWN
"""


def missing() -> str:
    """What this machine lacks to run the cluster; empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return ", ".join(lacking)


class Cluster:
    """The cluster; `environment` makes Slurm's commands talk to it.

    Attributes:
        names: Of its nodes.
        environment: For every command and daemon.
    """

    def __init__(self, root: Path, num_nodes: int = 3, gpus_per_node: int = 2):
        self.root = root
        self.names = [f"n{index + 1}" for index in range(num_nodes)]
        self.gpus_per_node = gpus_per_node
        self.environment = {
            **os.environ,
            "PATH": PATH,
            "SLURM_CONF": str(root / "slurm.conf"),
        }
        self.tag = f"rs{os.getpid()}"
        pid = os.getpid()
        self.subnet = f"10.{64 + pid % 64}.{pid // 64 % 256}"
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, name: str) -> str:
        """A node's address on the bridge."""
        return f"{self.subnet}.{11 + self.names.index(name)}"

    def up(self) -> None:
        """Start everything and wait until all nodes are idle."""
        self._write_files()
        self._connect()
        munge = self.root / "munge"
        self._spawn(
            "munged",
            ["munged", "--foreground", "--force", f"--key-file={munge}/key"]
            + [f"--{kind}-file={munge}/{kind}" for kind in ("pid", "log", "seed")]
            + [f"--socket={munge}/socket", "--num-threads=2"],
        )
        wait_for(lambda: (munge / "socket").exists(), 20, "munged's socket")
        hosts = f"mount --make-rprivate / && mount --bind {self.root}/hosts /etc/hosts"
        self._spawn(
            "slurmctld",
            ["unshare", "--mount", "sh", "-c", f"{hosts} && exec slurmctld -D"],
        )
        for name in self.names:
            self.start_node(name)
        self.wait_for_nodes("idle")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd inside its namespaces."""
        script = (
            f"mount --make-rprivate / && mount --bind {self.root}/hosts /etc/hosts && "
            f"hostname {name} && exec slurmd -D -N {name}"
        )
        command = [f"--net=/run/netns/{self.tag}-{name}", "unshare", "--mount", "--uts"]
        self._spawn(name, ["nsenter", *command, "sh", "-c", script])

    def kill_node(self, name: str) -> None:
        """End a node as a power cut does: every process in its network namespace."""
        for pid in self.pids(name):
            os.kill(pid, signal.SIGKILL)
        self.daemons.pop(name).wait()

    def pids(self, name: str) -> list[int]:
        """Processes inside a node, its slurmd among them."""
        result = self._call("ip", "netns", "pids", f"{self.tag}-{name}")
        return [int(pid) for pid in result.split()]

    def states(self) -> dict[str, str]:
        """Slurm's short state of each node."""
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t").splitlines()
        return dict(line.split() for line in lines)

    def wait_for_nodes(self, state: str, names: Sequence[str] = (), timeout_s: float = 60) -> None:
        """Wait until nodes (default: all) are in a state."""
        wanted = set(names or self.names)

        def reached() -> bool:
            states = self.states()
            return all(states.get(name, "").rstrip("*") == state for name in wanted)

        wait_for(reached, timeout_s, f"{sorted(wanted)} {state}")

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands; returns what it prints, empty when it fails."""
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return result.stdout if result.returncode == 0 else ""

    def down(self) -> None:
        """End every process and remove every namespace and link that `up` made."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--full", "--user=root")
        for name in self.names:
            for pid in self.pids(name):
                os.kill(pid, signal.SIGKILL)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", f"{self.tag}-{name}"], capture_output=True)
        subprocess.run(["ip", "link", "del", self.tag], capture_output=True)

    def _connect(self) -> None:
        call, tag = self._call, self.tag
        call("ip", "link", "add", tag, "type", "bridge")
        call("ip", "addr", "add", f"{self.subnet}.1/24", "dev", tag)
        call("ip", "link", "set", tag, "up")
        for name in self.names:
            node = f"{tag}-{name}"
            call("ip", "netns", "add", node)
            peer = ["type", "veth", "peer", "name", "eth0", "netns", node]
            call("ip", "link", "add", f"{tag}{name}", *peer)
            call("ip", "link", "set", f"{tag}{name}", "master", tag, "up")
            call("ip", "-n", node, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            call("ip", "-n", node, "link", "set", "lo", "up")
            call("ip", "-n", node, "link", "set", "eth0", "up")

    def _write_files(self) -> None:
        root = self.root
        for folder in ("munge", "state", "spool"):
            (root / folder).mkdir(parents=True)
        # munged refuses a socket that others cannot reach, and a key that they can read
        (root / "munge").chmod(0o755)
        key = root / "munge/key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        host = socket.gethostname()
        lines = ["127.0.0.1 localhost", f"{self.subnet}.1 {host}"]
        for name in self.names:
            # torchrun looks the IPv4-mapped address up backwards
            lines += [f"{self.address(name)} {name}", f"::ffff:{self.address(name)} {name}"]
        (root / "hosts").write_text("\n".join(lines) + "\n")
        for index in range(self.gpus_per_node):
            os.mknod(root / f"gpu{index}", 0o20666, os.makedev(1, 3))
        last = self.gpus_per_node - 1
        (root / "gres.conf").write_text(
            f"NodeName={','.join(self.names)} Name=gpu File={root}/gpu[0-{last}]\n"
        )
        (root / "cgroup.conf").write_text("")
        nodes = [
            f"NodeName={name} NodeHostname={name} NodeAddr={self.address(name)} Port=6818 "
            f"CPUs=4 RealMemory=4000 Gres=gpu:{self.gpus_per_node} State=UNKNOWN"
            for name in self.names
        ]
        (root / "slurm.conf").write_text(
            SLURM_CONF.format(
                host=host,
                controller=f"{self.subnet}.1",
                port=_free_port(),
                root=root,
                nodes="\n".join(nodes),
            )
        )

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.root / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                # a test session that is killed takes its daemons along
                ["setpriv", "--pdeathsig=KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd=self.root,
                start_new_session=True,
            )

    def _call(self, *command: str) -> str:
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{' '.join(command)}: {result.stderr}")
        return result.stdout


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll a condition.

    Raises:
        TimeoutError: Names what did not come.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(0.2)


def wait_for_state(job: str, state: str, timeout_s: float = 90) -> JobState:
    """Wait until a job is in a state; returns all that Slurm says about it."""
    last = [JobState(job, "", "", "", None, 0)]

    def reached() -> bool:
        last[0] = client.status([job])[0]
        return last[0].state == state

    try:
        wait_for(reached, timeout_s, f"job {job} {state}")
    except TimeoutError as error:
        raise TimeoutError(f"{error}: {last[0]}") from None
    return last[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
