"""Exceptions that users of the trainer meet: the command line prints them without a traceback."""


class RunError(ValueError):
    """A run that cannot be carried out as asked.

    The message names the file, key or argument, what was found and what was expected.

    Attributes:
        agreed: Whether all ranks raise it together; then rank 0 alone prints it.
        status: With which the process exits.
    """

    agreed = False
    status = 1


class CheckpointError(RunError):
    """A checkpoint that is missing, incomplete, damaged, of another model, or cannot be written."""
