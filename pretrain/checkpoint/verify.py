"""`resonance checkpoint verify` and `inspect`: the soundness and the contents of a checkpoint."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

from rich.tree import Tree

from pretrain.checkpoint.catalog import find_checkpoint, is_named, step_of
from pretrain.checkpoint.certificate import check_certificate
from pretrain.checkpoint.deepspeed_state import VALUE
from pretrain.checkpoint.load import lacks_optimizer, load_model, read_state, require_room
from pretrain.checkpoint.manifest import MANIFEST, read_entries, read_manifest
from pretrain.checkpoint.save import TENSORS
from pretrain.checkpoint.tensor_reader import missing_elements, stored_pieces
from pretrain.commands import InspectCommand, VerifyCheckpointCommand
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.run_file import load_saved_run
from spectral.lm import SpectralLM


def verify(command: VerifyCheckpointCommand) -> str:
    """Run `resonance checkpoint verify`: hashes, shards, shapes, state and the model's outputs.

    Returns:
        The report of a sound checkpoint.

    Raises:
        CheckpointError: The checkpoint is damaged; the message lists every finding.
    """
    checkpoint = find_checkpoint(command.checkpoint)
    run = load_saved_run(checkpoint)
    findings = [
        *_unlisted(checkpoint),
        *missing_elements(checkpoint / TENSORS),
        *_shapes(checkpoint, run),
    ]
    findings += _state(checkpoint, run)
    if findings:
        raise CheckpointError(f"{checkpoint}: " + "; ".join(findings))
    model, _, _ = load_model(checkpoint)
    check_certificate(model, checkpoint, run)
    num_files = len(read_entries(checkpoint))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{checkpoint}: sound: all {num_files} files have their SHA-256, each element of "
        f"{parameters:,} parameters and of their optimizer states is there once, the state is "
        "consistent, and one process computes what the certificate says"
    )


def _unlisted(checkpoint: Path) -> Iterator[str]:
    """Files that loading would read, and whose hashes the manifest lacks."""
    listed = read_entries(checkpoint)
    names = ("run.toml", "state.json", "certificate.json", "tokenizer.model")
    files = [checkpoint / name for name in names]
    files += [*(checkpoint / TENSORS).rglob("*"), *(checkpoint / "tokenizer").rglob("*")]
    for file in files:
        if file.is_file() and str(file.relative_to(checkpoint)) not in listed:
            yield f"{file}: not in {MANIFEST}: its SHA-256 is unknown"


def _shapes(checkpoint: Path, run: RunConfig) -> Iterator[str]:
    """Names and shapes that differ from those of the model and optimizer in run.toml."""
    from pretrain.parallel.matrices import state_names
    from pretrain.parallel.split_model import empty_model

    stored = stored_pieces(checkpoint / TENSORS)
    require_room(run.model, len(stored), checkpoint / TENSORS, checkpoint / "run.toml")
    model: SpectralLM = empty_model(run.model)
    expected: dict[str, tuple[int, ...]] = {}
    state_of = state_names(run)
    has_optimizer = not lacks_optimizer(read_state(checkpoint))
    for name, parameter in model.named_parameters():
        kinds = (VALUE, *state_of(name)) if has_optimizer else (VALUE,)
        expected |= {f"{kind}/{name}": tuple(parameter.shape) for kind in kinds}
        if has_optimizer:
            expected[f"step/{name}"] = (1,)
    for name in sorted(set(stored) | set(expected)):
        found = stored[name][0] if name in stored else "nothing"
        if found != expected.get(name):
            yield f"{name}: found {found}; expected {expected.get(name, 'nothing')}"


def _state(checkpoint: Path, run: RunConfig) -> Iterator[str]:
    """Contradictions between step, schedule, seed and position in the data."""
    state = read_state(checkpoint)
    try:
        step, steps = int(state["step"]), int(state["schedule"]["steps"])
        read, seed = int(state["data"]["step"]), int(state["random"]["seed"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        yield f"state.json: expected step, schedule, data and random ({error!r})"
        return
    if is_named(checkpoint) and step_of(checkpoint) != step:
        yield f"state.json: step is {step}; expected that of the folder's name"
    if steps != step:
        yield f"state.json: the schedule is at {steps}; expected step {step}"
    if read < step:
        yield f"state.json: {read} steps of data were read; expected at least {step}"
    if seed != run.train.seed:
        yield f"state.json: random.seed is {seed}; expected run.toml's {run.train.seed}"


def inspect(command: InspectCommand) -> None:
    """Run `resonance checkpoint inspect`: print a tree of files, state and tensors.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged.
    """
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(tree(find_checkpoint(command.checkpoint)))


def tree(checkpoint: Path) -> Tree:
    """The contents of a checkpoint, for printing."""
    root = Tree(str(checkpoint))
    files = root.add("files")
    manifest = checkpoint / MANIFEST
    for name, entry in read_manifest(manifest.read_bytes(), manifest).items():
        files.add(f"{name}  {entry.bytes:,} bytes  {entry.sha256[:12]}")
    state = root.add("state")
    for key, value in read_state(checkpoint).items():
        text = json.dumps(value)
        state.add(f"{key}  {text if len(text) <= 100 else text[:97] + '...'}")
    stored = stored_pieces(checkpoint / TENSORS)
    kinds = ", ".join(dict.fromkeys(name.partition("/")[0] for name in stored))
    branches: dict[str, Tree] = {"": root.add(f"tensors: {kinds} of")}
    for name, (shape, pieces) in stored.items():
        kind, _, parameter = name.partition("/")
        if kind != VALUE:
            continue
        parent, _, leaf = parameter.rpartition(".")
        numel = math.prod(shape)
        text = f"{leaf}  {list(shape)}  {numel:,} in {pieces} piece{'s' * (pieces > 1)}"
        _branch(branches, parent).add(text)
    return root


def _branch(branches: dict[str, Tree], path: str) -> Tree:
    """The branch of a module, created if it does not exist."""
    if path not in branches:
        parent, _, name = path.rpartition(".")
        branches[path] = _branch(branches, parent).add(name)
    return branches[path]
