"""Reading of one source file by tests."""

from pathlib import Path

from data_pipeline.build.readers import Reader
from data_pipeline.build.sources import plan_parts, source_files
from data_pipeline.config import ReadConfig, StorageConfig

STORAGE = StorageConfig()


def documents(file: Path, policy: str = "fail", **read: object) -> tuple[list[str], list[str]]:
    """The documents of a file, and the reasons of what was skipped."""
    config = ReadConfig.model_validate({"on_bad_input": policy} | read)
    reasons: list[str] = []
    reader = Reader(config, STORAGE, on_bad=lambda reason, _: reasons.append(reason))
    texts = [
        document.text
        for part in plan_parts(source_files([str(file)], config, STORAGE), config, 1 << 62)
        for piece in part.slices
        for document in reader.documents(piece)
    ]
    return texts, reasons
