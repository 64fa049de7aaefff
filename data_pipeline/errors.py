"""The exceptions of the data pipeline; users need to know `DataError` alone."""


class DataError(ValueError):
    """Input, output or configuration that the pipeline cannot work with.

    The message names the file, key or argument, what was found there and what was expected.
    """


class MissingFileError(DataError):
    """There is no such file; asking again does not help."""


class CorruptShardError(DataError):
    """A shard is not what its manifest says."""
