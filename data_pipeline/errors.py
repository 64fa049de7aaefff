"""The one exception that users of the data pipeline meet."""


class DataError(ValueError):
    """Input, output or configuration that the pipeline cannot work with.

    The message names the file, key or argument, what was found there and what was expected.
    """
