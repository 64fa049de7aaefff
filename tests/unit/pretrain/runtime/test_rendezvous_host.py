"""The role of a machine in the rendezvous, from its index."""

import pytest

from pretrain.runtime.torchrun_agent import _parse

ARGUMENTS = ["--rdzv-endpoint=n1:29500", "--rdzv-conf=read_timeout=90", "program.py"]


@pytest.mark.parametrize(
    ("index", "endpoint", "role"),
    [("0", "127.0.0.1:29500", "true"), ("1", "n1:29500", "false"), ("12", "n1:29500", "false")],
)
def test_machine_is_told_whether_it_hosts(
    monkeypatch: pytest.MonkeyPatch, index: str, endpoint: str, role: str
) -> None:
    monkeypatch.setenv("SLURM_NODEID", index)
    options = _parse(["--node-index-variable=SLURM_NODEID", *ARGUMENTS])
    assert options.rdzv_endpoint == endpoint
    assert options.rdzv_conf == f"read_timeout=90,is_host={role}"


def test_machine_that_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NODEID", "0")
    options = _parse(ARGUMENTS)
    assert (options.rdzv_endpoint, options.rdzv_conf) == ("n1:29500", "read_timeout=90")


@pytest.mark.parametrize("index", ["", "first", "-1"])
def test_index_that_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], index: str
) -> None:
    monkeypatch.setenv("INDEX", index)
    with pytest.raises(SystemExit, match="2"):
        _parse(["--node-index-variable=INDEX", *ARGUMENTS])
    assert f"this machine's index there, found {index!r}" in capsys.readouterr().err
