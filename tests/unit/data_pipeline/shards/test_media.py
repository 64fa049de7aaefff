"""Images and sound come out of shards as tensors; unsafe archives are refused."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import webdataset
from PIL import Image

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.media import Sound, decode_image, decode_sound, iterate_media
from data_pipeline.shards.tar import samples

STORAGE = StorageConfig()


def image_bytes(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    """Encode pixels."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def sound_bytes(recording: np.ndarray, kind: str, rate_hz: int = 8000) -> bytes:
    """Encode a recording [samples, channels] with 16 bits."""
    buffer = io.BytesIO()
    soundfile.write(buffer, recording, rate_hz, format=kind, subtype="PCM_16")
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard with images, sound, captions and labels, written by plain webdataset."""
    generator = np.random.default_rng(0)
    path = tmp_path / "media.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(5):
            pixels = generator.integers(0, 256, (6, 4, 3), dtype=np.uint8)
            recording = generator.uniform(-1, 1, (50, 2))
            writer.write(
                {
                    "__key__": f"sample{number}",
                    "png": image_bytes(pixels, "PNG"),
                    "left.flac": sound_bytes(recording, "FLAC"),
                    "wav": sound_bytes(recording[:, :1], "WAV"),
                    "json": json.dumps({"number": number}).encode(),
                    "txt": f"caption {number}".encode(),
                    "cls": str(number).encode(),
                    "bin": b"\x00\x01",
                }
            )
    return path


def test_samples_are_decoded(shard: Path) -> None:
    decoded = list(iterate_media([str(shard)]))
    assert [sample["__key__"] for sample in decoded] == [f"sample{number}" for number in range(5)]
    generator = np.random.default_rng(0)
    for number, sample in enumerate(decoded):
        pixels = generator.integers(0, 256, (6, 4, 3), dtype=np.uint8)
        recording = generator.uniform(-1, 1, (50, 2))
        assert torch.equal(sample["png"], torch.from_numpy(pixels).permute(2, 0, 1))
        for name, channels in (("left.flac", 2), ("wav", 1)):
            sound = sample[name]
            assert isinstance(sound, Sound)
            assert sound.rate_hz == 8000
            expected = torch.from_numpy(recording[:, :channels].T).float()
            # Half a step of 16 bits, and the last step is cut off.
            torch.testing.assert_close(sound.samples, expected, rtol=0, atol=1.5 / 2**15)
        assert sample["json"] == {"number": number}
        assert sample["txt"] == f"caption {number}"
        assert sample["cls"] == number
        assert sample["bin"] == b"\x00\x01"
        assert sample["__url__"] == str(shard)


def test_ranks_share_samples(shard: Path) -> None:
    keys = [
        [sample["__key__"] for sample in iterate_media([str(shard)], data_rank=r, data_ranks=2)]
        for r in range(2)
    ]
    assert keys == [["sample0", "sample2", "sample4"], ["sample1", "sample3"]]


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4), ("P", 3), ("1", 3), ("LA", 3)]
)
def test_modes_of_images(mode: str, channels: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (255, 255, 255)).convert(mode).save(buffer, "PNG")
    image = decode_image(buffer.getvalue(), "image")
    assert image.shape == (channels, 2, 3)
    assert image.dtype == torch.uint8
    assert (image == 255).all()


def test_jpeg_is_close(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 3), 100, dtype=np.uint8)
    image = decode_image(image_bytes(pixels, "JPEG", quality=95), str(tmp_path))
    assert (image.int() - 100).abs().max() <= 2


def test_damaged_media_are_named(shard: Path) -> None:
    sample = next(samples(str(shard), STORAGE))
    with pytest.raises(DataError, match="x: not a readable image"):
        decode_image(sample["png"][:40], "x")
    with pytest.raises(DataError, match="x: not a readable image"):
        decode_image(b"GIF89a", "x")
    with pytest.raises(DataError, match="x: not a readable sound"):
        decode_sound(b"RIFF nothing", "x")


def write_tar(path: Path, names: Sequence[str]) -> None:
    """Write a tar file with members of any name."""
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"data"))


@pytest.mark.parametrize(
    "name", ["/etc/a.txt", "../a.txt", "x/../../a.txt", "..\\a.txt", "C:/a.txt"]
)
def test_members_that_lead_outside_are_refused_unless_allowed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar"
    write_tar(path, ["good.txt", name])
    with pytest.raises(DataError, match="leads outside; expected a relative name"):
        list(iterate_media([str(path)]))
    allowed = StorageConfig(allow_unsafe_members=True)
    assert len(list(iterate_media([str(path)], storage=allowed))) == 2


def test_a_shard_cut_short_anywhere(shard: Path, tmp_path: Path) -> None:
    data = shard.read_bytes()
    with tarfile.open(shard) as tar:
        end = max(info.offset_data for info in tar) + 512
    cut = tmp_path / "cut.tar"
    # Inside data and headers, between members, and just before the end marker.
    for size in range(0, end + 1, 256):
        cut.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"cut\.tar: cut short"):
            list(samples(str(cut), STORAGE))
    cut.write_bytes(data[: end + 1024])
    assert len(list(samples(str(cut), STORAGE))) == 5


def test_a_member_that_comes_twice(tmp_path: Path) -> None:
    write_tar(tmp_path / "twice.tar", ["a.txt", "a.txt"])
    with pytest.raises(DataError, match="comes twice"):
        list(iterate_media([str(tmp_path / "twice.tar")]))


def test_commands_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="runs a command and is refused"):
        list(iterate_media([f"pipe:cat {tmp_path}/a.tar"]))


def test_keys_group_files_of_one_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ["x/1.txt", "x/1.left.bin", "y/1.txt", "2.txt"])
    found = list(samples(str(tmp_path / "a.tar"), STORAGE))
    assert [sample["__key__"] for sample in found] == [b"x/1", b"y/1", b"2"]
    assert set(found[0]) == {"__key__", "txt", "left.bin"}
