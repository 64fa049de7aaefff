"""A pool of processes on this machine."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

from data_pipeline.errors import DataError


def _end_with_parent(parent: int) -> None:
    """Exit when the parent has died: a killed build must stop writing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class ProcessPool:
    """Processes of this machine; a single one is this process itself."""

    def __init__(self, num_processes: int):
        self._num_processes = num_processes

    def run(
        self, name: str, function: Callable[..., None], tasks: Sequence[tuple[Any, ...]]
    ) -> None:
        """Call `function(*task)` for all tasks; after a failure, no further task is started.

        Raises:
            DataError: A task failed, or its process was killed.
        """
        num_processes = min(self._num_processes, len(tasks))
        with tqdm(total=len(tasks), desc=name, unit="task", disable=None) as progress:
            if num_processes <= 1:
                for task in tasks:
                    function(*task)
                    progress.update()
                return
            with ProcessPoolExecutor(
                num_processes, initializer=_end_with_parent, initargs=(os.getpid(),)
            ) as pool:
                futures = [pool.submit(function, *task) for task in tasks]
                try:
                    for future in as_completed(futures):
                        future.result()
                        progress.update()
                except BrokenProcessPool as error:
                    raise DataError(
                        f"{name}: a worker process was killed, perhaps for lack of memory; "
                        "expected it to finish. The same command resumes the work, with fewer "
                        "num_processes if need be."
                    ) from error
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)
