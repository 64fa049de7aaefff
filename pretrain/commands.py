"""Arguments of the sub-commands (imports no torch)."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import BaseModel, ConfigDict, Field

from data_pipeline.config import LocalPath, ReadConfig, StorageConfig
from pretrain.config import RunConfig


class Command(BaseModel):
    """Base of all commands."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PretrainCommand(Command):
    """Train the model of a run file; several ranks need torchrun or `launch local`."""

    run_file: tyro.conf.Positional[Path] = Field(description="Run file (TOML).")
    resume: bool = Field(False, description="Resume from the run's newest complete checkpoint.")
    auto_resume: bool = Field(
        False,
        description="Resume if there is a checkpoint, otherwise start from scratch: for requeued "
        "jobs.",
    )
    branch_from: Annotated[Path | None, tyro.conf.arg(name="from")] = Field(
        None,
        description="Start a run of its own from this checkpoint or run directory, as "
        "train.branch_from; if train.output is that run's, a folder next to it. A run of another "
        "objective reads the parameters that fit, and lists those that it initialises.",
    )
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = Field(RunConfig())


class EvaluateCommand(Command):
    """Measure a model on a split, text files or tasks of lm-eval.

    Language models: loss, perplexity, bits per byte. Encoders: loss and accuracy on masked tokens.
    Classifiers: accuracy, macro F1, calibration, confusions.
    """

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="Run directory, single checkpoint or, with --text or --tasks, exported folder."
    )
    data: str = Field(
        "", description="Folder or URL of the split to evaluate; empty for the run's `data.valid`."
    )
    baselines: bool = Field(
        True,
        description="Also fit interpolated n-grams to the run's training data, for comparison; "
        "this holds all training tokens in memory.",
    )
    text: tuple[Path, ...] = Field(
        (), description="UTF-8 files to evaluate instead of a split; each is one document."
    )
    tasks: tuple[str, ...] = Field(
        (), description="lm-eval tasks to run instead, by name or YAML file."
    )
    limit: int = Field(0, ge=0, description="Samples per lm-eval task; 0 for all.")
    state: Literal["carried", "sliding"] = Field(
        "carried",
        description="With --text: carried passes the state through the whole file; sliding starts "
        "every window from an empty state and scores its last --stride tokens.",
    )
    stride: int = Field(
        0, ge=0, description="Tokens scored per sliding window; 0 for half of the window."
    )
    sequence_length: int = Field(
        0, ge=0, description="Tokens per window; 0 for the length used in training."
    )
    batch_size: int = Field(8, ge=1, description="Windows per forward pass.")


class EmbedCommand(Command):
    """Write a vector for every text, by an encoder or a classifier, as a Parquet file."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="Run directory, single checkpoint or exported folder."
    )
    inputs: tuple[str, ...] = Field(description="Files, folders, globs or URLs of texts.")
    output: LocalPath = Field(description="Parquet file with the columns source, number, vector.")
    normalise: bool = Field(False, description="Whether to give every vector the length 1.")
    batch_size: int = Field(32, ge=1, description="Texts per forward pass.")
    read: ReadConfig = Field(ReadConfig(), description="Layout of texts inside the files.")
    storage: StorageConfig = Field(StorageConfig(), description="Access to files.")


class GenerationOptions(Command):
    """Options of text generation."""

    max_tokens: int = Field(200, ge=1, description="Maximum number of new tokens.")
    min_tokens: int = Field(0, ge=0, description="Minimum number of new tokens.")
    temperature: float = Field(0.8, ge=0.0, description="Sampling temperature; 0 is greedy.")
    top_k: int = Field(0, ge=0, description="Sample from the k most likely tokens; 0 for all.")
    top_p: float = Field(
        0.95,
        gt=0.0,
        le=1.0,
        description="Sample from the most likely tokens whose total probability reaches this "
        "(nucleus sampling).",
    )
    beams: int = Field(1, ge=1, le=1024, description="Beams of a beam search; 1 turns it off.")
    beam_groups: int = Field(
        1,
        ge=1,
        description="Groups of a diverse beam search, which does not sample; must divide --beams.",
    )
    diversity_penalty: float = Field(
        1.0, ge=0.0, description="Penalty on tokens that an earlier group of beams has chosen."
    )
    length_penalty: float = Field(
        1.0,
        description="Beams are ranked by score / length ** penalty; above 0 favours long ones.",
    )
    early_stopping: bool = Field(
        False, description="Stop a beam search as soon as --beams sequences are complete."
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0.0,
        description="Penalty factor on the scores of tokens that have occurred; 1 turns it off.",
    )
    no_repeat_ngram: int = Field(
        0, ge=0, description="Never repeat an n-gram of this length; 0 turns it off."
    )
    coverage_penalty: float = Field(
        0.0,
        ge=0.0,
        description="Penalty per log(1 + count) of tokens already generated; 0 turns it off.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Random seed for sampling.")


class GenerateCommand(GenerationOptions):
    """Continue a prompt or a file of prompts; time and memory per token are constant."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="Run directory, single checkpoint or exported folder."
    )
    prompt: str = Field("", description="Text to continue; empty starts a new document.")
    prompts: Path | None = Field(
        None, description="File with one prompt per line, or .jsonl with {'prompt': ...}."
    )
    output: LocalPath | None = Field(
        None, description="JSON-lines file for the continuations of --prompts; None prints them."
    )
    batch_size: int = Field(8, ge=1, description="Prompts of --prompts per batch.")


class ChatCommand(GenerationOptions):
    """Chat with a model; its memory of the conversation has constant size."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="Run directory, single checkpoint or exported folder."
    )
    user: str = Field("User: ", description="Text put before each of your turns.")
    reply: str = Field("\nAssistant:", description="Text put between your turn and the reply.")
    stop: str = Field("\nUser:", description="Text that ends a reply; empty for none.")


class ExportCommand(Command):
    """Export a checkpoint to a Hugging Face folder that loads without Resonance, or to ONNX."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="Run directory or single checkpoint; for ONNX also an exported folder."
    )
    output: tyro.conf.Positional[LocalPath] = Field(description="Folder to create; must not exist.")
    format: Literal["huggingface", "onnx"] = Field(
        "huggingface",
        description="A folder for transformers, or a step of decoding for ONNX Runtime (heads and "
        "wavelets without gates).",
    )
    license: str = Field(
        "unknown",
        pattern=r"^[A-Za-z0-9.+-]+$",
        description="Licence of the weights for the model card, as the Hub spells it: mit, "
        "apache-2.0.",
    )


class ImportCommand(Command):
    """Import a folder that others fine-tuned as a checkpoint that `pretrain --from` starts from."""

    folder: tyro.conf.Positional[Path] = Field(
        description="Folder of `checkpoint export`, fine-tuned or merged, with config.json."
    )
    output: tyro.conf.Positional[LocalPath] = Field(description="Checkpoint to create.")


class VerifyCheckpointCommand(Command):
    """Verify a checkpoint: file hashes, missing shards, shapes, state and the model's output."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="Run directory or single checkpoint."
    )


class InspectCommand(Command):
    """Print the contents of a checkpoint as a tree."""

    checkpoint: tyro.conf.Positional[Path] = Field(
        description="Run directory or single checkpoint."
    )


class AverageCommand(Command):
    """Average a run's newest checkpoints, and evaluate the mean along with the newest.

    The optimizer's state is not averaged: a run that starts from the mean begins it again.
    """

    run: tyro.conf.Positional[Path] = Field(description="Run directory.")
    last: int = Field(2, ge=1, description="Number of newest checkpoints to average.")
    exponential: bool = Field(
        False,
        description="Take the exponential average that training kept in the newest checkpoint "
        "(optim.average_decay) instead.",
    )
    output: LocalPath | None = Field(
        None, description="Folder to create; None for RUN/averages/ and the steps."
    )
    evaluate: bool = Field(
        True,
        description="Compute the mean's certificate, and losses on the run's data.valid; needs "
        "memory for one model. Without a certificate no run can start from the mean.",
    )


class FetchCommand(Command):
    """Download a checkpoint from an object store and verify it."""

    url: tyro.conf.Positional[str] = Field(
        description="URL of a checkpoint or of a folder of checkpoints (then the newest), for "
        "example s3://bucket/run."
    )
    output: tyro.conf.Positional[LocalPath] = Field(
        description="Folder that will hold the checkpoint."
    )
    storage: StorageConfig = Field(StorageConfig(), description="Access to the object store.")
