"""A stand-in for Kubernetes' Job controller and kubelet: an Indexed Job's pods, run by podman.

The image holds nothing: this machine's /usr, Python and the repository are mounted read-only, so
that no registry is needed. Needs root, podman, runc, netavark and aardvark-dns.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

PROGRAMS = ("podman", "runc", "iptables")
IMAGE = "localhost/resonance:test"
ROOT = Path(__file__).resolve().parents[2]
# What the image lacks, to be mounted.
PROGRAM_FOLDERS = ("/usr", sys.base_prefix)
PASSWD = "root:x:0:0:root:/:/bin/sh\nresonance:x:1000:1000::/tmp:/bin/sh\n"


def missing() -> str:
    """What this machine lacks to run pods; empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(name for name in PROGRAMS if shutil.which(name) is None)


class Pods:
    """Pods on a network of their own, with podman's state in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        pid = os.getpid()
        self.network = f"resonance{pid}"
        self.subnet = f"10.{128 + pid % 64}.{pid // 64 % 256}"
        configuration, storage = folder / "containers.conf", folder / "storage.conf"
        mounts = [*PROGRAM_FOLDERS, sys.prefix, str(ROOT)]
        volumes = json.dumps([f"{path}:{path}:ro" for path in dict.fromkeys(mounts)])
        configuration.write_text(
            f"""[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
volumes = {volumes}
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
volume_path = "{folder}/volumes"
static_dir = "{folder}/static"
tmp_dir = "{folder}/tmp"
[network]
network_config_dir = "{folder}/networks"
"""
        )
        storage.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        )
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(configuration),
            "CONTAINERS_STORAGE_CONF": str(storage),
        }

    def up(self) -> None:
        """Make the image and the network; start one container to see that they can run here.

        Raises:
            RuntimeError: Containers cannot run on this machine.
        """
        self.make_image(IMAGE, PASSWD)
        self.podman("network", "create", f"--subnet={self.subnet}.0/24", self.network)
        self.podman("run", "--rm", f"--network={self.network}", IMAGE, "/usr/bin/true")

    def make_image(self, name: str, passwd: str, *changes: str) -> None:
        """Make an image that holds folders and users, and nothing to run.

        Args:
            name: Its tag.
            passwd: Its users.
            changes: Instructions of a Dockerfile, such as ENV.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            rootfs = Path(folder) / "rootfs"
            for part in ("etc", "tmp", "workspace", "proc", "sys", "dev/shm", "run", "root"):
                (rootfs / part).mkdir(parents=True)
            # podman gives a volume the mode and owner of the folder that it covers; Kubernetes
            # makes every emptyDir writable, and gives a claim to the group of fsGroup
            for part in ("tmp", "dev/shm"):
                (rootfs / part).chmod(0o1777)
            shutil.chown(rootfs / "workspace", 1000, 1000)
            for part in ("bin", "sbin", "lib", "lib64"):
                (rootfs / part).symlink_to(f"usr/{part}")
            (rootfs / "etc/passwd").write_text(passwd)
            (rootfs / "etc/group").write_text("root:x:0:\n")
            archive = Path(folder) / "rootfs.tar"
            with tarfile.open(archive, "w") as tar:
                tar.add(rootfs, ".")
            options = [f"--change={change}" for change in changes]
            self.podman("import", *options, str(archive), name)

    def down(self) -> None:
        """End every container and forget the network."""
        for command in (
            ["pod", "rm", "--all", "--force"],
            ["rm", "--all", "--force"],
            ["network", "rm", "--force", self.network],
        ):
            subprocess.run(["podman", *command], env=self.environment, capture_output=True)

    def podman(self, *command: str) -> str:
        """Run podman.

        Raises:
            RuntimeError: It fails; with its own words.
        """
        result = subprocess.run(
            ["podman", *command], env=self.environment, capture_output=True, text=True
        )
        if result.returncode:
            raise RuntimeError(f"podman {' '.join(command)}: {result.stderr}")
        return result.stdout

    def logs(self, container: str) -> str:
        """Everything that a container wrote."""
        command = ["podman", "logs", container]
        return subprocess.run(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout

    def play(self, documents: list[dict[str, Any]], claim: str, data: Path) -> list[str]:
        """Start every pod of the Indexed Job among some manifests; returns its containers.

        Args:
            documents: As they were rendered.
            claim: Name of the volume claim, and
            data: the folder that it is here.
        """
        options = ["type=none", "o=bind", f"device={data}"]
        self.podman("volume", "create", *(f"--opt={option}" for option in options), claim)
        (job,) = (one for one in documents if one["kind"] == "Job")
        others = [one for one in documents if one["kind"] in ("ConfigMap", "Secret")]
        containers = []
        for index in range(job["spec"]["completions"]):
            pod = self.pod(job, index)
            file = self.folder / f"{pod['metadata']['name']}.yaml"
            file.write_text(yaml.safe_dump_all([*others, pod]))
            address = f"--ip={self.subnet}.{10 + index}"
            self.podman("kube", "play", f"--network={self.network}", address, str(file))
            containers.append(f"{pod['metadata']['name']}-{pod['spec']['containers'][0]['name']}")
        return containers

    def pod(self, job: dict[str, Any], index: int) -> dict[str, Any]:
        """What the Job controller, the headless Service's DNS and the kubelet make of a job."""
        name = job["metadata"]["name"]
        template = copy.deepcopy(job["spec"]["template"])
        spec = template["spec"]
        peers = range(job["spec"]["completions"])
        spec["hostname"] = f"{name}-{index}"
        spec["hostAliases"] = [
            {
                "ip": f"{self.subnet}.{10 + peer}",
                "hostnames": [f"{name}-{peer}.{spec['subdomain']}", f"{name}-{peer}"],
            }
            # a pod starts before its own name can be looked up
            for peer in peers
            if peer != index
        ]
        (container,) = spec["containers"]
        container["env"].append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        # podman would publish the port on this machine, once for each pod
        container.pop("ports")
        # podman gives volumes of one name to all pods, and runs probes by systemd
        for volume in spec["volumes"]:
            if "secret" in volume:
                # podman 4.3 crashes without it
                volume["secret"].setdefault("optional", False)
            if "emptyDir" in volume:
                old, volume["name"] = volume["name"], f"{volume['name']}-{index}"
                for mount in container["volumeMounts"]:
                    if mount["name"] == old:
                        mount["name"] = volume["name"]
        self.probe = container.pop("startupProbe")["exec"]["command"]
        container.pop("livenessProbe")
        metadata = {"name": f"{name}-{index}", "labels": template["metadata"]["labels"]}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
