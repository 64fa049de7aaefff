"""`resonance launch`: what is printed, what is submitted, and what is refused."""

import contextlib
import json
import shlex
import shutil
import socket
import sys
from pathlib import Path

import pytest
import yaml

from pretrain.cli import main
from pretrain.run_file import load_run
from pretrain.submit.check import check
from tests.conftest import SmallCorpus
from tests.unit.launch.stand_ins import called, on_kubernetes, refused


def test_local_prints_torchrun(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["launch", "local", str(run_file), "--dry-run"])
    words = shlex.split(capsys.readouterr().out)
    assert words[0] == "OMP_NUM_THREADS=1"
    assert "--nproc-per-node=2" in words
    assert words[words.index("pretrain") :] == ["pretrain", str(run_file), "--auto-resume"]


def test_local_meets_at_the_port_of_the_run(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.closing(socket.socket()) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        run_file.write_text(run_file.read_text() + f"port = {port}\n")
        error = refused(capsys, "launch", "local", run_file, "--dry-run")
        assert f"launch.port {port} cannot be used" in error
    main(["launch", "local", str(run_file), "--dry-run"])
    assert f"--rdzv-endpoint=localhost:{port}" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_slurm_prints_and_submits_nothing(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    main(["launch", "slurm", str(run_file), *options])
    printed = capsys.readouterr()
    assert printed.out.startswith("#!/usr/bin/env bash\n#SBATCH --job-name=run-")
    assert "--submit checks the run, writes the files that the script names" in printed.err
    assert called(programs) == []
    assert not (run_file.parent / "run").exists()


@pytest.mark.parametrize("launcher", ["slurm", "kubernetes"])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("processes = 2", "processes = 3", "global_batch_size"),
        ("processes = 2", "processes = 2\n\n[parallel]\ntensor = 3", "parallel.tensor"),
        ("datasets = [", "datasets = [] #", "data.datasets is empty"),
    ],
)
def test_run_that_is_impossible_is_not_printed(
    run_file: Path,
    capsys: pytest.CaptureFixture[str],
    launcher: str,
    old: str,
    new: str,
    words: str,
) -> None:
    on_kubernetes(run_file)
    text = run_file.read_text()
    assert old in text
    run_file.write_text(text.replace(old, new))
    assert words in refused(capsys, "launch", launcher, run_file)
    assert capsys.readouterr().out == ""


def test_task_that_is_impossible_is_not_printed(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = "--sweep", "train.global_batch_size=4,5"
    assert "global_batch_size" in refused(capsys, "launch", "slurm", run_file, *sweep)


def test_slurm_submits_a_chain(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["launch", "slurm", str(run_file), "--submit", "--chain", "2"])
    script = run_file.parent / "run/launch/job.sh"
    submitted = f"sbatch --parsable --dependency=singleton {script} chain"
    assert called(programs)[-2:] == [submitted, submitted]
    assert "submitted 41, 41" in capsys.readouterr().out
    assert load_run(script.with_name("run.toml")) == load_run(run_file)


def test_slurm_submits_nothing_that_the_check_refuses(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file.write_text(run_file.read_text().replace("processes = 2", "processes = 3"))
    error = refused(capsys, "launch", "slurm", run_file, "--submit")
    assert "global_batch_size" in error
    assert "->" in error
    assert [
        line for line in called(programs) if "--test-only" not in line and "sinfo" not in line
    ] == []
    assert not (run_file.parent / "run").exists()


def test_kubernetes_prints_and_creates(
    run_file: Path, programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "image is empty" in refused(capsys, "launch", "kubernetes", run_file)
    on_kubernetes(run_file)
    main(["launch", "kubernetes", str(run_file)])
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    kinds = ["ConfigMap", "NetworkPolicy", "Service", "Job"]
    assert [document["kind"] for document in documents] == kinds
    assert called(programs) == []
    main(["launch", "kubernetes", str(run_file), "--submit"])
    assert called(programs)[-2:] == [
        "kubectl apply --filename=-",
        "kubectl create --filename=-",
    ]
    name = documents[-1]["metadata"]["name"]
    main(["launch", "cancel", str(run_file)])
    assert called(programs)[-1] == f"kubectl delete job/{name} --ignore-not-found --wait=false"


def test_missing_programs_are_named(
    run_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "sbatch: not found on this machine" in refused(
        capsys, "launch", "slurm", run_file, "--submit"
    )
    on_kubernetes(run_file)
    assert "kubectl: not found" in refused(capsys, "launch", "kubernetes", run_file, "--submit")


@pytest.mark.parametrize("command", ["status", "logs", "cancel"])
def test_nothing_submitted(
    run_file: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert "nothing has been submitted" in refused(capsys, "launch", command, run_file)


def test_dry_run_and_submit_exclude_each_other(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--dry-run", "--submit"]
    assert "exclude one another" in refused(capsys, "launch", "slurm", run_file, *options)


def test_check_reports(
    run_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["launch", "check", str(run_file)])
    report = capsys.readouterr().out
    assert "2 ranks share the batch" in report
    assert "starts from scratch" in report
    text = run_file.read_text().replace("data/train", "data/nowhere")
    run_file.write_text(text)
    error = refused(capsys, "launch", "check", run_file)
    assert "bad  run" in error
    assert "resonance data build" in error
    # a login node without PyTorch
    monkeypatch.setitem(sys.modules, "torch", None)
    levels = {finding.subject: finding.level for finding in check(load_run(run_file), "local")}
    assert levels["disk"] == "warn"


def test_check_finds_missing_shards_and_stores(
    run_file: Path, small_corpus: SmallCorpus, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(small_corpus.train, run_file.parent / "train"))
    text = run_file.read_text().replace(str(small_corpus.train), str(copied))
    remote = run_file.parent / "store"
    run_file.write_text(text.replace("[checkpoint]", f'[checkpoint]\nremote = "file://{remote}"'))
    # a file where a folder is wanted
    remote.touch()
    assert "cannot be written" in refused(capsys, "launch", "check", run_file)
    remote.unlink()
    main(["launch", "check", str(run_file)])
    assert f"ok   store        file://{remote} can be read and written" in capsys.readouterr().out
    (copied / "shard-000000.tar").unlink()
    assert "shard-000000.tar: no such file" in refused(capsys, "launch", "check", run_file)


def test_check_finds_tokenizer_of_other_shards(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = run_file.read_text().splitlines()
    changed = ['tokenizer = "byte"' if line.startswith("tokenizer") else line for line in lines]
    run_file.write_text("\n".join(changed))
    assert "fingerprint" in refused(capsys, "launch", "check", run_file)


def test_check_counts_what_elastic_runs_need(run_file: Path) -> None:
    run_file.write_text(run_file.read_text() + "nodes = 2\nmin_nodes = 1\n")
    (finding, *_) = check(load_run(run_file), "slurm")
    assert "4 or 2 ranks share the batch" in finding.text


def test_time_is_measured_by_an_earlier_part(run_file: Path) -> None:
    output = run_file.parent / "run"
    output.mkdir()
    record = {"step": 1, "tokens": 400, "step_tokens": 400, "tokens_per_s": 0.1}
    (output / "metrics.jsonl").write_text(json.dumps(record) + '\n{"step"')
    findings = check(load_run(run_file), "slurm")
    (finding,) = (finding for finding in findings if finding.subject == "time")
    assert "6 steps of 4000.00 s" in finding.text
