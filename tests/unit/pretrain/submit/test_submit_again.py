"""A run that is submitted twice, or again after its job has ended; cancelling what is left."""

import json
from pathlib import Path

import pytest
import yaml

from launch import submissions
from launch.kubernetes.render import manifests
from launch.slurm import client
from pretrain.cli import main
from pretrain.run_file import load_run
from pretrain.submit.jobs import job_of
from tests.unit.launch.jobs import make_job
from tests.unit.launch.stand_ins import KUBECTL, called, know, on_kubernetes, refused, write


def num_submissions(programs: Path) -> int:
    return sum("--parsable" in call for call in called(programs))


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "SUSPENDED"])
def test_slurm_job_that_has_not_ended(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str], state: str
) -> None:
    main(["launch", "slurm", str(run_file), "--submit"])
    know(programs, job_41=state)
    error = refused(capsys, "launch", "slurm", run_file, "--submit")
    assert f"run is in use: slurm 41 ({state}) has not ended" in error
    assert "-> `resonance launch cancel` ends it; or choose another train.output" in error
    assert num_submissions(programs) == 1


@pytest.mark.parametrize("states", [{"job_41": "COMPLETED"}, {"job_41": "PREEMPTED"}, {}])
def test_slurm_job_that_has_ended(run_file: Path, programs: Path, states: dict[str, str]) -> None:
    main(["launch", "slurm", str(run_file), "--submit"])
    know(programs, **states)
    main(["launch", "slurm", str(run_file), "--submit"])
    assert num_submissions(programs) == 2


def test_cluster_that_cannot_be_asked(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["launch", "slurm", str(run_file), "--submit"])
    write(programs, "squeue", "echo no controller >&2; exit 1")
    error = refused(capsys, "launch", "slurm", run_file, "--submit")
    assert "no controller" in error
    assert f"remove {run_file.parent / 'run/launch/jobs.jsonl'}" in error


def test_failures_of_earlier_submissions_are_forgotten(run_file: Path, programs: Path) -> None:
    directory = run_file.parent / "run/launch"
    directory.mkdir(parents=True)
    old = [directory / name for name in ("failures", "failures.attempts")]
    kept = directory / "failures-12.log"
    for file in (*old, kept):
        file.write_text("a line\n")
    main(["launch", "slurm", str(run_file), "--submit"])
    assert num_submissions(programs) == 1
    assert [file.exists() for file in (*old, kept)] == [False, False, True]


def test_failures_of_earlier_sweeps_are_forgotten(tmp_path: Path, programs: Path) -> None:
    job = make_job(2)._replace(directory=tmp_path)
    for name in ("failures-0", "failures-1", "failures-1.attempts"):
        (tmp_path / name).write_text("a line\n")
    client.submit(job, client.write_files(job))
    assert num_submissions(programs) == 1
    assert list(tmp_path.glob("failures*")) == []


def test_directories_of_one_name_make_jobs_of_two(run_file: Path) -> None:
    """Jobs of one name wait for each other in chains, and replace each other in Kubernetes."""
    run = load_run(run_file)
    names = []
    for folder in ("a", "b"):
        train = run.train.model_copy(update={"output": Path(folder) / "novels"})
        names.append(job_of(run.model_copy(update={"train": train})).name)
    assert names[0] != names[1]
    assert all(name.startswith("novels-") for name in names)


def know_object(programs: Path, conditions: list[dict[str, str]] | None) -> None:
    """Let Kubernetes know the job, in a state; None: not."""
    found = "" if conditions is None else json.dumps({"status": {"conditions": conditions}})
    name = "" if conditions is None else "job.batch/run"
    text = f"""\
echo "Welcome to the cluster!"
case "$*" in
"get pvc"*) echo persistentvolumeclaim/data ;;
get*json*) echo '{found}' ;;
get*name*) echo '{name}' ;;
*) echo done ;;
esac"""
    write(programs, "kubectl", text)


def test_object_that_kubectl_prints_in_part(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_kubernetes(run_file)
    main(["launch", "kubernetes", str(run_file), "--submit"])
    write(programs, "kubectl", "echo Welcome; echo '{\"status\": {'")
    assert "no whole object" in refused(capsys, "launch", "kubernetes", run_file, "--submit")


def submit_again(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str], condition: str
) -> str:
    """What is said to a run whose job was created before, and now is in that condition."""
    on_kubernetes(run_file)
    main(["launch", "kubernetes", str(run_file), "--submit"])
    know_object(programs, [{"type": condition, "status": "True"}])
    return refused(capsys, "launch", "kubernetes", run_file, "--submit")


def test_kubernetes_job_that_has_not_ended(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = submit_again(run_file, programs, capsys, "Suspended")
    assert "is in use: kubernetes job/run-" in error
    # nor does the same directory get a batch job
    error = refused(capsys, "launch", "slurm", run_file, "--submit")
    assert "is in use: kubernetes job/run-" in error
    assert sum("create" in call for call in called(programs)) == 1
    assert num_submissions(programs) == 0


def test_kubernetes_job_that_has_ended_is_in_the_way_until_it_is_deleted(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = submit_again(run_file, programs, capsys, "Complete")
    assert "is in use" not in error
    assert "is there already, running or ended" in error
    assert "-> `resonance launch cancel` deletes" in error
    main(["launch", "cancel", str(run_file)])
    know_object(programs, None)
    main(["launch", "kubernetes", str(run_file), "--submit"])
    assert sum("create" in call for call in called(programs)) == 2
    capsys.readouterr()
    main(["launch", "status", str(run_file)])
    assert capsys.readouterr().out.count("kubernetes job/") == 1


def test_job_that_somebody_else_makes_first_is_not_taken_for_ours(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_kubernetes(run_file)
    exists = 'if [ "$1" = create ]; then echo AlreadyExists >&2; exit 1; fi\n'
    write(programs, "kubectl", exists + KUBECTL)
    assert "AlreadyExists" in refused(capsys, "launch", "kubernetes", run_file, "--submit")
    assert not (run_file.parent / "run/launch" / submissions.NAME).exists()


def test_edited_run_leaves_the_pods_of_a_job_their_run_file() -> None:
    table = {"image": "resonance:1", "claim": "data"}
    job = make_job(kubernetes=table)
    edited = job._replace(run_files=["[train]\nsteps = 20\n"])
    names = []
    for one in (job, edited):
        config_map, *_, last = manifests(one)
        template = last["spec"]["template"]
        (volume,) = [volume for volume in template["spec"]["volumes"] if volume["name"] == "run"]
        assert volume["configMap"]["name"] == config_map["metadata"]["name"]
        names.append((config_map["metadata"]["name"], yaml.dump(template["metadata"])))
    assert names[0][0] != names[1][0]
    assert names[0][1] != names[1][1]


def test_cancel_goes_on_where_one_cluster_does_not_answer(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run_file.parent / "run/launch"
    directory.mkdir(parents=True)
    for job in (
        submissions.Submitted("slurm", "41"),
        submissions.Submitted("kubernetes", "job/bad"),
        submissions.Submitted("kubernetes", "job/good"),
    ):
        submissions.note(directory, job)
    write(programs, "squeue", "echo no controller >&2; exit 1")
    refuse = 'if [ "$2" = job/bad ]; then echo forbidden >&2; exit 1; fi\n'
    write(programs, "kubectl", refuse + KUBECTL)
    error = refused(capsys, "launch", "cancel", run_file)
    assert "no controller" in error
    assert "forbidden" in error
    assert "kubectl delete job/good --ignore-not-found --wait=false" in called(programs)
