"""Exceptions that the command line prints without a traceback."""

from data_pipeline.redaction import redact
from launch.torchrun import LOST_CONTACT_STATUS


class RunError(ValueError):
    """A run that cannot be carried out as asked.

    The message names the file, key or argument, what was found and what was expected; URLs in it
    have no credentials.

    Attributes:
        agreed: Whether all ranks raise it together; then rank 0 alone prints it.
        status: Exit status of the process.
    """

    agreed = False
    status = 1

    def __init__(self, message: str):
        super().__init__(redact(message))


class LostContactError(RunError):
    """A rank that cannot reach the others; the fault is not on its own machine."""

    status = LOST_CONTACT_STATUS


class CheckpointError(RunError):
    """A checkpoint that is missing, incomplete, damaged, of another model or not writable."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint with a file that is missing, cut short or changed; not one behind an outage."""
