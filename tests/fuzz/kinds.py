"""Kinds of files that come from outside: valid examples of each, and the code that reads them."""

import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import tomllib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import soundfile
import tomli_w
import zstandard
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from data_pipeline.build.build import build
from data_pipeline.build.duplicates.contamination import read_texts
from data_pipeline.build.readers import Reader
from data_pipeline.build.sources import plan_parts, source_files
from data_pipeline.config import (
    BuildConfig,
    DataConfig,
    ReadConfig,
    StatsConfig,
    StorageConfig,
    VerifyConfig,
)
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import (
    INDEX_COLUMNS,
    INDEX_HEADER_BYTES,
    INDEX_NAME,
    load_manifest,
)
from data_pipeline.shards.manifest import NAME as MANIFEST_NAME
from data_pipeline.shards.media import iterate_media
from data_pipeline.shards.reader import ShardReader
from data_pipeline.shards.stats import stats
from data_pipeline.shards.verify import inspect
from data_pipeline.tokenizer import load_tokenizer
from pretrain.errors import RunError
from pretrain.generation.generate import read_prompts
from pretrain.planning.devices import KNOWN as KNOWN_DEVICES
from pretrain.planning.devices import load_devices
from pretrain.planning.plan import machines_of
from pretrain.planning.records import Collective, OpCost
from pretrain.planning.step_time import collective_seconds, op_seconds
from pretrain.run_file import load_run
from tests.fuzz.mutations import Mutation, mutated_bytes, mutated_json, mutated_tree

STORAGE = StorageConfig()
RECIPE = Path(__file__).parents[2] / "pretrain" / "recipes" / "stdlib.toml"


class Kind(NamedTuple):
    """A kind of files.

    Attributes:
        build: Writes valid files into an empty folder.
        read: Reads them, in another process.
        mutations: By pattern of file names, how those files change.
        finish: Makes the rest of the folder fit to a changed file.
    """

    build: Callable[[Path], object]
    read: Callable[[Path], object]
    mutations: dict[str, Mutation]
    finish: Callable[[Path, Path], object] = lambda _folder, _file: None


def _corpus(folder: Path) -> None:
    lines = [{"text": f"line {n} é", "language": "en", "n": n} for n in range(20)]
    jsonl = "".join(json.dumps(line) + "\n" for line in lines).encode()
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(lines), sink)
    (folder / "a.txt").write_bytes(b"one\n\ntwo \xc3\xa9\n\nthree\n")
    (folder / "a.jsonl").write_bytes(jsonl)
    (folder / "a.parquet").write_bytes(sink.getvalue().to_pybytes())
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(jsonl))
    (folder / "a.jsonl.bz2").write_bytes(bz2.compress(jsonl))
    (folder / "a.jsonl.xz").write_bytes(lzma.compress(jsonl))
    (folder / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(jsonl))


def read_corpus(folder: Path) -> None:
    """Read all documents: damage stops it, or is counted and nothing else."""
    for document in ("file", "line", "paragraph"):
        for policy in ("skip", "fail"):
            read = ReadConfig(document=document, on_bad_input=policy, max_document_bytes=1024)
            reader = Reader(read, STORAGE, on_bad=lambda *_: None)
            try:
                for part in plan_parts(source_files([str(folder)], read, STORAGE), read, 1024):
                    for piece in part.slices:
                        for found in reader.documents(piece):
                            (found.text + found.language).encode()
            except DataError:
                if policy == "skip":
                    raise AssertionError("skipping must not stop") from None


def _shards(folder: Path) -> None:
    (folder / "text").write_text("".join(f"line {n}\n" for n in range(30)))
    read = ReadConfig(document="line")
    build(BuildConfig(sources=(str(folder / "text"),), output=str(folder / "data"), read=read))


def sum_again(folder: Path, changed: Path) -> None:
    """Let the checksums of the manifest agree with changed files: the damage is deeper."""
    if changed.name == MANIFEST_NAME:
        return
    for manifest in folder.rglob(MANIFEST_NAME):
        table = json.loads(manifest.read_bytes())
        rows = (manifest.parent / INDEX_NAME).read_bytes()[INDEX_HEADER_BYTES:]
        for entry in table["shards"]:
            shard = (manifest.parent / entry["name"]).read_bytes()
            size = entry["samples"] * INDEX_COLUMNS * 8
            entry["index_crc32"], rows = zlib.crc32(rows[:size]), rows[size:]
            entry["sha256"], entry["size"] = hashlib.sha256(shard).hexdigest(), len(shard)
        manifest.write_text(json.dumps(table))


def read_shards(folder: Path) -> None:
    """What `data verify` and `data stats` do, and reading every document."""
    data = folder / "data"
    for command in (
        lambda: inspect(VerifyConfig(path=str(data))),
        lambda: str(stats(StatsConfig(path=str(data)))),
        lambda: _read_documents(str(data / "train")),
    ):
        # each meets the damage, whatever the others say
        with contextlib.suppress(DataError):
            command()


def _read_documents(path: str) -> None:
    reader = ShardReader(path, load_manifest(path), DataConfig(verify_shards=False))
    for shard in range(len(reader._manifest.shards)):
        for row in range(len(reader.index(shard))):
            reader.tokens(shard, row)


def _media(folder: Path) -> None:
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    sound = np.linspace(-1, 1, 50)
    for kind in ("png", "jpg"):
        Image.fromarray(pixels).save(folder / f"a.{kind}")
    for kind in ("wav", "flac"):
        soundfile.write(folder / f"a.{kind}", sound, 8000)
    np.save(folder / "a.npy", sound)
    (folder / "a.json").write_text('{"a": [1, "b"]}')
    (folder / "a.cls").write_text("3")
    (folder / "a.txt").write_text("é")
    _pack(folder, folder)


def _pack(folder: Path, changed: Path) -> None:
    """Make the archive again, unless it is what was changed."""
    archive = folder / "a.tar"
    if changed == archive:
        return
    with tarfile.open(archive, "w") as tar:
        for file in sorted(folder.glob("a.*")):
            if file != archive:
                info = tarfile.TarInfo(file.name)
                info.size = file.stat().st_size
                tar.addfile(info, io.BytesIO(file.read_bytes()))


def read_media(folder: Path) -> None:
    """Decode the samples of the archive."""
    limit = StorageConfig(max_member_bytes=2**20)
    for _ in iterate_media([str(folder / "a.tar")], storage=limit):
        pass


@st.composite
def mutated_toml(draw: st.DrawFn, valid: bytes) -> bytes:
    tree = draw(mutated_tree(tomllib.loads(valid.decode())))
    try:
        return tomli_w.dumps(tree).encode()
    except (TypeError, AttributeError, ValueError):
        # no TOML for it, such as for null
        return draw(mutated_bytes(valid))


def _tokenizers(folder: Path) -> None:
    import tokenizers

    model = tokenizers.models.WordLevel({"<eos>": 0, "a": 1, "<unk>": 2}, unk_token="<unk>")
    tokenizers.Tokenizer(model).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<eos>"}}')


def read_tokenizer(folder: Path) -> None:
    """Load and use a tokenizer."""
    tokenizer = load_tokenizer(folder)
    tokenizer.decode(tokenizer.encode("a b"))


def _prompts(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"prompt": "a"}\n{"prompt": "é"}\n')
    (folder / "a.txt").write_text("a\n\né\n")


def read_prompt_files(folder: Path) -> None:
    """The prompts of both files."""
    for name in ("a.txt", "a.jsonl"):
        for prompt in read_prompts(folder / name):
            assert isinstance(prompt, str)


def _write_run(folder: Path) -> None:
    (folder / "run.toml").write_bytes(RECIPE.read_bytes())


def read_run(folder: Path) -> None:
    """Load a run file."""
    load_run(folder / "run.toml")


def _write_devices(folder: Path) -> None:
    (folder / "devices.toml").write_bytes(KNOWN_DEVICES.read_bytes())


def read_devices(folder: Path) -> None:
    """What `resonance plan --devices` does with the file: each device, over its links."""
    devices = load_devices(folder / "devices.toml")
    for name in devices.gpus:
        for network in devices.links:
            # one without its link is refused, whatever the others are
            with contextlib.suppress(RunError):
                machines = machines_of(devices, name, network, 0)
                assert isinstance(machines.device.capacity, int)
                matrix = OpCost("matrix", "torch.float32", 10**9, 10**6)
                op_seconds(matrix, machines.device)
                for link in (machines.link, machines.network):
                    collective_seconds(Collective("allreduce", 10**6, (0, 1)), link)


def _evaluation_texts(folder: Path) -> None:
    (folder / "a.jsonl").write_text('{"query": "é b", "choices": ["c", 1]}\n')


def read_evaluation_texts(folder: Path) -> None:
    """Read what `data build --decontaminate` reads."""
    read_texts([str(folder / "a.jsonl")], length=2, max_line_bytes=1024)


KINDS = {
    "corpus": Kind(_corpus, read_corpus, {"a.*": mutated_bytes}),
    "manifest": Kind(_shards, read_shards, {"data/*/manifest.json": mutated_json}),
    "shards": Kind(
        _shards,
        read_shards,
        {"data/*/documents.npy": mutated_bytes, "data/*/*.tar": mutated_bytes},
        sum_again,
    ),
    "media": Kind(_media, read_media, {"a.*": mutated_bytes}, _pack),
    "run file": Kind(_write_run, read_run, {"run.toml": mutated_toml}),
    "run file, bytes": Kind(_write_run, read_run, {"run.toml": mutated_bytes}),
    "devices": Kind(_write_devices, read_devices, {"devices.toml": mutated_toml}),
    "devices, bytes": Kind(_write_devices, read_devices, {"devices.toml": mutated_bytes}),
    "tokenizer": Kind(_tokenizers, read_tokenizer, {"*.json": mutated_json}),
    "evaluation texts": Kind(_evaluation_texts, read_evaluation_texts, {"a.*": mutated_bytes}),
    "prompts": Kind(_prompts, read_prompt_files, {"a.*": mutated_bytes}),
}
