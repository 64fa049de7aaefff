"""Standard streams of a command that are closed, full, narrow or of another encoding."""

import contextlib
import errno
import io
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from typing import Any

# narrower, the formatting of help texts does not end; wider ones would be padded to any width
MIN_COLUMNS, MAX_COLUMNS = 40, 400
TRACEBACK = "RESONANCE_TRACEBACK"


class OutputError(OSError):
    """A standard output that cannot be written."""


@contextlib.contextmanager
def standard_streams(*, may_lose_output: bool) -> Iterator[None]:
    """Run a command whose standard streams may be unusable, and flush its output.

    A reader that has closed its end, such as `head`, has seen enough. Other output that cannot be
    written is an error.

    Args:
        may_lose_output: Whether a closed standard output is as good as an open one.

    Raises:
        SystemExit: With status 1: the output cannot be written.
    """
    _open_closed_streams(may_lose_output=may_lose_output)
    columns = shutil.get_terminal_size().columns
    if not MIN_COLUMNS <= columns <= MAX_COLUMNS:
        os.environ["COLUMNS"] = str(min(max(columns, MIN_COLUMNS), MAX_COLUMNS))
    previous = sys.stdout
    sys.stdout = _checked(previous)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as error:
        # what is left in the buffer must not be written again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE:
            complain(f"resonance: standard output cannot be written ({error.strerror})", error)
            sys.exit(1)
    finally:
        sys.stdout = previous


def _open_closed_streams(*, may_lose_output: bool) -> None:
    """Occupy the numbers of closed streams: a file that got one would receive foreign output."""
    # what can only be read refuses output, as a closed stream does
    output = os.O_WRONLY if may_lose_output else os.O_RDONLY
    for number, mode in ((0, os.O_RDONLY), (1, output), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number
            os.open(os.devnull, mode)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    if sys.stdout is None:
        sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)  # type: ignore[misc]
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _checked(stream: Any) -> Any:
    """Standard output whose failures can be told from those of files."""
    if stream is not sys.__stdout__ or stream is None:
        # a caller has replaced it
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(1, "w", closefd=False)),
        encoding=stream.encoding,
        # names of files need not be UTF-8, and terminals need not be able to show all of it
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            raise OutputError(error.errno, error.strerror) from error


def complain(message: str, error: BaseException | None = None) -> None:
    """Print a message to standard error, after the error's traceback if the user asks for it."""
    # nobody can be told of a standard error that is full
    with contextlib.suppress(OSError):
        if error is not None and os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        print(message, file=sys.stderr)
