"""Export of a checkpoint to a Hugging Face folder, with a proof that its output is equal."""

import contextlib
import os
import shutil
import sys
import unicodedata
import uuid
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_pipeline.tokenizer import Tokenizer, load_tokenizer
from pretrain.checkpoint.catalog import tokenizer_path
from pretrain.checkpoint.load import load_model
from pretrain.commands import ExportCommand
from pretrain.errors import RunError
from pretrain.huggingface.encoder_export import export_encoder, is_encoder
from pretrain.huggingface.load import import_model
from pretrain.huggingface.model_card import Proof, model_card, training_lines
from pretrain.huggingface.onnx_export import OnnxReport, export_onnx
from pretrain.huggingface.source_bundle import bundled_sources
from pretrain.huggingface.tokenizer import huggingface_tokenizer
from pretrain.huggingface.wrap import wrap
from pretrain.parallel.split_model import empty_model
from spectral.config import ModelConfig
from spectral.decoding import greedy_tokens
from spectral.encoder import SpectralEncoder
from spectral.lm import SpectralLM

# float32 sums in another order, for logits of the order of 10
MAX_LOGIT_ERROR = 1e-4
MAX_SHARD = "5GB"
# starts transformers' server with the model of its folder
SERVER = Path(__file__).with_name("serve.py")
# new tokens of the greedy comparison
PROBE_TOKENS = 64
# blanks of every kind, controls, and what normalisers change
PROBE_BLANKS = "".join(
    chr(code)
    for code in range(0x110000)
    if unicodedata.category(chr(code)) in ("Zs", "Zl", "Zp", "Cc", "Cf")
)
PROBE_TEXTS = (
    'def main(argv):\n    """Return 0.  Naïve π ≈ 3.14."""\n\treturn 0\n',
    f" \u2581\u2581 {PROBE_BLANKS}",
    " ".join(PROBE_BLANKS),
    "x".join(PROBE_BLANKS),
    "\ufeffe\u0301 \u0301\u1100\u1161\u11a8 \ufb01 \uff21\u212b 👩\u200d👩\u200d👧 "
    "\u202eaaaaaaa aaaa\r\n\r\n   ",
)


class ExportReport(NamedTuple):
    """An export that was loaded back and compared.

    Attributes:
        output: The exported folder.
        num_parameters: Number of parameters.
        proof: Result of the comparison.
    """

    output: Path
    num_parameters: int
    proof: Proof

    def __str__(self) -> str:
        return (
            f"{self.output}: {self.num_parameters:,} parameters; loaded back through transformers: "
            f"logits of 2 x {self.proof.probe_tokens} tokens differ by at most "
            f"{self.proof.max_logit_error:.1e}, "
            f"{self.proof.greedy_tokens} greedy tokens equal, same token ids"
        )


def export(command: ExportCommand) -> ExportReport | OnnxReport | str:
    """Write a folder, load it back, compare, and only then rename (`resonance checkpoint export`).

    Returns:
        A printable report.

    Raises:
        RunError: The folder exists, or the model that was loaded back differs.
        CheckpointError: The checkpoint is missing or damaged.
    """
    output = command.output
    transformers.utils.logging.disable_progress_bar()
    if os.path.lexists(output):
        raise RunError(f"{output}: exists; expected a new folder")
    if command.format == "onnx":
        return export_onnx(command)
    model, run, checkpoint = load_model(command.checkpoint)
    if run.model.source_layers:
        raise RunError(
            f"{checkpoint}: a text-to-text model, which has no exported form yet; expected a "
            "language model, an encoder or a classifier"
        )
    tokenizer = load_tokenizer(tokenizer_path(checkpoint))
    # a folder of its own, beside the target; transformers makes a module name of the inner name
    beside = output.with_name(f".{output.name}.{uuid.uuid4().hex}.partial")
    partial = beside / f"{output.name}_partial"
    try:
        if is_encoder(run.model):
            encoder_proof = export_encoder(partial, cast(SpectralEncoder, model), tokenizer, run)
            partial.rename(output)
            return f"{output}: {encoder_proof}"
        _write(partial, model, tokenizer)
        expected = observe(model, tokenizer)
        # one model at a time is in memory
        del model
        proof = prove(expected, tokenizer, partial)
        card = model_card(
            empty_model(run.model),
            tokenizer,
            checkpoint,
            proof,
            training_lines(run, checkpoint),
            command.license,
        )
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.rename(output)
    except SafetensorError as error:
        raise RunError(
            f"{partial}: cannot be written: {error}; expected room on the disk"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    num_parameters = sum(p.numel() for p in empty_model(run.model).parameters())
    return ExportReport(output, num_parameters, proof)


def probe_length(config: ModelConfig) -> int:
    """Tokens of the compared rows: an odd number, and more than two chunks of every mixer.

    Only then do carried states reach another chunk, and is the last chunk cut.
    """
    chunks = [config.conv_chunk, config.recall_chunk, *dict(config.chunk_units()).values()]
    return 2 * max(chunks) + PROBE_TOKENS // 2 + 1


class Observed(NamedTuple):
    """Output of the training model that an exported folder must reproduce.

    Attributes:
        probe: Random tokens [2, T].
        logits: Their logits.
        prompt: Ids of a prompt.
        continued: The likeliest tokens after it.
    """

    probe: Tensor
    logits: Tensor
    prompt: list[int]
    continued: list[int]


@torch.no_grad()
def observe(model: SpectralLM, tokenizer: Tokenizer) -> Observed:
    """Output of a model on the probes."""
    generator = torch.Generator().manual_seed(0)
    length = probe_length(model.config)
    probe = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    prompt = [tokenizer.bos_id, *tokenizer.encode(PROBE_TEXTS[0])]
    stream = greedy_tokens(model, torch.tensor([prompt]), tokenizer.vocab_size)
    continued = [int(token) for token in islice(stream, PROBE_TOKENS)]
    return Observed(probe, model(probe), prompt, continued)


@torch.no_grad()
def prove(expected: Observed, tokenizer: Tokenizer, folder: Path) -> Proof:
    """Compare an exported folder with the output of the model that it came from.

    Raises:
        RunError: Logits, greedy continuation or token ids differ.
    """
    if not torch.equal(import_model(folder)(expected.probe), expected.logits):
        raise RunError(f"{folder}: the model that is imported back has other logits")
    # accelerate, where it is installed, loads DeepSpeed, which prints
    with contextlib.redirect_stdout(sys.stderr):
        loaded = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    error = float((loaded(expected.probe).logits - expected.logits).abs().max())
    if not error <= MAX_LOGIT_ERROR:
        raise RunError(f"{folder}: logits differ by {error:.1e}; expected {MAX_LOGIT_ERROR:.0e}")
    _prove_tokenizer(tokenizer, folder)
    prompt = torch.tensor([expected.prompt])
    loaded.generation_config.eos_token_id = None
    continued = loaded.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=PROBE_TOKENS,
        do_sample=False,
    )
    continued = continued[0, prompt.shape[1] :].tolist()
    if continued != expected.continued:
        raise RunError(
            f"{folder}: greedy generation differs: {continued[:8]} and {expected.continued[:8]}"
        )
    return Proof(error, expected.probe.shape[1], len(continued))


def _prove_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Compare the tokenizer of an exported folder with that of training.

    Raises:
        RunError: Ids differ.
    """
    exported = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    again = load_tokenizer(str(folder))
    expected = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in PROBE_TEXTS]
    for text, ids in zip(PROBE_TEXTS, expected, strict=True):
        for name, other in (
            ("exported tokenizer", exported.encode(text)),
            ("tokenizer that is imported back", [again.bos_id, *again.encode(text)]),
        ):
            if other != ids:
                raise RunError(
                    f"{folder}: the {name} gives {len(other)} ids for {text[:40]!r}...; expected "
                    f"the {len(ids)} of training. Its tokenizer has no equal form in transformers."
                )


def _write(folder: Path, model: SpectralLM, tokenizer: Tokenizer) -> None:
    exported = wrap(model, tokenizer)
    exported.save_pretrained(folder, max_shard_size=MAX_SHARD)
    for name, text in bundled_sources().items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copyfile(SERVER, folder / SERVER.name)
    huggingface_tokenizer(tokenizer).save_pretrained(folder)
