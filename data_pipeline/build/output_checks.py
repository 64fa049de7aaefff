"""Checks of a build's output folder: what it holds is this build's own, whole, and no source."""

import re
from collections.abc import Sequence
from pathlib import Path

from fsspec.utils import glob_translate

from data_pipeline.build.planning import SPLITS
from data_pipeline.build.report import NAME as REPORT_NAME
from data_pipeline.build.report import BuildReport, describe_split
from data_pipeline.build.sources import SourceFile
from data_pipeline.config import StorageConfig
from data_pipeline.errors import DataError
from data_pipeline.shards.manifest import (
    INDEX_COLUMNS,
    INDEX_HEADER_BYTES,
    INDEX_NAME,
    load_manifest,
)
from data_pipeline.shards.manifest import NAME as MANIFEST_NAME
from data_pipeline.shards.verify import check_sizes
from data_pipeline.storage.atomic import PARTIAL_SUFFIX
from data_pipeline.storage.files import is_remote, local_path

# folder of what an unfinished build has done; its file `digest` says which build
WORK = ".work"


def check_output_outside(sources: Sequence[str], output: Path) -> None:
    """Reject an output folder inside a source, or matched by one: the shards would become sources.

    Raises:
        DataError: Names the source.
    """
    output = output.resolve()
    inside = [output / REPORT_NAME]
    for split in SPLITS:
        names = (MANIFEST_NAME, INDEX_NAME, "shard-000000.tar")
        inside += [output / split, *(output / split / name for name in names)]
    for source in sources:
        if is_remote(source):
            continue
        folder = local_path(source).expanduser()
        matched = re.compile(glob_translate(str(folder.absolute())))
        paths = (output, *output.parents, *inside)
        if output.is_relative_to(folder.resolve()) or (
            not folder.exists() and any(matched.fullmatch(str(path)) for path in paths)
        ):
            raise DataError(f"output: {output} lies inside the source {source}; expected elsewhere")


def check_files_outside(files: Sequence[SourceFile], output: Path) -> None:
    """Reject sources inside the output folder, where the build writes.

    Raises:
        DataError: Names the first such file.
    """
    output = output.resolve()
    local = [file for file in files if not is_remote(file.url)]
    folders = {local_path(file.url).parent for file in local}
    within = {folder for folder in folders if folder.resolve().is_relative_to(output)}
    for file in local:
        if local_path(file.url).parent in within:
            raise DataError(
                f"output: the source {file.url} lies inside {output}; expected an output folder of "
                "its own"
            )


def check_foreign(output: Path) -> None:
    """Reject an output folder with files that no build has made.

    Raises:
        DataError: Names some of them.
    """
    if (output / WORK / "digest").is_file() or not output.exists():
        return
    # a build that was killed before it recorded anything
    begun = {output / WORK, output / WORK / "lock", *(output / split for split in SPLITS)}
    try:
        present = set(output.iterdir())
        if output / WORK in present:
            present |= {path for folder in present & begun for path in folder.iterdir()}
        else:
            begun = set()
    except OSError as error:
        raise DataError(f"{output}: {error.strerror}; expected an empty or new folder") from error
    foreign = sorted(str(path.relative_to(output)) for path in present - begun)
    if foreign:
        more = ", ..." if len(foreign) > 3 else ""
        raise DataError(
            f"{output}: holds files that no build has made ({', '.join(foreign[:3])}{more}); "
            "expected an empty or new folder. Choose another output; nothing was changed."
        )


def damage(output: Path, report: BuildReport) -> str:
    """The first problem with sizes and manifests of a finished build; empty if there is none."""
    storage = StorageConfig()
    for split in SPLITS:
        folder = output / split
        try:
            manifest = load_manifest(str(folder), storage)
            check_sizes(str(folder), manifest, storage)
        except DataError as error:
            return str(error)
        if describe_split(manifest) != report.splits.get(split):
            return f"{folder / MANIFEST_NAME}: differs from {output / REPORT_NAME}"
        expected = INDEX_HEADER_BYTES + manifest.samples * INDEX_COLUMNS * 8
        index = folder / INDEX_NAME
        size = index.stat().st_size if index.is_file() else 0
        if size != expected:
            return f"{index}: {size} bytes; expected {expected} by the manifest"
    return ""


def remove_partial_files(output: Path) -> None:
    """Remove the unfinished files of a killed build, by the names that builds give."""
    for folder, names in (
        (output, [REPORT_NAME]),
        (output / WORK, ["*"]),
        *((output / split, [MANIFEST_NAME, INDEX_NAME, "shard-*.tar"]) for split in SPLITS),
    ):
        for name in names:
            for path in folder.glob(f".{name}.*{PARTIAL_SUFFIX}"):
                path.unlink()
