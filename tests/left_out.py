"""A last word of pytest: how many tests the markers left out, by file, and what runs them."""

from collections import Counter
from typing import Any

import pytest

# marker -> the command that runs its tests; a test with several belongs to the first
COMMANDS = {"slow": "make test-all", "system": "make test-system"}
LEFT_OUT = pytest.StashKey[dict[str, dict[str, int]]]()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Count what a marker has left out."""
    config = items[0].config
    if not config.option.markexpr:
        return
    counts: dict[str, Counter[str]] = {command: Counter() for command in COMMANDS.values()}
    for item in items:
        for marker, command in COMMANDS.items():
            if item.get_closest_marker(marker):
                counts[command][item.nodeid.split("::")[0]] += 1
                break
    config.stash[LEFT_OUT] = {command: dict(files) for command, files in counts.items()}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist sends its counts: all workers have the same ones."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left out"] = session.config.stash.get(LEFT_OUT, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Receive the counts of a worker."""
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out", {})


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the counts."""
    counts = {command: files for command, files in config.stash.get(LEFT_OUT, {}).items() if files}
    if counts:
        terminalreporter.section("left out")
    for command, files in counts.items():
        terminalreporter.line(f"{command} runs {sum(files.values())} more tests:")
        for file, count in files.items():
            terminalreporter.line(f"    {count:3} of {file}")
