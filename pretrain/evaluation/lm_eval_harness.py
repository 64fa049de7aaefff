"""Evaluation of models on lm-eval tasks, by name or YAML file.

Nothing goes online unless a task itself downloads something.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from data_pipeline.tokenizer import continuation
from pretrain.commands import EvaluateCommand
from pretrain.errors import RunError
from pretrain.evaluation.text import DEFAULT_WINDOW, carried_nll
from pretrain.huggingface.load import Pretrained, load_pretrained
from pretrain.huggingface.wrap import wrap

try:
    import lm_eval
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise RunError(f"--tasks needs lm-eval ({error}): pip install 'lm-eval'") from error


class HarnessModel(TemplateLM):
    """A loaded model under lm-eval's interface: log-likelihoods and generation.

    Every text begins a document, as in training: BOS comes first.
    """

    def __init__(self, loaded: Pretrained, window: int):
        super().__init__()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.loaded, self.window = loaded, window
        self.spectral = loaded.model.to(self._device)
        self.wrapped = wrap(self.spectral, loaded.tokenizer)

    @property
    def eot_token_id(self) -> int:
        """Id of the end of a document."""
        return self.loaded.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Id that stands for an empty context: BOS."""
        return self.loaded.tokenizer.bos_id

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text, without BOS."""
        del add_special_tokens
        return self.loaded.tokenizer.encode(string)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        scores = []
        for request in requests:
            context, continuation = request[1:]
            prefix = [] if context[:1] == [self.prefix_token_id] else [self.prefix_token_id]
            ids = torch.tensor([*prefix, *context, *continuation], device=self._device)
            count = len(continuation)
            if not count:
                # its letters are part of the context's last token
                scores.append((0.0, True))
                continue
            logits = self.spectral.prefill(ids[None, :-1], num_logits=count)[0]
            log_probabilities = logits[0].float().log_softmax(-1)
            labels = ids[-count:]
            total = float(log_probabilities.gather(1, labels[:, None]).double().sum())
            scores.append((total, bool(log_probabilities.argmax(-1).equal(labels))))
        return scores

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, with the state carried through each."""
        del disable_tqdm
        totals = []
        for request in requests:
            ids = [self.prefix_token_id, *self.tok_encode(request.args[0])]
            tokens = torch.tensor(ids, device=self._device)
            nll = carried_nll(self.spectral, tokens, self.window)
            totals.append(-float(nll.double().sum()))
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, each up to the first of its stop texts."""
        del disable_tqdm
        answers = []
        for request in requests:
            text, options = request.args
            until = options.get("until") or []
            stops = [until] if isinstance(until, str) else list(until)
            prompt = torch.tensor(
                [[self.prefix_token_id, *self.tok_encode(text)]], device=self._device
            )
            tokens = self.wrapped.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=int(options.get("max_gen_toks", 256)),
                do_sample=False,
            )
            last, new = int(prompt[0, -1]), tokens[0, prompt.shape[1] :].tolist()
            answer = continuation(self.loaded.tokenizer, last, new)
            for stop in stops:
                answer = answer.split(stop)[0] if stop else answer
            answers.append(answer)
        return answers


def evaluate_tasks(command: EvaluateCommand) -> str:
    """Results of all tasks, one line per metric.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        RunError: lm-eval knows no such task, or a YAML file describes none.
    """
    loaded = load_pretrained(command.checkpoint)
    window = command.sequence_length or (
        loaded.run.data.sequence_length if loaded.run else DEFAULT_WINDOW
    )
    files = [Path(task) for task in command.tasks if task.endswith((".yaml", ".yml"))]
    names = [_task_name(Path(t)) if Path(t) in files else t for t in command.tasks]
    manager = TaskManager(include_path=sorted({str(file.resolve().parent) for file in files}))
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise RunError(f"--tasks: lm-eval knows no {', '.join(unknown)}")
    results = lm_eval.simple_evaluate(
        model=HarnessModel(loaded, window),
        tasks=names,
        task_manager=manager,
        limit=command.limit or None,
        bootstrap_iters=0,
        log_samples=False,
    )
    lines = []
    for task, numbers in results["results"].items():
        for key, value in numbers.items():
            metric, _, filter_name = key.partition(",")
            if isinstance(value, float) and filter_name and not metric.endswith("_stderr"):
                lines.append(f"{task}: {metric} {value:.6f}")
    return "\n".join(lines) or json.dumps(results["results"])


def _task_name(file: Path) -> str:
    try:
        # only the name: lm-eval reads everything else, with the functions that it may refer to
        events = yaml.compose(file.read_text(encoding="utf-8"))
        table = {key.value: value.value for key, value in events.value}  # type: ignore[union-attr]
        return str(table["task"])
    except (yaml.YAMLError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: expected a task of lm-eval with a name ({error!r})") from error
