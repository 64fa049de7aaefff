"""`python -m launch.liveness FILE SECONDS`: exit with 0 if the file was touched within that time.

Kubernetes' probes run it. `pretrain.runtime.torchrun_agent` touches the file as long as
it watches its ranks.
"""

import os
import sys
import time
from pathlib import Path

HEARTBEAT = "RESONANCE_HEARTBEAT"


def touch() -> None:
    """Give a sign of life, where the environment asks for one."""
    path = os.environ.get(HEARTBEAT)
    if path:
        Path(path).touch()


def silence_s(file: Path) -> float:
    """Seconds since the last sign of life.

    Raises:
        FileNotFoundError: There was none yet.
    """
    return time.time() - file.stat().st_mtime


def main() -> None:
    """Says on standard error what is wrong, for the events of a pod."""
    file, limit_s = Path(sys.argv[1]), float(sys.argv[2])
    try:
        silence = silence_s(file)
    except FileNotFoundError:
        sys.exit(f"{file}: no sign of life yet")
    if silence > limit_s:
        sys.exit(f"{file}: last sign of life {silence:.0f} s ago; expected at most {limit_s:.0f} s")


if __name__ == "__main__":
    main()
