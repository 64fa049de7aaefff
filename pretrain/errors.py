"""Exceptions that users of the trainer meet: the command line prints them without a traceback."""

from launch.torchrun import LOST_CONTACT_STATUS


class RunError(ValueError):
    """A run that cannot be carried out as asked.

    The message names the file, key or argument, what was found and what was expected.

    Attributes:
        agreed: Whether all ranks raise it together; then rank 0 alone prints it.
        status: With which the process exits.
    """

    agreed = False
    status = 1


class LostContactError(RunError):
    """A rank that cannot reach the others: its own machine is not to blame."""

    status = LOST_CONTACT_STATUS


class CheckpointError(RunError):
    """A checkpoint that is missing, incomplete, damaged, of another model, or cannot be written."""
