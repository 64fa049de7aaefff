"""`resonance chat`: a conversation whose replies are shown while they are generated.

The history costs nothing: the model's state has constant size and is kept between turns.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from data_pipeline.build.text_pieces import decode_utf8
from data_pipeline.errors import DataError
from data_pipeline.tokenizer import continuation
from pretrain.commands import ChatCommand
from pretrain.errors import RunError
from pretrain.generation.writer import Streamer, Writer
from pretrain.huggingface.load import load_pretrained

HELP = "/reset forgets the conversation, /quit or the end of input ends it"


class Conversation:
    """A conversation.

    State: its tokens, and the model's cache of all but the last few.
    """

    def __init__(self, writer: Writer, command: ChatCommand):
        self.writer, self.command = writer, command
        self.reset()

    def reset(self) -> None:
        """Start a new conversation."""
        self.tokens: list[int] = [self.writer.tokenizer.bos_id]
        self.cache: Any = None

    def say(self, text: str, write: Callable[[str], object]) -> str:
        """The model's reply to a text.

        Args:
            text: The user's turn.
            write: Receives the reply piece by piece, while it is generated.
        """
        tokenizer, writer = self.writer.tokenizer, self.writer
        turn = f"{self.command.user}{text}{self.command.reply}"
        self.tokens += writer.encode(turn, "input")[1:]
        prompt = torch.tensor([self.tokens], device=writer.device)
        decode = functools.partial(continuation, tokenizer, self.tokens[-1])
        stop = StopAtText(self.command.stop, decode, len(self.tokens))
        output = writer.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=self.cache,
            return_dict_in_generate=True,
            streamer=Streamer(tokenizer, write),
            stopping_criteria=StoppingCriteriaList([stop]),
            **writer.options,
        )
        self.cache = output.past_key_values
        answer = output.sequences[0, len(self.tokens) :].tolist()
        self.tokens += answer
        return decode(answer)


class StopAtText(StoppingCriteria):
    """A stop of generation once a text was generated."""

    def __init__(self, text: str, decode: Callable[[list[int]], str], prompt_tokens: int):
        self.text, self.decode, self.prompt_tokens = text, decode, prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        """Whether each row has reached its end [B]."""
        del scores
        new = input_ids[:, self.prompt_tokens :].tolist()
        has_ended = [bool(self.text) and self.text in self.decode(row) for row in new]
        return torch.tensor(has_ended, device=input_ids.device)


def chat(command: ChatCommand) -> None:
    """Reply to the turns on standard input until it ends (`resonance chat`).

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        RunError: The options do not suit a conversation, or turns were not UTF-8.
    """
    if command.beams > 1:
        raise RunError(
            f"--beams is {command.beams}; expected 1: beams cannot be shown before they end"
        )
    conversation = Conversation(Writer(load_pretrained(command.checkpoint), command), command)
    if sys.stdin.isatty():
        print(HELP)
    num_bad = 0
    for number, (offset, line) in enumerate(_lines(), 1):
        try:
            text = decode_utf8(line, offset).removesuffix("\n").removesuffix("\r")
        except DataError as error:
            print(f"input, line {number}: {error}; expected UTF-8 text", file=sys.stderr)
            num_bad += 1
            continue
        match text.strip():
            case "":
                continue
            case "/quit":
                break
            case "/reset":
                conversation.reset()
            case _:
                conversation.say(text, _show)
                print(flush=True)
    if num_bad:
        raise RunError(f"{num_bad} lines of the input were not UTF-8 and were left out")


def _lines() -> Iterator[tuple[int, bytes]]:
    """The lines of standard input with their byte offsets."""
    offset = 0
    while True:
        try:
            line = _typed() if sys.stdin.isatty() else sys.stdin.buffer.readline()
        except EOFError:
            return
        if not line:
            return
        yield offset, line
        offset += len(line)


def _typed() -> bytes:
    # `input` lets the line be edited
    return input("> ").encode(errors="surrogateescape") + b"\n"


def _show(text: str) -> None:
    print(text, end="", flush=True)
