"""`resonance plan`: its figures, and what it refuses."""

import json
from pathlib import Path

import pytest

from pretrain.errors import RunError
from pretrain.launch_commands import PlanCommand
from pretrain.planning.plan import plan

RUN = """
[model]
vocab_size = 512
dim = 64
num_layers = 2
num_heads = 4
ffn_dim = 96
[data]
sequence_length = 256
[train]
steps = 100
global_batch_size = 16
micro_batch_size = 2
"""


def _file(folder: Path, text: str = "") -> Path:
    file = folder / "run.toml"
    file.write_text(RUN + text)
    return file


def test_a_plan_as_json_adds_up(tmp_path: Path) -> None:
    text = plan(PlanCommand(run_file=_file(tmp_path), gpus=4, as_json=True))
    assert text is not None
    found = json.loads(text)
    assert found["fits"]
    assert sum(found["memory_bytes"].values()) <= found["peak_bytes"] < found["capacity_bytes"]
    assert found["seconds_per_step"] == pytest.approx(sum(found["step_seconds"].values()))
    assert found["tokens"] == 100 * 16 * 256
    assert found["tokens_per_second"] * found["seconds_per_step"] == pytest.approx(16 * 256)
    assert found["gpu_hours"] == pytest.approx(found["days"] * 24 * 4)
    assert 0 < found["model_flops_utilisation"] < 1
    # ZeRO 1 over 4 ranks: each has a quarter of the parameters, of at most 4 bytes
    assert 0 < found["sent_bytes"]["allgather_base"] <= 1.01 * found["parameters_per_gpu"]


ENCODERS = {
    "masks": '[objective]\nkind = "masked_token"',
    "labels": '[objective]\nkind = "classify"',
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_and_classifiers_are_planned(name: str, tmp_path: Path) -> None:
    keys = 'causal = false\nmixers = ["heads", "fft", "wavelet"]\n'
    if name == "labels":
        keys += "classes = 7\n"
    file = _file(tmp_path, f"[parallel]\nsequence = 2\n{ENCODERS[name]}\n")
    file.write_text(file.read_text().replace("[data]", f"{keys}[data]", 1))
    text = plan(PlanCommand(run_file=file, gpus=4, as_json=True))
    assert text is not None
    found = json.loads(text)
    # spans exchanged for heads, and back
    assert found["fits"]
    assert any("all_to_all" in name or "alltoall" in name for name in found["sent_bytes"])


def test_a_plan_fits_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert plan(PlanCommand(run_file=_file(tmp_path), gpus=2, gpu="a100")) is None
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    for words in ("parameters", "fits into", "tokens/s", "GPU-hours", "allreduce"):
        assert any(words in line for line in lines)


def test_ranks_that_launch_does_not_start_are_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, "[launch]\nnodes = 2\n[launch.slurm]\ngpus_per_node = 4\n")
    with pytest.raises(
        RunError,
        match=r"--gpus is 16, but \[launch\] starts 2 machines x 4 ranks = 8; expected --gpus 8",
    ):
        plan(PlanCommand(run_file=file, gpus=16))


def test_an_impossible_layout_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, "[parallel]\ntensor = 3\n")
    with pytest.raises(RunError, match=r"parallel\.tensor is 3, which does not divide"):
        plan(PlanCommand(run_file=file, gpus=3))


def test_an_unknown_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--gpu is 'v100'; expected one of a100, h100"):
        plan(PlanCommand(run_file=_file(tmp_path), gpu="v100"))
