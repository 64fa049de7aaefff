"""`resonance checkpoint export --format onnx`: a step of decoding for ONNX Runtime.

The state goes in and out and has a constant size, so a program in any language decodes with it; a
prompt is read token by token.

Shape letters: B rows, T tokens, V vocabulary.
"""

import contextlib
import json
import logging
import shutil
import sys
import uuid
import warnings
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from pretrain.commands import ExportCommand
from pretrain.errors import RunError
from pretrain.huggingface.load import load_pretrained
from pretrain.huggingface.tokenizer import huggingface_tokenizer
from spectral.decoding import greedy_tokens
from spectral.lm import SpectralLM
from spectral.real_step import RealStep, empty_state, real_step_problems

MODEL = "model.onnx"
# names, shapes and special ids, for programs that call the model
INTERFACE = "interface.json"
PROBE_TOKENS = 64
# float32 sums in another order, for logits of the order of 10
MAX_LOGIT_ERROR = 1e-4
# largest file of ONNX without parameters beside it
MAX_BYTES = 1 << 30


class OnnxReport(NamedTuple):
    """An export that was compared with its model.

    Attributes:
        output: The folder.
        state_bytes: Bytes of the state of a row.
        max_logit_error: Largest difference of the logits after a prompt.
    """

    output: Path
    state_bytes: int
    max_logit_error: float

    def __str__(self) -> str:
        return (
            f"{self.output / MODEL}: a step, {self.state_bytes:,} bytes of state a row; in ONNX "
            f"Runtime, logits differ by at most {self.max_logit_error:.1e} and {PROBE_TOKENS} "
            "greedy tokens are equal"
        )


class OnnxDecoder:
    """An exported step in ONNX Runtime on the CPU, with the state of some rows.

    Args:
        folder: The exported folder.
        batch: Number of rows B.
    """

    def __init__(self, folder: Path, batch: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            folder / MODEL, options, providers=["CPUExecutionProvider"]
        )
        table = json.loads((folder / INTERFACE).read_text(encoding="utf-8"))
        self._names = [entry["name"] for entry in table["state"]]
        shapes = [(batch, *entry["shape"]) for entry in table["state"]]
        self.state: list[Any] = [np.zeros(shape, np.float32) for shape in shapes]
        self.position = 0

    def step(self, token_B: Any) -> Any:
        """Logits [B, V] of the token after these."""
        inputs = {"token": token_B, "position": np.array([self.position])}
        logits_BV, *self.state = self._session.run(
            None, inputs | dict(zip(self._names, self.state, strict=True))
        )
        self.position += 1
        return logits_BV

    def greedy(self, prompt_BT: Any, count: int, num_ids: int | None = None) -> Any:
        """The likeliest `count` tokens after a prompt: [B, count]."""
        for token_B in prompt_BT.T:
            logits_BV = self.step(token_B)
        tokens = []
        for _ in range(count):
            tokens.append(logits_BV[:, :num_ids].argmax(-1))
            logits_BV = self.step(tokens[-1])
        return np.stack(tokens, axis=1)


def export_onnx(command: ExportCommand) -> OnnxReport:
    """Write a folder with model.onnx, tokenizer and interface.json, and compare it first.

    Raises:
        RunError: A library is missing, the model has no such form, or the runtime's output differs.
        CheckpointError: The checkpoint is missing or damaged.
    """
    _require_libraries()
    model, tokenizer = load_pretrained(command.checkpoint)[:2]
    for problem in real_step_problems(model):
        raise RunError(f"--format onnx: {problem}. --format huggingface takes every model")
    output = command.output
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.mkdir(parents=True)
        write_onnx(model, tokenizer, partial)
        error = _prove(model, tokenizer, partial)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    state_bytes = sum(4 * tensor.numel() for tensor in empty_state(model))
    return OnnxReport(output, state_bytes, error)


def write_onnx(model: SpectralLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files of an export into a folder."""
    # two rows: torch.export takes a size of one for a constant
    state = empty_state(model, 2)
    names = [f"state_{index}" for index in range(len(state))]
    batch = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
    arguments = (torch.zeros(2, dtype=torch.long), torch.zeros(1, dtype=torch.long), *state)
    shapes = (batch, None, tuple(batch for _ in state))
    with _quiet(), torch.no_grad():
        program = torch.export.export(RealStep(model).eval(), arguments, dynamic_shapes=shapes)
        onnx_program: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["token", "position", *names],
            output_names=["logits", *(f"new_{name}" for name in names)],
        )
        size = sum(4 * parameter.numel() for parameter in model.parameters())
        onnx_program.save(folder / MODEL, external_data=size > MAX_BYTES)
    interface = {
        "inputs": "token int64 [batch], position int64 [1], then the state, zeros at the beginning",
        "outputs": "logits float32 [batch, vocab_size], then the new state",
        "state": [
            {"name": name, "shape": list(tensor.shape[1:])}
            for name, tensor in zip(names, state, strict=True)
        ],
        "vocab_size": model.config.vocab_size,
        "tokenizer_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
    }
    (folder / INTERFACE).write_text(json.dumps(interface, indent=1), encoding="utf-8")
    huggingface_tokenizer(tokenizer).save_pretrained(folder)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep what torch's exporter prints and warns of to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


@torch.no_grad()
def _prove(model: SpectralLM, tokenizer: Tokenizer, folder: Path) -> float:
    """The largest difference of logits.

    Raises:
        RunError: It is more than rounding, or greedy tokens differ.
    """
    generator = torch.Generator().manual_seed(0)
    length = 2 * max(model.config.conv_chunk, model.config.recall_chunk) + 1
    prompt = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    decoder = OnnxDecoder(folder, 2)
    for token_B in prompt.T:
        found = decoder.step(token_B.numpy())
    expected: Tensor = model(prompt)[:, -1]
    error = float((torch.from_numpy(found) - expected).abs().max())
    if not error <= MAX_LOGIT_ERROR:
        raise RunError(
            f"{folder}: logits of ONNX Runtime differ by {error:.1e}; expected "
            f"{MAX_LOGIT_ERROR:.0e}"
        )
    stream = greedy_tokens(model, prompt, tokenizer.vocab_size)
    wanted = torch.stack(list(islice(stream, PROBE_TOKENS)), dim=1)
    tokens = OnnxDecoder(folder, 2).greedy(prompt.numpy(), PROBE_TOKENS, tokenizer.vocab_size)
    if not torch.equal(torch.from_numpy(tokens), wanted):
        raise RunError(f"{folder}: greedy tokens of ONNX Runtime differ")
    return error


def _require_libraries() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError as error:
            raise RunError(
                f"--format onnx needs {name}: pip install onnx onnxscript onnxruntime"
            ) from error
