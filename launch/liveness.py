"""`python -m launch.liveness FILE SECONDS`: exit with 0 if the file was touched within that time.

Kubernetes' probes run it. `pretrain.runtime.torchrun_agent` touches the file while it monitors its
ranks.
"""

import functools
import os
import sys
import time
from pathlib import Path

HEARTBEAT = "RESONANCE_HEARTBEAT"


def touch() -> None:
    """Touch the heartbeat file, if the environment names one."""
    path = os.environ.get(HEARTBEAT)
    if path:
        try:
            Path(path).touch()
        except OSError as error:
            # the probe that reads the file decides, not the process that works
            _warn(f"{path}: no heartbeat: {error}")


@functools.cache
def _warn(text: str) -> None:
    """Print a line, once for each text."""
    print(text, file=sys.stderr)


def silence_s(file: Path) -> float:
    """Seconds since the last heartbeat.

    Raises:
        FileNotFoundError: There was no heartbeat yet.
    """
    return time.time() - file.stat().st_mtime


def main() -> None:
    """Check the file of the command line; standard error goes into the events of a pod."""
    file, limit_s = Path(sys.argv[1]), float(sys.argv[2])
    try:
        silence = silence_s(file)
    except FileNotFoundError:
        sys.exit(f"{file}: no heartbeat yet")
    if silence > limit_s:
        sys.exit(f"{file}: last heartbeat {silence:.0f} s ago; expected at most {limit_s:.0f} s")


if __name__ == "__main__":
    main()
