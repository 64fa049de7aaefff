"""Exceptions of the data pipeline; users only need `DataError`."""

from data_pipeline.redaction import redact


class DataError(ValueError):
    """Input, output or configuration that the pipeline cannot use.

    The message names the file, key or argument, the value found and the value expected; URLs in it
    have no credentials.
    """

    def __init__(self, message: str):
        super().__init__(redact(message))


class MissingFileError(DataError):
    """A file that does not exist; a retry would fail the same way."""


class UnavailableError(DataError):
    """A store that did not answer, in any of the attempts; a later one may succeed."""


class WriteError(DataError):
    """A file that cannot be written, for example because the disk is full."""


class CorruptShardError(DataError):
    """A shard that differs from its manifest."""
