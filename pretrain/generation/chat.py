"""`resonance chat`: a conversation whose replies are shown while they are generated.

The history costs nothing: the model's state has constant size and is kept between turns.
"""

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

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
        stop = StopAtText(self.command.stop, tokenizer.decode, len(self.tokens))
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
        return tokenizer.decode(answer)


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
        RunError: The options do not suit a conversation.
    """
    if command.beams > 1:
        raise RunError(
            f"--beams is {command.beams}; expected 1: beams cannot be shown before they end"
        )
    conversation = Conversation(Writer(load_pretrained(command.checkpoint), command), command)
    if isinstance(sys.stdin, io.TextIOWrapper):
        # a line that is no UTF-8 is refused alone, and does not end the conversation
        sys.stdin.reconfigure(errors="surrogateescape")
    if sys.stdin.isatty():
        print(HELP)
    for text in _turns():
        if text == "/reset":
            conversation.reset()
            continue
        try:
            conversation.say(text, _show)
        except RunError as error:
            print(error, file=sys.stderr)
        print(flush=True)


def _turns() -> Iterator[str]:
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if text == "/quit":
            return
        if text:
            yield text


def _show(text: str) -> None:
    print(text, end="", flush=True)
