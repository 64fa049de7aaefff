"""Jobs that the tests of this folder render."""

from pathlib import PurePosixPath

from launch.config import LaunchConfig
from launch.job import Job

RUN = '[train]\nsteps = 10\noutput = "runs/novels"\n'
ON_GPUS = {
    "nodes": 4,
    "min_nodes": 2,
    "threads": 6,
    "stop_lead_s": 600,
    "port": 29400,
    "network_interface": "ib0",
    "environment": {"NCCL_DEBUG": "INFO", "GREETING": 'it\'s $HOME, `id`; "x"'},
}


def make_job(num_runs: int = 1, *, name: str = "novels", **table: object) -> Job:
    """A job on a shared disk, with a [launch] table of these values."""
    return Job(
        config=LaunchConfig.model_validate(table),
        name=name,
        directory=PurePosixPath("/shared/runs/novels/launch"),
        working_directory=PurePosixPath("/shared/my project"),
        python="/shared/venv/bin/python",
        run_files=[RUN] * num_runs,
        output=PurePosixPath("/workspace" if "kubernetes" in table else "/shared", "runs/novels"),
    )


def slurm_jobs() -> dict[str, Job]:
    """By the name of the golden file."""
    gpus = {
        "partition": "gpu,gpu-large",
        "account": "lab",
        "qos": "long",
        "constraint": "a100&nvlink",
        "time_limit": "1-12:00:00",
        "deadline": "2027-01-31T18:00:00",
        "gpus_per_node": 8,
        "gpu_type": "a100",
        "memory": "0",
        "exclusive": True,
        "nodelist": ["n1"],
        "exclude": ["n[3-4]", "n9"],
        "gres": "lscratch:100G",
        "licenses": "fluent:2",
        "comment": 'it\'s "odd" #1 \\',
        "options": {"mail-type": "END,FAIL", "nice": 100, "spread-job": True},
        "modules": ["cuda/12.8", "it's odd"],
        "container": "pyxis",
        "image": "registry.example.org#lab/resonance:1",
        "mounts": ["/data:/data:ro"],
    }
    apptainer = {"container": "apptainer", "image": "/shared/my image.sif", "array_limit": 2}
    return {
        "cpu.sh": make_job(nodes=2, processes=4),
        "gpus.sh": make_job(**ON_GPUS, slurm=gpus),
        "gres.sh": make_job(
            slurm={"gres": "gpu:a100:4", "mem_per_gpu": "64GB", "time_limit": "UNLIMITED"}
        ),
        "sweep.sh": make_job(3, port=29400, slurm=apptainer),
    }


def kubernetes_jobs() -> dict[str, Job]:
    """By the name of the golden file."""
    plain = {"image": "registry.example.org/lab/resonance:1", "claim": "corpora"}
    full = {
        **plain,
        "claim": "",
        "claim_size": "500Gi",
        "storage_class": "fast",
        "namespace": "pretraining",
        "image_pull_secret": "registry",
        "service_account": "trainer",
        "secret": "tracking",
        "gpus_per_node": 8,
        "memory": "512Gi",
        "shm": "64Gi",
        "priority_class": "high",
        "node_selector": {"gpu.example.org/kind": "a100"},
        "tolerations": ["nvidia.com/gpu"],
        "topology_key": "topology.kubernetes.io/zone",
    }
    kueue = {"queue": "kueue", "queue_name": "lab"}
    volcano = {"queue": "volcano", "queue_name": "lab"}
    return {
        "job.yaml": make_job(nodes=2, kubernetes=plain),
        "job-kueue.yaml": make_job(**ON_GPUS, kubernetes={**full, **kueue}),
        "job-volcano.yaml": make_job(nodes=2, kubernetes={**plain, **volcano}),
        "jobset.yaml": make_job(**ON_GPUS, kubernetes={**full, "kind": "jobset"}),
        "trainjob.yaml": make_job(
            **ON_GPUS, kubernetes={**full, "kind": "trainjob", "priority_class": ""}
        ),
        "pytorchjob.yaml": make_job(
            **ON_GPUS, kubernetes={**full, **volcano, "kind": "pytorchjob"}
        ),
    }
