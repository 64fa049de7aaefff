"""transformers' server answers OpenAI's client from an exported folder."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from openai import OpenAI
from transformers import AutoTokenizer

from data_pipeline.tokenizer import load_tokenizer
from pretrain.huggingface.export import _write
from spectral.lm import SpectralLM
from tests.e2e.commands import ENVIRONMENT
from tests.unit.pretrain.huggingface.models import small_config

pytestmark = pytest.mark.slow
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


class Server:
    """A server process and its client."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]):
        self.folder, self.process = str(folder), process
        self.client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60)

    @property
    def bytes(self) -> int:
        """Resident memory of the process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def ask(self, text: str, tokens: int, stream: bool = False) -> str:
        """The answer to a message."""
        answer = self.client.chat.completions.create(
            model=self.folder,
            messages=[{"role": "user", "content": text}],
            max_tokens=tokens,
            temperature=0.0,
            stream=stream,
        )
        if not stream:
            return answer.choices[0].message.content or ""
        return "".join(part.choices[0].delta.content or "" for part in answer if part.choices)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served") / "model"
    torch.manual_seed(0)
    _write(folder, SpectralLM(small_config(vocab_size=259)).eval(), load_tokenizer("byte"))
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(folder / "serve.py"), "--host", "127.0.0.1"]
    log = folder.with_name("log")
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu"],
            stdout=stream,
            stderr=stream,
            env=ENVIRONMENT | {"HF_HUB_OFFLINE": "1"},
        )
    server = Server(folder, port, process)
    try:
        for _ in range(200):
            assert process.poll() is None, log.read_text()[-3_000:]
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_answers_are_the_same_with_and_without_streaming(server: Server) -> None:
    whole = server.ask("a question", 12)
    assert whole
    assert server.ask("a question", 12, stream=True) == whole


def test_memory_does_not_grow_with_the_context(server: Server) -> None:
    server.ask("short", 200)
    before = server.bytes
    server.ask("short", 2_000)
    assert server.bytes - before < 30_000_000
