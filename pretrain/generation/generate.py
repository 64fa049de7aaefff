"""`resonance generate`: continuations of a prompt, or of a file of prompts."""

import json
from pathlib import Path

from data_pipeline.errors import WriteError
from data_pipeline.input_files import parse_json
from data_pipeline.storage.atomic import write_text_atomically
from pretrain.commands import GenerateCommand
from pretrain.errors import RunError
from pretrain.generation.writer import Writer
from pretrain.huggingface.load import load_pretrained


def generate(command: GenerateCommand) -> str:
    """The prompt and its continuation, or a JSON line per prompt of a file (`resonance generate`).

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        RunError: A prompt is not UTF-8, or the options contradict one another.
        WriteError: --output cannot be written; its lines are printed.
    """
    if command.prompts and command.prompt:
        raise RunError("--prompt and --prompts: expected one of them")
    if command.output and not command.prompts:
        raise RunError("--output: expected --prompts with it; one continuation is printed")
    writer = Writer(load_pretrained(command.checkpoint), command)
    if command.prompts is None:
        prompt = writer.encode(command.prompt, "--prompt")
        (tokens,) = writer.continued([prompt])
        return writer.tokenizer.decode([*prompt, *tokens])
    texts = read_prompts(command.prompts)
    prompts = [writer.encode(text, str(command.prompts)) for text in texts]
    size = command.batch_size if writer.pads else 1
    lines = []
    for first in range(0, len(texts), size):
        for text, tokens in zip(
            texts[first : first + size],
            writer.continued(prompts[first : first + size]),
            strict=True,
        ):
            completion = writer.tokenizer.decode(tokens)
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
        RunError: There are none, or a line is no such JSON.
    """
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise RunError(f"{file}: expected UTF-8 text ({error})") from error
    if not lines:
        raise RunError(f"{file}: expected a prompt per line, found none")
    if file.suffix != ".jsonl":
        return lines
    prompts = []
    for number, line in enumerate(lines, start=1):
        try:
            prompts.append(str(parse_json(line, f"{file}:{number}")["prompt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f'{file}:{number}: expected {{"prompt": "..."}} ({error!r})') from error
    return prompts
