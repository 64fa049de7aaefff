"""Devices and links: the known ones, those of a file, and unknown names."""

from pathlib import Path

import pytest

from pretrain.errors import RunError
from pretrain.planning.devices import load_devices

TOY = (
    '[gpus.toy]\nname = "Toy"\nmemory_gib = 1\nmemory_gb_s = 10\nvector_tflops = 1\n'
    'tflops = { float32 = 1 }\nlink = "string"\n'
)


def test_every_known_gpu_has_a_known_link_and_a_source() -> None:
    devices = load_devices()
    assert set(devices.gpus) == {"a100", "h100", "h200", "b200", "mi300x"}
    for name, gpu in devices.gpus.items():
        assert devices.gpu(name) is gpu
        assert gpu.source.strip()
        assert {"bfloat16", "float16", "float32"} <= set(gpu.tflops)
    assert all(link.source for link in devices.links.values())


def test_a_file_adds_devices_and_replaces_known_ones(tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(f"{TOY}[links.string]\ngb_s = 0.001\n[links.nvlink4]\ngb_s = 7\n")
    devices = load_devices(file)
    assert devices.gpu("toy").memory_gib == 1
    assert devices.links["nvlink4"].gb_s == 7
    assert devices.gpu("H100").name == "H100 SXM"
    # a thousand bytes, and no latency
    assert devices.network("string").seconds(1e3, 5) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[gpus.toy]\nmemory = 1", r"unknown key gpus\.toy\.memory"),
        ("[links.x]\ngb_s = 0", r"links\.x\.gb_s: .*greater than 0, found 0"),
        ("gpus = 3", r"gpus: "),
        (TOY.replace("{ float32 = 1 }", "{}"), r"gpus\.toy\.tflops: .*at least 1 item"),
        (TOY.replace("memory_gib = 1", "memory_gib = 1e99"), r"gpus\.toy\.memory_gib: .*less than"),
        (f"{TOY}efficiency = 1e-300", r"gpus\.toy\.efficiency: .*greater than or equal to 0\.001"),
        ("[", "not a TOML file"),
    ],
)
def test_a_wrong_file_is_refused_by_its_keys(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "devices.toml"
    file.write_text(text)
    with pytest.raises(RunError, match=message) as refused:
        load_devices(file)
    assert str(file) in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent\.toml: no such file of devices"):
        load_devices(tmp_path / "absent.toml")


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    devices = load_devices()
    with pytest.raises(RunError, match=r"--gpu is 'h1000'; expected one of a100, h100, h200"):
        devices.gpu("h1000")
    for name in ("token-ring", "-1", "nan", "inf"):
        with pytest.raises(RunError, match=r"--network is .* expected the Gbit/s .*infiniband-ndr"):
            devices.network(name)
    file = tmp_path / "devices.toml"
    file.write_text(TOY)
    with pytest.raises(RunError, match=r"gpus\.toy\.link is 'string'; expected one of nvlink3"):
        load_devices(file).gpu("toy")


def test_a_number_is_gbit_per_second() -> None:
    link = load_devices().network("400")
    assert link.gb_s == 50
    assert link.seconds(40e9, 0) == pytest.approx(1.0)
