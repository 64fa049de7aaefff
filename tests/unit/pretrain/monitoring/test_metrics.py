"""metrics.jsonl of a run that is resumed, and reporters that fail."""

import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import wandb

from pretrain.config import RunConfig
from pretrain.monitoring.jsonl import read_metrics
from pretrain.monitoring.metrics import Metrics
from pretrain.monitoring.wandb_run import wandb_id

KEY = "0123456789" * 4


def _run(folder: Path, **monitor: object) -> RunConfig:
    wandb = "disabled" if monitor else "auto"
    return RunConfig.model_validate(
        {"train": {"output": str(folder), "wandb": wandb}, "monitor": monitor}
    )


def _record(step: int) -> dict[str, float]:
    return {"step": step, "loss": 0.5, "tokens": step, "tokens_per_s": 1.0}


def _disabled(folder: Path) -> RunConfig:
    return RunConfig.model_validate({"train": {"output": str(folder), "wandb": "disabled"}})


@pytest.mark.parametrize(
    "damage",
    [
        '{"step": 4, "lo',
        '{"step": 4, "lo\n',
        '{"step": "2", "tokens": 1}\n',
        '{"step": 2}\n',
        '{"step": 2, "tokens": 1, "loss": "low"}\n',
        "\0\0\0\n",
        "",
    ],
)
def test_resumed_metrics_forget_what_will_be_done_again(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0, "tokens": step}) for step in (1, 2, 3)]
    path.write_text(lines[0] + "\n" + damage + ("\n" if damage else "") + "\n".join(lines[1:]))
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]
    metrics = Metrics(_disabled(tmp_path), 2, 0)
    metrics.log(_record(3))
    metrics.close()
    assert [record["loss"] for record in read_metrics(path)] == [1.0, 1.0, 0.5]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    aside = path.with_name("metrics.jsonl.unreadable-1")
    printed = capsys.readouterr().err
    assert (f"{path}: 1 of 4 lines cannot be read" in printed) == bool(damage)
    assert aside.exists() == bool(damage)


def test_a_wandb_id_that_is_none_is_put_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = wandb_id(tmp_path)
    assert wandb_id(tmp_path) == good
    for number, text in enumerate(["", "\n", "a/b", "\0" * 12, "x" * 65], start=1):
        (tmp_path / "wandb_id").write_text(text)
        new = wandb_id(tmp_path)
        assert new == wandb_id(tmp_path) != good
        aside = f"wandb_id.unreadable-{number}"
        assert f"kept as {aside}" in capsys.readouterr().err
        assert (tmp_path / aside).read_text() == text
    (tmp_path / "wandb_id").write_bytes(b"\xff\xfe")
    assert wandb_id(tmp_path)


def test_wandb_without_a_network_continues_offline_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    # nothing listens there
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    metrics = Metrics(_run(tmp_path), 0, 0)
    metrics.log(_record(1))
    metrics.close()
    assert "Weights & Biases: " in capsys.readouterr().err
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{(tmp_path / 'wandb_id').read_text()}"))


class _RefusingServer(http.server.BaseHTTPRequestHandler):
    """A W&B server that knows the user and refuses the run, as for an unknown entity."""

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers["Content-Length"]))
        viewer = {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}"}}
        answer: dict[str, object] = {"errors": [{"message": "entity nobody not found"}]}
        body = json.dumps({"data": viewer} if b"viewer" in query else answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


def test_wandb_with_a_wrong_entity_continues_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _RefusingServer)
    threading.Thread(target=server.serve_forever).start()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    # the service of earlier tests keeps its address
    wandb.teardown()
    monkeypatch.setenv("WANDB_ENTITY", "nobody")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        with mock.patch("wandb.teardown", wraps=wandb.teardown) as teardown:
            metrics = Metrics(_run(tmp_path), 0, 0)
        metrics.log(_record(1))
        metrics.close()
    finally:
        server.shutdown()
        server.server_close()
    assert "entity nobody not found" in capsys.readouterr().err
    # under the same id: the service that may still hold it for the run that was refused is ended
    teardown.assert_called_once()
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{(tmp_path / 'wandb_id').read_text()}"))


class _Started:
    """What wandb.init returns, as far as a run uses it."""

    def __init__(self, log: Callable[[dict[str, float]], None]):
        self.log = log
        self.finished = False

    def define_metric(self, *_names: str, **_options: str) -> None:
        pass

    def finish(self) -> None:
        self.finished = True


def _refuse(*_arguments: object, **_options: object) -> None:
    raise wandb.errors.CommError("permission denied (403)\nsecond line")


def test_wandb_reads_its_own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"PROJECT": "mine", "NAME": "n", "RUN_ID": "i", "MODE": "online", "DIR": str(tmp_path)}
    with mock.patch("wandb.init", return_value=_Started(print)) as init:
        Metrics(_run(tmp_path), 0, 0).close()
        for name, value in values.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
        Metrics(_run(tmp_path), 0, 0).close()
        monkeypatch.setenv("WANDB_MODE", "disabled")
        Metrics(_run(tmp_path), 0, 0).close()
    ours, theirs = (call.kwargs for call in init.call_args_list)
    assert (ours["project"], ours["mode"], ours["settings"].init_timeout) == (
        "resonance",
        "offline",
        10.0,
    )
    assert not {"project", "name", "id", "mode", "dir", "entity", "group"} & set(theirs)
    assert theirs["settings"].init_timeout != 10.0


def test_wandb_that_fails_everywhere_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch("wandb.init", side_effect=_refuse):
        metrics = Metrics(_run(tmp_path), 0, 0)
    metrics.log(_record(1))
    metrics.close()
    printed = capsys.readouterr().err
    assert "Weights & Biases: permission denied (403) second line; it continues offline" in printed
    assert "403) second line; training continues without it" in printed
    with mock.patch("wandb.init", return_value=_Started(_refuse)):
        metrics = Metrics(_run(tmp_path), 1, 0)
        metrics.log(_record(2))
        metrics.log(_record(3))
    metrics.close()
    assert capsys.readouterr().err.count("training continues without it") == 1
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_taken_port_and_a_plot_that_cannot_be_drawn_are_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loss.png").mkdir()
    taken = OSError("Address already in use")
    with mock.patch("pretrain.monitoring.prometheus.start_http_server", side_effect=taken):
        metrics = Metrics(_run(tmp_path, prometheus_port=9), 0, 0)
    metrics.log(_record(1))
    metrics.close()
    printed = capsys.readouterr().err
    assert "monitor.prometheus_address 127.0.0.1, port 9: cannot be listened on: Add" in printed
    assert f"{tmp_path / 'loss.png'}: " in printed
    assert printed.count("training continues without it") == 2
