"""Fine-tuning of an exported folder by transformers' Trainer, TRL and PEFT."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from data_pipeline.tokenizer import load_tokenizer
from pretrain.huggingface.export import _write
from pretrain.huggingface.load import import_model
from spectral.lm import SpectralLM
from tests.unit.pretrain.huggingface.models import FEATURES, small_config

pytestmark = [
    # TRL and PEFT call functions that transformers has renamed
    pytest.mark.filterwarnings("ignore:.*activation_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*requires_grad=True to a scalar:UserWarning"),
]
TRUSTED: dict[str, Any] = {"trust_remote_code": True}
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROMPTS = ["one and one", "two and three", "a colour", "a beast", "north or south", "up"]
ANSWERS = ["two", "five", "blue", "an elk", "west", "down, of course"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(tmp_path_factory.mktemp("tuned") / "base")


def _export(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    model = SpectralLM(small_config(**changes, vocab_size=272)).eval()
    _write(folder, model, load_tokenizer("byte"))
    return folder


@pytest.fixture
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, **TRUSTED)


@pytest.fixture
def tokenizer(folder: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder, **TRUSTED)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _arguments(kind: Any, output: Path, **options: Any) -> Any:
    return kind(
        output_dir=str(output),
        per_device_train_batch_size=options.pop("per_device_train_batch_size", 2),
        max_steps=options.pop("max_steps", 2),
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        **{"bf16": False, **options},
    )


def _losses(trainer: Any) -> Iterator[float]:
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert found
    yield from found


def _rows(tokenizer: Any) -> list[dict[str, Any]]:
    """Rows of very different lengths, whose means are not the mean of all tokens."""
    texts = [prompt * (1 + 3 * index) for index, prompt in enumerate(PROMPTS[:4])]
    return [{"input_ids": (ids := tokenizer(text).input_ids), "labels": ids} for text in texts]


def _collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    pads = [width - len(row["input_ids"]) for row in rows]
    pairs = list(zip(rows, pads, strict=True))
    return {
        "input_ids": torch.tensor([[0] * pad + row["input_ids"] for row, pad in pairs]),
        "labels": torch.tensor([[-100] * pad + row["labels"] for row, pad in pairs]),
        "attention_mask": torch.tensor(
            [[0] * pad + [1] * len(row["input_ids"]) for row, pad in pairs]
        ),
    }


def test_accumulation_gives_the_same_losses_and_parameters(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    results = []
    for rows, accumulated in ((4, 1), (1, 4)):
        trained = copy.deepcopy(model)
        arguments = _arguments(
            TrainingArguments,
            tmp_path / str(rows),
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=accumulated,
            # Adam's first step has the sign of a gradient, however small
            optim="sgd",
        )
        trainer = Trainer(
            model=trained, args=arguments, train_dataset=_rows(tokenizer), data_collator=_collate
        )
        losses = list(_losses(trainer))
        norms = [e["grad_norm"] for e in trainer.state.log_history if "grad_norm" in e]
        results.append((losses, norms))
    # the log rounds to four digits
    one, other = (torch.tensor(result) for result in results)
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_sft_with_defaults_packing_and_completions(
    folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from trl import SFTConfig, SFTTrainer

    texts = Dataset.from_dict({"text": [p + a for p, a in zip(PROMPTS, ANSWERS, strict=True)]})
    pairs = Dataset.from_dict({"prompt": PROMPTS, "completion": ANSWERS})
    chats = Dataset.from_list(
        [
            {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": a}]}
            for p, a in zip(PROMPTS, ANSWERS, strict=True)
        ]
    )
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "defaults": (texts, {}),
        "packing": (texts, {"packing": True, "max_length": 24}),
        "completions": (pairs, {"completion_only_loss": True}),
        "padding-free": (pairs, {"padding_free": True}),
        "chats": (chats, {}),
    }
    for name, (data, options) in cases.items():
        arguments = _arguments(SFTConfig, tmp_path / name, model_init_kwargs=TRUSTED, **options)
        trainer = SFTTrainer(
            model=str(folder), args=arguments, train_dataset=data, processing_class=tokenizer
        )
        losses = list(_losses(trainer))
        assert all(math.isfinite(loss) for loss in losses), name
        assert 4.0 < losses[0] < 8.0, (name, losses)


@pytest.mark.slow
def test_packed_rows_have_the_loss_of_single_ones(model: Any, tokenizer: Any) -> None:
    from transformers import DataCollatorWithFlattening

    rows = [{"input_ids": tokenizer(text).input_ids} for text in PROMPTS]
    for row in rows:
        row["labels"] = list(row["input_ids"])
    options = {"return_flash_attn_kwargs": True, "return_seq_idx": True}
    packed = DataCollatorWithFlattening(**options)([dict(row) for row in rows])
    total = model(**packed, num_items_in_batch=1).loss
    single = sum(
        float(model(ids := torch.tensor([row["input_ids"]]), labels=ids, num_items_in_batch=1).loss)
        for row in rows
    )
    assert float(total) == pytest.approx(single, rel=1e-5)


@pytest.mark.slow
def test_dpo(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    data = Dataset.from_dict(
        {"prompt": PROMPTS, "chosen": ANSWERS, "rejected": list(reversed(ANSWERS))}
    )
    models = [AutoModelForCausalLM.from_pretrained(folder, **TRUSTED) for _ in range(2)]
    trainer = DPOTrainer(
        model=models[0],
        ref_model=models[1],
        args=_arguments(DPOConfig, tmp_path, max_steps=3),
        train_dataset=data,
        processing_class=tokenizer,
    )
    losses = list(_losses(trainer))
    # equal models: log 2, and less after steps
    assert losses[0] == pytest.approx(math.log(2.0), abs=1e-3)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("embedding", ["lora", "tokens"])
def test_adapters_train_and_merge(
    model: Any, tokenizer: Any, tmp_path: Path, embedding: str
) -> None:
    from peft import LoraConfig, get_peft_model

    targets = ["in_proj", "out_proj", "gate_up_proj", "down_proj", "decay_proj"]
    options: dict[str, Any] = {"trainable_token_indices": [5, 6]}
    if embedding == "lora":
        targets, options = [*targets, "embedding"], {}
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, **options))
    tokens = tokenizer(PROMPTS[2], return_tensors="pt").input_ids
    tokens[0, 2:4] = torch.tensor([5, 6])
    before = adapted(tokens, labels=tokens).loss
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    adapted.train()
    for _ in range(3):
        adapted(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval()
    trained = adapted(tokens, labels=tokens)
    assert trained.loss < before
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(tokens).logits, trained.logits, atol=2e-4, rtol=0.0)
    merged.save_pretrained(tmp_path / "merged")
    assert "auto_map" in json.loads((tmp_path / "merged" / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", **TRUSTED)
    torch.testing.assert_close(again(tokens).logits, merged(tokens).logits, atol=1e-6, rtol=0.0)


def test_tokens_of_a_chat_template_are_added_and_learned(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    chat = [{"role": "user", "content": "up"}, {"role": "assistant", "content": "down"}]
    tokens = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "chat", **TRUSTED).eval()
    prompt = tokenizer.apply_chat_template(
        chat[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**prompt, max_new_tokens=6, do_sample=False)
    text = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])
    assert text.startswith("down")
    assert import_model(tmp_path / "chat").config.vocab_size == len(tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_every_feature_set_is_fine_tuned(name: str, tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    folder = _export(tmp_path / f"base-{name}", **FEATURES[name])
    texts = Dataset.from_dict({"text": [p + a for p, a in zip(PROMPTS, ANSWERS, strict=True)]})
    arguments = _arguments(SFTConfig, tmp_path / "out", model_init_kwargs=TRUSTED, max_steps=4)
    tokenizer = AutoTokenizer.from_pretrained(folder, **TRUSTED)
    trainer = SFTTrainer(
        model=str(folder), args=arguments, train_dataset=texts, processing_class=tokenizer
    )
    losses = list(_losses(trainer))
    assert losses[-1] < losses[0]
