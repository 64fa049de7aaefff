"""`resonance generate`: continuations of a prompt, or of a file of prompts."""

import json
import string
from pathlib import Path

from data_pipeline.build.readers import read_documents
from data_pipeline.build.sources import format_of
from data_pipeline.config import ReadConfig
from data_pipeline.errors import WriteError
from data_pipeline.storage.atomic import write_text_atomically
from pretrain.commands import GenerateCommand
from pretrain.errors import RunError
from pretrain.generation.pairs import writer_of
from pretrain.huggingface.load import load_pretrained


def generate(command: GenerateCommand) -> str:
    """The text of `resonance generate`: a continuation, a target, or a JSON line per prompt.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        DataError: The file of prompts cannot be read.
        RunError: A prompt is not UTF-8, or the options contradict one another.
        WriteError: --output cannot be written; its lines are printed.
    """
    if command.prompts and command.prompt:
        raise RunError("--prompt and --prompts: expected one of them")
    if command.output and not command.prompts:
        raise RunError("--output: expected --prompts with it; one continuation is printed")
    writer = writer_of(load_pretrained(command.checkpoint), command)
    if command.prompts is None:
        prompt = writer.encode(command.prompt, "--prompt")
        (tokens,) = writer.continued([prompt])
        return writer.whole(prompt, tokens)
    texts = read_prompts(command.prompts)
    prompts = [writer.encode(text, str(command.prompts)) for text in texts]
    size = command.batch_size if writer.pads else 1
    lines = []
    for first in range(0, len(texts), size):
        batch = prompts[first : first + size]
        for text, prompt, tokens in zip(
            texts[first : first + size], batch, writer.continued(batch), strict=True
        ):
            completion = writer.completion(prompt, tokens)
            line = {"prompt": text, "completion": completion, "tokens": len(tokens)}
            lines.append(json.dumps(line, ensure_ascii=False))
    if command.output is None:
        return "\n".join(lines)
    try:
        write_text_atomically(command.output, "\n".join(lines) + "\n")
    except WriteError:
        # not lost with the file: they may have taken hours
        print("\n".join(lines), flush=True)
        raise
    return f"{command.output}: {len(lines)} continuations"


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file: one per line, or JSON lines with a `prompt`.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or a line is no such JSON.
        RunError: There are none.
    """
    read = ReadConfig(document="line", text_key="prompt")
    prompts = [document.text for document in read_documents(file, read)]
    if format_of(str(file), read) == "text":
        # the end of its line is no part of a prompt; all other characters are
        lines = (text.removesuffix("\n").removesuffix("\r") for text in prompts)
        prompts = [line for line in lines if line.strip(string.whitespace)]
    if not prompts:
        raise RunError(f"{file}: expected a prompt per line, found none")
    return prompts
