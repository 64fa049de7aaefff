"""Slurm's commands as from a login node, and their answers among a site's messages."""

import errno
import shlex
from pathlib import Path

import pytest

from launch.errors import LaunchError
from launch.slurm import client, resubmit
from launch.slurm.commands import login_environment, sbatch
from launch.slurm.directives import options
from launch.slurm.preflight import can_start
from launch.slurm.script import batch_script
from launch.slurm_config import SlurmConfig
from launch.slurm_options import FIXED, KEYS
from launch.submissions import Submitted, read
from launch.torchrun import FAILURE_LOG, SECRET_FILE
from tests.unit.launch.jobs import make_job, slurm_jobs
from tests.unit.launch.stand_ins import called, listed, write

# of a job with `salloc --mem-per-cpu`, a step of it, a user, and a site
SURROUNDING = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "4",
    "SLURM_MEM_PER_CPU": "100",
    "SLURM_RESTART_COUNT": "2",
    "SLURMD_NODENAME": "n1",
    "SALLOC_PARTITION": "debug",
    "SQUEUE_PARTITION": "debug",
    "PMI_RANK": "0",
    "PMIX_NAMESPACE": "slurm.7.0",
    "_SLURM_SPANK_OPTION_pyxis_container_image": "other",
    "CUDA_VISIBLE_DEVICES": "0",
}
OF_THE_USER = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "SLURM_CONF": "/etc/slurm.conf",
    "SLURM_JWT": "abc",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_ACCOUNT": "lab",
    "SBATCH_WCKEY": "x",
    "SBATCH_PARTITION": "cpu",
}


def test_surrounding_job_does_not_reach_the_new_one() -> None:
    assert login_environment(SURROUNDING | OF_THE_USER) == OF_THE_USER


def test_login_node_keeps_its_devices() -> None:
    environment = {**OF_THE_USER, "CUDA_VISIBLE_DEVICES": "1"}
    assert login_environment(environment) == environment


def test_variables_do_not_replace_what_the_script_sets() -> None:
    """For sbatch they are stronger than #SBATCH lines."""
    strong = dict.fromkeys(
        (
            "SBATCH_TIMELIMIT",
            "SBATCH_SIGNAL",
            "SBATCH_ARRAY_INX",
            "SBATCH_WAIT",
            "SBATCH_NO_REQUEUE",
            "SBATCH_ERROR",
            "SBATCH_MEM_PER_CPU",
            "SBATCH_MEM_PER_NODE",
            "SBATCH_GPUS",
            "SBATCH_PARTITION",
        ),
        "1",
    )
    found = login_environment(OF_THE_USER | strong, ["time", "mem", "gpus-per-node", "partition"])
    assert found == {name: value for name, value in OF_THE_USER.items() if name not in strong}


def test_one_variable_for_the_cluster_of_all_commands() -> None:
    assert login_environment({"SBATCH_CLUSTERS": "b"}) == {"SLURM_CLUSTERS": "b"}


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "job.sh"
    path.write_text(batch_script(make_job(slurm={"partition": "gpu"})))
    return path


def test_sbatch_gets_the_environment_of_a_login_node(
    script: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SURROUNDING, "SBATCH_PARTITION": "cpu", "SBATCH_QOS": "low"}.items():
        monkeypatch.setenv(name, value)
    write(programs, "sbatch", f"env >{shlex.quote(str(programs / 'environment'))}; echo 41")
    assert sbatch(script) == Submitted("slurm", "41")
    names = {line.partition("=")[0] for line in (programs / "environment").read_text().split("\n")}
    assert names.isdisjoint({*SURROUNDING, "SBATCH_PARTITION"})
    assert "SBATCH_QOS" in names


@pytest.mark.parametrize(
    "output",
    [
        "41",
        "41;alpha",
        "Welcome to the cluster!\nProject lab: 12 of 100 hours\n41",
        "2027\n41;alpha\nBye",
        "Submitted batch job 41",
        "Submitted batch job 41 on cluster alpha",
    ],
)
def test_job_number_among_messages(script: Path, programs: Path, output: str) -> None:
    write(
        programs, "sbatch", f"echo 3 warnings >&2; printf '%s\\n' {shlex.quote(output)}; echo 9 >&2"
    )
    assert sbatch(script) == Submitted("slurm", "41")


def test_job_of_one_of_several_clusters(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()._replace(directory=tmp_path)
    write(programs, "sbatch", "echo '41;alpha'")
    monkeypatch.setenv("SBATCH_CLUSTERS", "alpha,beta")
    client.submit(job, client.write_files(job))
    assert read(tmp_path) == [Submitted("slurm", "41", "alpha")]
    monkeypatch.delenv("SBATCH_CLUSTERS")
    line = shlex.quote(listed("41", "RUNNING"))
    write(
        programs,
        "squeue",
        f'echo CLUSTER: x; if [ "$SLURM_CLUSTERS" = alpha ]; then echo {line}; fi',
    )
    assert [state.state for state in client.status(["41"], "alpha")] == ["RUNNING"]
    assert [state.state for state in client.status(["41"])] == ["UNKNOWN"]


@pytest.mark.parametrize("output", ["", "Welcome!", "job 41 of lab", "41.0", "٤١"])
def test_answer_without_a_job_number(script: Path, programs: Path, output: str) -> None:
    write(programs, "sbatch", f"printf '%s\\n' {shlex.quote(output)}; echo quota low >&2")
    with pytest.raises(LaunchError, match="no job number") as caught:
        sbatch(script)
    assert output in str(caught.value)
    assert "quota low" in str(caught.value)


def test_job_that_cannot_be_noted_is_cancelled(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()._replace(directory=tmp_path)
    script = client.write_files(job)

    def full(*_arguments: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("launch.submissions.mend_lines", full)
    with pytest.raises(LaunchError, match=r"jobs\.jsonl: .*No space.*; cancelled: 41"):
        client.submit(job, script)
    assert called(programs)[-1] == "scancel 41"


def test_plain_formats_and_own_jobs(programs: Path) -> None:
    lines = shlex.join(["Hello|world", listed("41", "RUNNING"), listed("42_1", "FAILED", "256")])
    write(programs, "squeue", f"printf '%s\\n' {lines}")
    states = client.status(["41", "42"])
    assert [(state.job, state.state, state.status) for state in states] == [
        ("41", "RUNNING", None),
        ("42_1", "FAILED", 1),
    ]
    (call,) = called(programs)
    assert "--json" not in call
    assert "--me" in call.split()


def test_job_that_was_noted_with_a_message(programs: Path) -> None:
    write(programs, "squeue", 'case "$*" in *--jobs=*) echo Invalid job id: x >&2; exit 1 ;; esac')
    states = client.status(["Welcome!\n41", "7"])
    assert [(state.job, state.state) for state in states] == [
        ("Welcome!\n41", "UNKNOWN"),
        ("7", "UNKNOWN"),
    ]


def test_job_of_another_user_of_the_run(programs: Path) -> None:
    line = shlex.quote(listed("41", "RUNNING"))
    write(programs, "squeue", f'case "$*" in *--jobs=41) echo {line} ;; esac')
    assert [state.state for state in client.status(["41"])] == ["RUNNING"]


def test_job_that_only_the_accounting_has(programs: Path) -> None:
    unknown = 'case "$*" in *--jobs=*) echo Invalid job id specified >&2; exit 1 ;; esac'
    write(programs, "squeue", unknown)
    write(programs, "sacct", "echo Hello; echo '41|TIMEOUT|0:15|n1|None'")
    assert [state.state for state in client.status(["41"])] == ["TIMEOUT"]
    write(programs, "sacct", "exit 1")
    assert [state.state for state in client.status(["41"])] == ["UNKNOWN"]
    write(programs, "squeue", 'case "$*" in *--jobs=*) echo timeout >&2; exit 1 ;; esac')
    with pytest.raises(LaunchError, match="timeout"):
        client.status(["41"])


@pytest.mark.parametrize(
    ("partition", "message"),
    [
        ("gpu", ""),
        ("gpu,cpu", ""),
        ("old,gpu", ""),
        ("gpu,lost", "no partition lost"),
        ("old", "partition old is down"),
    ],
)
def test_partitions(programs: Path, partition: str, message: str) -> None:
    write(programs, "sinfo", "printf '%s\\n' 'up' 'Hello|up' 'gpu|up' 'cpu|up' 'old|down'")
    check = can_start(make_job(slurm={"partition": partition}))
    if message:
        with pytest.raises(LaunchError, match=message):
            list(check)
    else:
        assert list(check)


def test_chain_after_a_dependency(tmp_path: Path, programs: Path) -> None:
    job = make_job(slurm={"options": {"dependency": "afterok:12"}})._replace(directory=tmp_path)
    script = client.write_files(job)
    client.submit(job, script, 2)
    assert called(programs)[-1] == (
        f"sbatch --parsable --dependency=singleton,afterok:12 {script} chain"
    )


def test_job_is_started_again_on_other_nodes(
    script: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(programs, "sbatch", 'echo Hello; echo "42;${SLURM_RESTART_COUNT-alpha}"')
    for name, value in {**SURROUNDING, "SLURM_ARRAY_TASK_ID": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["resubmit", "n1,n2", "single", str(script)])
    resubmit.main()
    assert called(programs) == [
        f"sbatch --parsable --exclude=n1,n2 --dependency=afterany:7 --array=3 {script}"
    ]
    assert [job.job for job in read(script.parent)] == ["42"]
    write(programs, "sbatch", "echo no such account >&2; exit 1")
    with pytest.raises(SystemExit, match=r"again without n1,n2: .*no such account"):
        resubmit.main()


def test_waiting_jobs_of_a_chain_leave_nodes_out(
    script: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NAME", "novels")
    write(programs, "squeue", "printf '%s\\n' Hello 'a|b' 'job|42' 'job|43'")
    write(programs, "scontrol", "")
    monkeypatch.setattr("sys.argv", ["resubmit", "n1", "chain", str(script)])
    resubmit.main()
    assert called(programs)[1:] == [
        "scontrol update JobId=42 ExcNodeList=n1",
        "scontrol update JobId=43 ExcNodeList=n1",
    ]


def test_options_of_a_script_are_not_free() -> None:
    job = slurm_jobs()["gpus.sh"]
    names = {*options(job), *options(slurm_jobs()["sweep.sh"]), *options(slurm_jobs()["gres.sh"])}
    assert names - {*job.config.slurm.options} <= {*FIXED, *KEYS}
    for key in KEYS.values():
        assert key.removeprefix("launch.slurm.") in SlurmConfig.model_fields


def test_ranks_get_the_variables_of_the_run_in_any_image() -> None:
    table = {"nodes": 2, "environment": {"NCCL_DEBUG": "INFO"}}
    for container in ("pyxis", "apptainer"):
        slurm = {"container": container, "image": "x.sif"}
        text = batch_script(make_job(**table, slurm=slurm))
        assert "--export=ALL" in text
        if container == "pyxis":
            names = ",".join([FAILURE_LOG, SECRET_FILE, "OMP_NUM_THREADS", "NCCL_DEBUG"])
            assert f"--container-env={names}" in text
        else:
            assert "APPTAINERENV_NCCL_DEBUG=INFO" in text


def test_message_in_another_encoding(programs: Path, script: Path) -> None:
    write(programs, "sbatch", r"printf 'Gr\374\337e\n41\n'")
    assert sbatch(script) == Submitted("slurm", "41")
