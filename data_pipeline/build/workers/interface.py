"""Interface between a build and the processes that run its tasks."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Workers(Protocol):
    """Processes that call functions; what these write is their only result."""

    def run(
        self, name: str, function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]
    ) -> None:
        """Call `function(*task)` for all tasks; after a failure, no further task is started.

        Raises:
            DataError: A task failed, or its process was killed.
        """
