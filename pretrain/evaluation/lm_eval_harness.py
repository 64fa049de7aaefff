"""Evaluation of models on lm-eval tasks, by name or YAML file.

Nothing goes online unless a task itself downloads something.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import yaml

from data_pipeline.tokenizer import continuation
from pretrain.commands import EvaluateCommand
from pretrain.errors import RunError
from pretrain.evaluation.text import DEFAULT_WINDOW, carried_nll
from pretrain.huggingface.load import Pretrained, load_pretrained
from pretrain.huggingface.wrap import wrap
from pretrain.resilience.stop_signals import StopPoll
from pretrain.runtime.ranks import Ranks, gathered_objects

try:
    import lm_eval
    from lm_eval.api.model import TemplateLM
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise RunError(f"lm-eval's tasks need lm-eval ({error}): pip install 'lm-eval'") from error

T = TypeVar("T")
# requests of a rank between two looks at signals
PIECE = 32


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


class RanksModel(HarnessModel):
    """A model that is whole on every rank, each of which answers a part of the requests.

    Its methods are collectives of all ranks, with the same requests.
    """

    def __init__(self, loaded: Pretrained, window: int, poll: StopPoll, ranks: Ranks):
        super().__init__(loaded, window)
        self._poll, self._place = poll, ranks

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return self._shared(super()._loglikelihood_tokens, requests)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, with the state carried through each."""
        del disable_tqdm
        return self._shared(super().loglikelihood_rolling, requests)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, each up to the first of its stop texts."""
        del disable_tqdm
        return self._shared(super().generate_until, requests)

    def _shared(self, answer: Callable[[Any], list[T]], requests: Sequence[Any]) -> list[T]:
        """Answers to all requests; a signal to stop is noticed between pieces of them."""
        rank, size = self._place.rank, self._place.world_size
        pieces = [
            requests[begin : begin + PIECE * size]
            for begin in range(0, len(requests), PIECE * size)
        ]
        answers: list[T] = []
        for piece in self._poll.polled(pieces):
            parts = gathered_objects(answer(piece[rank::size]))
            merged: list[Any] = [None] * len(piece)
            for first, part in enumerate(parts):
                merged[first::size] = part
            answers += merged
        return answers


class Tasks(NamedTuple):
    """Tasks that lm-eval has.

    Attributes:
        names: Their names.
        manager: Index of all tasks.
    """

    names: list[str]
    manager: TaskManager


def open_tasks(tasks: Sequence[str], option: str) -> Tasks:
    """Tasks by name or YAML file.

    Args:
        tasks: Names and files.
        option: The option or key that lists them.

    Raises:
        RunError: lm-eval knows no such task, or a YAML file describes none.
    """
    files = [Path(task) for task in tasks if task.endswith((".yaml", ".yml"))]
    names = [_task_name(Path(t)) if Path(t) in files else t for t in tasks]
    manager = TaskManager(include_path=sorted({str(file.resolve().parent) for file in files}))
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise RunError(f"{option}: lm-eval knows no {', '.join(unknown)}")
    return Tasks(names, manager)


def results_of(model: HarnessModel, tasks: Tasks, limit: int) -> dict[str, Any]:
    """lm-eval's results of each task.

    Args:
        model: The model.
        tasks: The tasks.
        limit: Samples per task; 0 for all.
    """
    results = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks.names,
        task_manager=tasks.manager,
        limit=limit or None,
        bootstrap_iters=0,
        log_samples=False,
    )
    table: dict[str, Any] = results["results"]
    return table


def metrics_of(results: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Task, metric and value of results; no standard errors."""
    for task, numbers in results.items():
        for key, value in numbers.items():
            metric, _, filter_name = key.partition(",")
            if isinstance(value, float) and filter_name and not metric.endswith("_stderr"):
                yield task, metric, value


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
    tasks = open_tasks(command.tasks, "--tasks")
    results = results_of(HarnessModel(loaded, window), tasks, command.limit)
    lines = [f"{task}: {metric} {value:.6f}" for task, metric, value in metrics_of(results)]
    return "\n".join(lines) or json.dumps(results)


def _task_name(file: Path) -> str:
    try:
        # only the name: lm-eval reads everything else, with the functions that it may refer to
        events = yaml.compose(file.read_text(encoding="utf-8"))
        table = {key.value: value.value for key, value in events.value}  # type: ignore[union-attr]
        return str(table["task"])
    except (yaml.YAMLError, KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: expected a task of lm-eval with a name ({error!r})") from error
