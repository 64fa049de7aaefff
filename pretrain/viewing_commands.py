"""Arguments of the commands that show runs and models; imports no torch."""

from pathlib import Path

import tyro
from pydantic import Field

from data_pipeline.config import LocalPath
from pretrain.commands import Command


class ReportCommand(Command):
    """Write a page of HTML about runs: curves, events, comparison, samples; needs no network."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = Field(
        min_length=1, description="Run directories, or folders of them."
    )
    output: LocalPath | None = Field(
        None, description="File to write; None for report.html in the first folder."
    )
    watch: bool = Field(
        False,
        description="Write the page again while the runs train; an open page follows, and the "
        "command ends with the last run.",
    )
    interval_s: float = Field(
        10.0, ge=0.2, le=3600.0, description="Seconds between writes of --watch."
    )


class AnalyzeCommand(Command):
    """Show what a model has learned: its filters, and what a text excites in it."""

    model: tyro.conf.Positional[Path] = Field(
        description="Run directory, single checkpoint or exported folder."
    )
    text: Path | None = Field(None, description="UTF-8 file to run the model on; None for none.")
    max_tokens: int = Field(2048, ge=2, le=2**20, description="Tokens of the text to read.")
    output: LocalPath | None = Field(
        None,
        description="Folder for analysis.json and analysis.html; None for the run directory, or "
        "the folder analysis for an exported model.",
    )
