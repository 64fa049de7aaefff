"""Ranks of a run without the training: they note what happens to them in $STAND_IN/notes.

BEHAVIOUR says what they do: `finish`; `stop` (wait, and leave with 75 when asked to), once, and
finish when started again; `crash HOST` (fail on that host, finish on others); `show NAME...` (note
those variables).
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM)
NOTES = Path(os.environ["STAND_IN"]) / "notes"


def note(text: str) -> None:
    """Append a line; one write, so that lines of several ranks do not mix."""
    with NOTES.open("a", encoding="utf-8") as file:
        file.write(f"{socket.gethostname()} {os.environ['SLURM_JOB_ID']} {text}\n")


def leave(number: int, _frame: object) -> None:
    """What the trainer does after it has saved."""
    # Slurm asks the step and the script when it preempts a job: once is enough
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    note(f"asked {signal.Signals(number).name}")
    sys.exit(75)


def main() -> None:
    """Act out one attempt of a run."""
    behaviour, _, host = os.environ["BEHAVIOUR"].partition(" ")
    again = NOTES.exists() and "asked" in NOTES.read_text(encoding="utf-8")
    for number in STOP_SIGNALS:
        signal.signal(number, leave)
    note(f"start {' '.join(sys.argv[2:])} {os.environ['WORLD_SIZE']}")
    if behaviour == "show":
        note(f"shows {json.dumps({name: os.environ.get(name) for name in host.split()})}")
    if behaviour == "crash" and socket.gethostname() == host:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "stop" and not again:
        time.sleep(300)
    note("finished")


if __name__ == "__main__":
    main()
