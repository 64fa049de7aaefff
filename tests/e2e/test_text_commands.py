"""`resonance generate` and `chat`, from a checkpoint and from an exported folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from pretrain.errors import CheckpointError
from pretrain.huggingface.load import load_pretrained
from tests.conftest import SmallCorpus
from tests.e2e.commands import resonance

PROMPTS = ["def ", "class Decoder:\n", 'ünï "\u00e9" ', "import json"]


@pytest.fixture(scope="module")
def trained(small_corpus: SmallCorpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_file = small_corpus.run_file(
        tmp_path_factory.mktemp("trained") / "run.toml", workers=0, steps=12, micro_batch_size=4
    )
    resonance("pretrain", run_file)
    return run_file.parent / "run"


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    output = trained.parent / "exported"
    resonance("checkpoint", "export", trained, output)
    return output


def test_what_is_imported_back_is_the_same_model(trained: Path, exported: Path) -> None:
    one, other = load_pretrained(trained), load_pretrained(exported)
    for text in PROMPTS:
        assert one.tokenizer.encode(text) == other.tokenizer.encode(text)
        assert one.tokenizer.decode(one.tokenizer.encode(text)) == text
    for length in (1, 33, 4_096):
        generator = torch.Generator().manual_seed(length)
        tokens = torch.randint(3, 500, (1, length), generator=generator)
        theirs = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
        with torch.no_grad():
            logits = one.model(tokens)
            assert torch.equal(other.model(tokens), logits)
            torch.testing.assert_close(theirs(tokens).logits, logits, atol=1e-4, rtol=0)


def test_the_recurrent_form_equals_the_parallel_one(trained: Path) -> None:
    model = load_pretrained(trained).model
    tokens = torch.randint(3, 500, (1, 600), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(tokens)
        _, state = model.prefill(tokens[:, :1])
        for position in range(1, 600):
            logits, state = model.step(tokens[:, position], state)
            torch.testing.assert_close(logits, whole[:, position], atol=1e-4, rtol=0)


def test_a_pipeline_and_a_padded_batch(exported: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
    pipe = pipeline("text-generation", model=loaded, tokenizer=tokenizer)
    options = {"max_new_tokens": 8, "do_sample": False}
    together = pipe(PROMPTS, batch_size=4, **options)
    for prompt, (found,) in zip(PROMPTS, together, strict=True):
        assert found["generated_text"].startswith(prompt)
        assert found == pipe(prompt, **options)[0]


def test_checkpoint_and_export_write_the_same_text(
    trained: Path, exported: Path, tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    flags = ("--prompts", prompts, "--max-tokens", 10, "--temperature", 0)
    lines = [json.loads(line) for line in resonance("generate", trained, *flags).splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    output = tmp_path / "out.jsonl"
    resonance("generate", exported, *flags, "--output", output)
    same = 0
    for line, found in zip(lines, output.read_text().splitlines(), strict=True):
        # transformers gives up a whole run of bytes for one that is not UTF-8
        broken = "\ufffd" in line["completion"]
        same += not broken
        kept = ("prompt", "tokens") if broken else ("prompt", "completion", "tokens")
        assert {key: json.loads(found)[key] for key in kept} == {key: line[key] for key in kept}
    assert same
    alone = resonance("generate", trained, "--prompt", PROMPTS[0], *flags[2:])
    assert alone.rstrip("\n") == (PROMPTS[0] + lines[0]["completion"]).rstrip("\n")


def test_every_option_is_understood(trained: Path) -> None:
    flags = [
        *("--max-tokens", 8, "--min-tokens", 8, "--repetition-penalty", 1.5),
        *("--no-repeat-ngram", 2, "--coverage-penalty", 2.0),
    ]
    sampled = [
        resonance("generate", trained, *flags, "--top-k", 9, "--top-p", 0.9, "--seed", seed)
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    beams = ["--beams", 4, "--length-penalty", 0.5, "--early-stopping", "--temperature", 0]
    resonance("generate", trained, *flags, *beams)
    resonance("generate", trained, *flags, *beams, "--beam-groups", 2, "--diversity-penalty", 3.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beams", "4", "--beam-groups", "3"], "--beam-groups is 3; expected a divisor"),
        (["--min-tokens", "9", "--max-tokens", "8"], "--min-tokens is 9; expected at most"),
        (["--prompt", "a", "--prompts", "/nowhere"], "expected one of them"),
        (["--prompts", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_calls_are_explained(flags: list[str], message: str, trained: Path) -> None:
    printed = resonance("generate", trained, *flags, status=1)
    assert message in printed
    assert "Traceback" not in printed


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    printed = resonance("generate", tmp_path, status=1)
    assert "model_type is 'llama'; expected 'resonance'" in printed


def _cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _lose_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"ffn_dim": 64}))


def _run_code(folder: Path) -> None:
    """Code of the folder must not run; without weights, loading ends with an error."""
    code = f"open({str(folder / 'ran')!r}, 'w')\n"
    for file in folder.glob("*.py"):
        file.write_text(code + file.read_text())
    _lose_the_weights(folder)


@pytest.mark.parametrize("damage", [_cut_short, _lose_the_weights, _other_sizes, _run_code])
def test_a_damaged_export_is_refused(
    damage: Callable[[Path], None], exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "folder"))
    damage(folder)
    with pytest.raises(CheckpointError, match=r"does not fit its config\.json"):
        load_pretrained(folder)
    assert not (folder / "ran").exists()


def test_another_vocabulary_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "folder"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = range(len(tokenizer["model"]["vocab"]), 700)
    tokenizer["added_tokens"] += [
        {**tokenizer["added_tokens"][0], "id": id_, "content": f"<{id_}>"} for id_ in ids
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="700 ids; expected at most the model's vocab_size"):
        load_pretrained(folder)


def test_a_chat_remembers_and_forgets(trained: Path) -> None:
    def chat(*turns: str) -> str:
        flags = ("--temperature", 0, "--max-tokens", 6)
        return resonance("chat", trained, *flags, stdin="\n".join(turns))

    first = chat("def f(x):")
    assert first.strip()
    again = chat("def f(x):", "/reset", "def f(x):", "/quit", "never said")
    assert again == first * 2
    assert resonance("chat", trained, "--beams", 2, status=1).count("--beams is 2") == 1


def test_the_memory_of_a_chat_is_that_of_the_whole_conversation(trained: Path) -> None:
    from pretrain.commands import ChatCommand
    from pretrain.generation.chat import Conversation
    from pretrain.generation.writer import Writer

    command = ChatCommand(checkpoint=trained, temperature=0.0, max_tokens=7)
    writer = Writer(load_pretrained(trained), command)
    kept = Conversation(writer, command)
    shown: list[str] = []
    for text in ("def f(x):", "return x", "class A:"):
        before = [*kept.tokens, *writer.tokenizer.encode(f"User: {text}\nAssistant:")]
        answer = kept.say(text, shown.append)
        assert kept.tokens[: len(before)] == before
        assert writer.continued([before])[0] == kept.tokens[len(before) :]
        assert "".join(shown) == answer
        shown.clear()
