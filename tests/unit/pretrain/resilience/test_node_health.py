"""Machines' findings, stragglers, full disks, figures for Prometheus, and W&B's id."""

import errno
import json
import os
import urllib.request
from pathlib import Path
from unittest import mock

import pytest

from launch.json_lines import read_lines
from pretrain.config import ParallelConfig, RunConfig
from pretrain.errors import RunError
from pretrain.health_config import HealthConfig, MonitorConfig
from pretrain.monitoring.jsonl import JsonLines
from pretrain.monitoring.metrics import Metrics
from pretrain.monitoring.prometheus import PrometheusEndpoint
from pretrain.monitoring.stragglers import Stragglers
from pretrain.monitoring.wandb_run import wandb_id
from pretrain.resilience.heartbeat import Heartbeat
from pretrain.resilience.node_health import NodeHealth, judge_health, require_offload_folder
from pretrain.resilience.watchdog import Watchdog, read_heartbeats
from pretrain.train_config import TrainConfig

GIB = 2**30
GOOD = NodeHealth(0, "a", 4 * GIB, 4 * GIB, 1000.0, "")


def test_good_machines_have_no_findings() -> None:
    assert judge_health(HealthConfig(), [GOOD, GOOD._replace(rank=1, host="b", clock=1004.9)]) == []


def test_each_finding_names_the_machine_and_the_limit() -> None:
    bad = NodeHealth(2, "b", GIB // 2, GIB // 4, 1007.5, "")
    # two ranks of one machine: told once
    findings = judge_health(HealthConfig(), [GOOD, bad, bad._replace(rank=3)])
    assert findings == [
        "b (rank 2): 0.25 GiB of free disk; expected 1 (health.min_free_disk_gib)",
        "b (rank 2): 0.50 GiB of free memory; expected 1 (health.min_free_memory_gib)",
        "the clock of b (rank 2) is 7.5 s ahead of that of a (rank 0); expected at most 5 "
        "(health.max_clock_skew_s)",
    ]


def test_a_folder_to_offload_to_is_made_or_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    offload = ParallelConfig(zero_stage=3, offload_optimizer="nvme", nvme_path=tmp_path / "a" / "b")
    with mock.patch(
        "pretrain.resilience.node_health.gathered_objects", lambda value: [value, value]
    ):
        require_offload_folder(offload)
        assert list((tmp_path / "a" / "b").iterdir()) == []
        impossible = offload.model_copy(update={"nvme_path": tmp_path / "file" / "b"})
        with pytest.raises(
            RunError, match=r"^parallel\.nvme_path .*/file/b cannot be written on"
        ) as e:
            require_offload_folder(impossible)
    assert e.value.agreed
    assert str(e.value).count("nvme_path") == 1
    require_offload_folder(impossible.model_copy(update={"offload_optimizer": "cpu"}))


def test_a_straggler_is_named_once_until_it_recovers() -> None:
    stragglers = Stragglers(1.5, num_steps=3)
    slow, even = [1.0, 1.0, 2.0], [1.0, 1.0, 1.0]
    said = [stragglers.add(seconds) for seconds in [slow, slow, slow, slow, even, even, slow, slow]]
    named = "rank 2 is a straggler: 2.000 s of work per step, the median is 1.000 s"
    assert said[:6] == ["", "", named, "", "", ""]
    assert said[7].startswith("rank 2 is a straggler")


def test_the_slow_one_of_two_ranks_is_a_straggler() -> None:
    assert "rank 0" in Stragglers(1.5, num_steps=1).add([3.0, 1.0])


def test_lines_that_a_full_disk_refuses_are_written_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = JsonLines(tmp_path / "x.jsonl")
    lines.append({"n": 1})
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("os.write", side_effect=full):
        lines.append({"n": 2})
        lines.append({"n": 3})
    assert capsys.readouterr().err.count("No space left on device") == 1
    lines.append({"n": 4})
    lines.close()
    assert [record["n"] for record in read_lines(tmp_path / "x.jsonl")] == [1, 2, 3, 4]


def test_prometheus_serves_the_newest_figures_on_loopback() -> None:
    with mock.patch("pretrain.monitoring.prometheus.start_http_server", wraps=_start) as start:
        endpoint = PrometheusEndpoint(MonitorConfig(prometheus_port=1))
    assert start.call_args.args[1] == "127.0.0.1"
    endpoint.log({"step": 1, "loss": 9.0}, [1.0, 1.0])
    endpoint.log({"step": 2, "loss": 2.5}, [0.25, 0.5])
    with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics") as answer:
        text = answer.read().decode()
    assert "\nresonance_loss 2.5\n" in text
    assert "\nresonance_step 2.0\n" in text
    assert '\nresonance_rank_step_seconds{rank="1"} 0.5\n' in text
    taken = MonitorConfig(prometheus_port=endpoint.port)
    with pytest.raises(RunError, match=r"monitor\.prometheus_address .* cannot be listened on"):
        PrometheusEndpoint(taken)
    endpoint.close()


def _start(_port: int, address: str, registry: object) -> object:
    """On a free port, since a fixed one may be taken."""
    from prometheus_client import exposition

    return exposition.start_http_server(0, address, registry)


def test_nothing_is_served_unless_asked_for(tmp_path: Path) -> None:
    with mock.patch("pretrain.monitoring.metrics.PrometheusEndpoint") as endpoint:
        Metrics(_run(tmp_path, wandb="disabled"), 0, 0).close()
    endpoint.assert_not_called()


def test_wandb_goes_on_under_the_same_id(tmp_path: Path) -> None:
    for step in (1, 2):
        metrics = Metrics(_run(tmp_path), step - 1, 0)
        metrics.log({"step": step, "tokens": step, "loss": 1.0, "tokens_per_s": 1.0})
        metrics.close()
    name = (tmp_path / "wandb_id").read_text()
    # two runs that start within a second have folders of different names
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*/*.wandb")]
    assert runs == [f"run-{name}.wandb"] * 2
    assert wandb_id(tmp_path) == name


def _run(folder: Path, **train: object) -> RunConfig:
    return RunConfig(train=TrainConfig.model_validate({"output": folder, "steps": 100, **train}))


def test_a_heartbeat_says_where_a_rank_is(tmp_path: Path) -> None:
    for rank, beats in ((0, 3), (1, 2)):
        heartbeat = Heartbeat(tmp_path, rank)
        for number in range(beats):
            heartbeat.beat(f"phase {number}")
        heartbeat.write()
    found = read_heartbeats(tmp_path, 3)
    assert [(one["rank"], one["beats"], one["phase"]) for one in found] == [
        (0, 3, "phase 2"),
        (1, 2, "phase 1"),
    ]
    assert found[0]["pid"] == os.getpid()
    assert json.loads((tmp_path / "heartbeat" / "rank-00000.json").read_text()) == found[0]


@pytest.mark.parametrize("damage", ["no heartbeats", "a damaged heartbeat"])
def test_a_process_that_hangs_ends_whatever_became_of_the_heartbeats(
    damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if damage == "no heartbeats":
        (tmp_path / "heartbeat").touch()
    heartbeat = Heartbeat(tmp_path, 0)
    heartbeat._last -= 10_000
    watchdog = Watchdog(_run(tmp_path), heartbeat, 1, "now")
    if damage == "a damaged heartbeat":
        heartbeat.write()
        (tmp_path / "heartbeat" / "rank-00000.json").write_text("")
        heartbeat.write = mock.Mock()  # type: ignore[method-assign]
    leave = mock.Mock(side_effect=lambda _status: watchdog._closed.set())
    with mock.patch("os._exit", leave), watchdog:
        watchdog.join(60)
    leave.assert_called_once()
    printed = capfd.readouterr().err
    assert "no rank has left a heartbeat; stacks" in printed
    if damage == "a damaged heartbeat":
        assert "rank-00000.json: no heartbeat (JSONDecodeError" in printed
    assert (tmp_path / "hangs" / "now" / "rank-00000.txt").exists()
