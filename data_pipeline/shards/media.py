"""Images and sound in shards, decoded to tensors (Python only: no command reads them)."""

import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from PIL import Image
from torch import Tensor

from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.input_files import parse_json
from data_pipeline.shards.npy import load_npy
from data_pipeline.shards.tar import samples
from data_pipeline.storage.listing import list_files

_IMAGES = ("jpg", "jpeg", "png")
_SOUNDS = ("wav", "flac")
_LIMIT = StorageConfig().max_member_bytes


class Sound(NamedTuple):
    """Recording: float32 [channels, samples] between -1 and 1, and samples per second."""

    samples: Tensor
    rate_hz: int


def decode_image(data: bytes, name: str, limit: int = _LIMIT) -> Tensor:
    """Decode a JPEG or PNG to uint8 [channels, height, width]: 1 channel if grey, 3, 4 with alpha.

    Args:
        data: The file.
        name: Its name, for messages.
        limit: Largest size of the pixels in bytes.

    Raises:
        DataError: The data is not an image, is damaged, or has more pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            # palettes, CMYK and 1-bit images become a mode that a model can read
            converted = "RGBA" if "transparency" in image.info else "RGB"
            mode = image.mode if image.mode in ("L", "RGB", "RGBA") else converted
            _check_size(image.width * image.height * len(mode), limit, name)
            pixels = np.array(image.convert(mode))
    except DataError:
        raise
    except Exception as error:
        # each format's reader fails in its own ways, also for images that expand without bound
        raise DataError(f"{name}: not a readable image ({error}); expected JPEG or PNG") from error
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()


def decode_sound(data: bytes, name: str, limit: int = _LIMIT) -> Sound:
    """Decode a recording in WAV or FLAC.

    Args:
        data: The file.
        name: Its name, for messages.
        limit: Largest size of the samples in bytes.

    Raises:
        DataError: The data is not a recording, is damaged, or has more samples.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_size(file.frames * file.channels * 4, limit, name)
            recording, rate_hz = file.read(dtype="float32", always_2d=True), file.samplerate
    except DataError:
        raise
    except Exception as error:
        # headers with impossible numbers of samples are no errors of the library
        raise DataError(f"{name}: not a readable sound ({error}); expected WAV or FLAC") from error
    return Sound(torch.from_numpy(recording.T.copy()), int(rate_hz))


def _check_size(size: int, limit: int, name: str) -> None:
    if size > limit:
        raise DataError(
            f"{name}: {size:,} bytes when decoded; expected at most {limit:,} "
            "(storage.max_member_bytes)"
        )


def _decode(extension: str, data: bytes, name: str, limit: int) -> Any:
    kind = extension.rsplit(".", 1)[-1].lower()
    if kind in _IMAGES:
        return decode_image(data, name, limit)
    if kind in _SOUNDS:
        return decode_sound(data, name, limit)
    try:
        if kind == "json":
            return parse_json(data, name)
        if kind in ("txt", "text"):
            return data.decode()
        if kind in ("cls", "id", "index"):
            return int(data)
        if kind == "npy":
            return torch.from_numpy(load_npy(data).copy())
    except DataError:
        raise
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: not readable as {kind} ({error})") from error
    return data


def iterate_media(
    shards: Sequence[str],
    *,
    data_rank: int = 0,
    data_ranks: int = 1,
    storage: StorageConfig | None = None,
) -> Iterator[dict[str, Any]]:
    """Decoded samples of WebDataset shards, in order; rank r reads samples r, r + ranks, ...

    jpg and png become uint8 tensors, wav and flac `Sound`, json and txt Python objects, cls an
    integer, npy a tensor; other members stay bytes. `__key__` and `__url__` name the origin.

    Args:
        shards: Files, folders, globs or URLs of tar files.
        data_rank: Data-parallel rank that reads.
        data_ranks: Number of data-parallel ranks.
        storage: Access to files.

    Raises:
        DataError: A shard or a member is unreadable or unsafe.
    """
    storage = storage or StorageConfig()
    number = 0
    for source in shards:
        for file in list_files(source, storage):
            for sample in samples(file.url, storage):
                if number % data_ranks == data_rank:
                    yield _decode_sample(sample, file.url, storage.max_member_bytes)
                number += 1


def _decode_sample(sample: dict[str, bytes], url: str, limit: int) -> dict[str, Any]:
    key = sample["__key__"].decode()
    decoded: dict[str, Any] = {"__key__": key, "__url__": url}
    for extension, data in sample.items():
        if extension != "__key__":
            decoded[extension] = _decode(extension, data, f"{url}, {key}.{extension}", limit)
    return decoded
