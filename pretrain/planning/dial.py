"""A proposal of a run for a number of tokens, with the source of every value.

What has no source in the literature comes from this project's own sweep (`docs/recipes.md`).
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from data_pipeline.shards.manifest import load_manifest
from data_pipeline.storage.atomic import write_text_atomically
from data_pipeline.tokenizer import load_tokenizer
from pretrain.errors import RunError
from pretrain.launch_commands import PlanCommand
from pretrain.parallel.split_model import empty_model
from pretrain.run_file import load_run
from spectral.config import ModelConfig
from spectral.presets import PRESETS, VOCAB_SIZE

# rates of the sweep in `docs/recipes.md`, with its width, and tokens of a step and of its runs
RATES = {"muon": 0.012, "adamw": 0.006}
SWEPT_WIDTH, SWEPT_BATCH, SWEPT_TOKENS = 128, 2_048, 409_600
BATCH_EXPONENT = 0.383
TOKENS_PER_PARAMETER = 20
HEAD = 64
# a step of fewer windows would be of few documents
FEWEST_WINDOWS = 8
LONGEST, SHORTEST = 2_048, 64
MOST_LAYERS = 64
# the warm-up is a share of them
FEWEST_STEPS = 20


class Rule(NamedTuple):
    """A key of the proposed run.

    Attributes:
        key: Key of a run file.
        value: Its value.
        source: Where the value comes from.
    """

    key: str
    value: Any
    source: str


def propose(command: PlanCommand) -> str:
    """The keys of a run for a number of tokens, with their sources; written if so requested.

    Raises:
        RunError: The preset is unknown, the file exists, or the data of a run to be written is not
            there.
        DataError: The data of a run to be written is damaged.
    """
    if command.search or command.gpus:
        raise RunError(
            "--tokens: expected no --search and no --gpus, which plan a written run file"
        )
    vocab_size = VOCAB_SIZE
    if command.write is not None:
        vocab_size = _checked_vocabulary(command, command.write)
    rules = rules_of(command, vocab_size)
    parameters = sum(p.numel() for p in empty_model(_model(command.preset, rules)).parameters())
    if command.write is not None:
        write_text_atomically(command.write, tomli_w.dumps(_tables(command, rules)))
        # refused now rather than at the start
        load_run(command.write)
    if command.as_json:
        table = {rule.key: {"value": rule.value, "source": rule.source} for rule in rules}
        return json.dumps({"parameters": parameters, "run": table}, indent=2)
    width = max(len(_line(rule)) for rule in rules)
    lines = [f"{_line(rule):<{width}}  # {rule.source}" for rule in rules]
    lines.append(f"{parameters:,} parameters, {command.tokens / parameters:,.1f} tokens for each")
    if command.write is not None:
        lines.append(f"written to {command.write}: resonance pretrain {command.write}")
    return "\n".join(lines)


def rules_of(command: PlanCommand, vocab_size: int) -> list[Rule]:
    """The keys of the proposed run.

    Args:
        command: Tokens, preset and optimizer.
        vocab_size: Rows of the embedding.

    Raises:
        RunError: The preset is unknown, or the tokens are too few.
    """
    tokens, context = command.tokens, LONGEST
    if command.preset:
        if command.preset not in PRESETS:
            raise RunError(
                f"--preset is {command.preset!r}; expected one of {', '.join(PRESETS)}, or none"
            )
        context = PRESETS[command.preset].context_length
        rules = [Rule("model.preset", command.preset, "--preset")]
    else:
        rules = _shape(tokens, vocab_size)
    batch = SWEPT_BATCH * (tokens / SWEPT_TOKENS) ** BATCH_EXPONENT
    length = min(
        context, 2 ** max(int(math.log2(SHORTEST)), int(math.log2(batch / FEWEST_WINDOWS)))
    )
    windows = max(1, round(batch / length))
    steps = math.ceil(tokens / (windows * length))
    if steps < FEWEST_STEPS:
        raise RunError(
            f"--tokens is {tokens:,}: {steps} steps; expected at least {FEWEST_STEPS} steps "
            f"of {windows * length:,} tokens"
        )
    swept = f"best of the sweep at width {SWEPT_WIDTH} (docs/recipes.md)"
    return [
        *rules,
        Rule(
            "data.sequence_length",
            length,
            f"a power of two, at most {context:,}, of which a step has {FEWEST_WINDOWS} or more",
        ),
        Rule(
            "train.global_batch_size",
            windows,
            f"tokens ** {BATCH_EXPONENT} (nanochat, dev/LOG.md), {SWEPT_BATCH:,} a step in the "
            "sweep; monitor.noise_every measures whether it pays",
        ),
        Rule("train.micro_batch_size", 1, "any; `resonance plan --search` finds a faster one"),
        Rule("train.steps", steps, "tokens / tokens of a step"),
        Rule("optim.name", command.optimizer, "Liu et al. 2025, arXiv 2502.16982, for muon"),
        Rule("optim.learning_rate", RATES[command.optimizer], swept),
        Rule("optim.scale", "width", "Yang et al. 2022, arXiv 2203.03466 (docs/recipes.md)"),
        Rule("optim.base_width", SWEPT_WIDTH, "width of the sweep"),
        Rule("optim.warmup_share", 0.07, "as in the sweep"),
        Rule("train.validate_batches", 50, "as in the sweep"),
    ]


def _shape(tokens: int, vocab_size: int) -> list[Rule]:
    """Keys of the shape whose number of parameters comes nearest to a twentieth of the tokens."""
    wanted = tokens / TOKENS_PER_PARAMETER

    def misfit(layers: int) -> float:
        dim = HEAD * layers
        # queries, keys, values, gate, output; three maps of the feed-forward
        return abs(math.log((layers * (5 * dim + 3 * _hidden(dim)) + vocab_size) * dim / wanted))

    layers = min(range(1, MOST_LAYERS + 1), key=misfit)
    dim = HEAD * layers
    chinchilla = (
        f"{TOKENS_PER_PARAMETER} tokens for a parameter (Hoffmann et al. 2022, arXiv 2203.15556)"
    )
    return [
        Rule("model.num_layers", layers, chinchilla),
        Rule("model.dim", dim, f"{HEAD} for a layer (nanochat's dial)"),
        Rule("model.num_heads", layers, f"heads of {HEAD} channels, as the presets' smallest"),
        Rule("model.ffn_dim", _hidden(dim), "8 / 3 of the width (Shazeer 2020, arXiv 2002.05202)"),
        Rule("model.vocab_size", vocab_size, "the tokenizer's"),
    ]


def _hidden(dim: int) -> int:
    return round(8 * dim / 3 / HEAD) * HEAD


def _model(preset: str, rules: list[Rule]) -> ModelConfig:
    if preset:
        return PRESETS[preset].model
    keys = {rule.key.removeprefix("model."): rule.value for rule in rules if "model." in rule.key}
    return ModelConfig.model_validate(keys)


def _checked_vocabulary(command: PlanCommand, file: Path) -> int:
    """Size of the tokenizer, after a look at everything that the written run will need."""
    if file.exists():
        raise RunError(f"--write: {file} exists; expected a new file")
    train = command.data / "train"
    if not (train / "manifest.json").is_file():
        raise RunError(
            f"--data {command.data}: expected {train}, made by `resonance data build`, which the "
            "written run reads"
        )
    tokenizer = load_tokenizer(command.tokenizer)
    if load_manifest(str(train)).tokenizer.fingerprint != tokenizer.fingerprint:
        raise RunError(f"--tokenizer {command.tokenizer}: another one made {train}")
    if command.preset and tokenizer.vocab_size > VOCAB_SIZE:
        raise RunError(
            f"--preset {command.preset} has {VOCAB_SIZE:,} rows of an embedding; expected a "
            f"tokenizer of at most as many, got {tokenizer.vocab_size:,}"
        )
    return tokenizer.vocab_size


def _tables(command: PlanCommand, rules: list[Rule]) -> dict[str, dict[str, Any]]:
    """The tables of the run file."""
    data, name = command.data, command.write.stem if command.write else "run"
    tables: dict[str, dict[str, Any]] = {
        "model": {},
        "data": {"datasets": [{"path": str(data / "train")}], "tokenizer": command.tokenizer},
        "optim": {},
        "train": {"output": f"runs/{name}"},
    }
    if (data / "valid" / "manifest.json").is_file():
        tables["data"]["valid"] = str(data / "valid")
    for rule in rules:
        table, _, key = rule.key.partition(".")
        tables[table][key] = rule.value
    return tables


def _line(rule: Rule) -> str:
    return f"{rule.key} = {json.dumps(rule.value)}"
