"""Training in layouts: losses, gradients and parameters, compared with those of one rank.

Models with gates train in float64: selection makes another choice of a few modes after a rounding
error, so two float32 runs of one layout drift apart as well, once one of them is disturbed by it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretrain.config import RunConfig
from pretrain.parallel.placement import Placement
from pretrain.run_file import load_run
from tests.conftest import SmallCorpus
from tests.distributed.differences import differences
from tests.distributed.features import EVERYTHING
from tests.distributed.ranks import run_ranks
from tests.labelled import labelled_texts

# ZeRO 2 and 3 reduce gradients in float32 at most, so gated models would choose other modes later
STEPS, GATED_STEPS = 10, 5
# both kinds of heads in every layer. By turns, a few of the embedding's 8,224 numbers end up to a
# fifth of a step apart on tensor ranks, where AdamW makes a step of a gradient's rounding error;
# gradients of that model are compared in float64 (test_split_model.py).
MODELS: dict[str, dict[str, object]] = {
    "plain": {"conv_heads": (2,)},
    "muon": {"conv_heads": (2,)},
    # of three stages, the one between has nothing but matrices that decays
    "muon stages": {"mixers": ("fft",), "num_layers": 3},
    "delta": {
        "conv_heads": (2,),
        "recall_rule": "delta",
        "recall_phase": "data",
        "recall_bias": True,
    },
    "everything": EVERYTHING,
    "encoder": {"conv_heads": (2,), "causal": False},
    "classifier": {"causal": False, "classes": 3, "mixers": ("heads", "fft"), "num_layers": 2},
}
OBJECTIVES = {"encoder": "masked_token", "classifier": "classify"}


class Layout(NamedTuple):
    """Ranks along each axis, ZeRO stage, rows of a pass, what is recomputed, where states are."""

    tensor: int = 1
    pipeline: int = 1
    sequence: int = 1
    data: int = 1
    zero: int = 1
    micro: int = 1
    recompute: str = "none"
    offload: bool = False
    states: str = "none"
    compiled: bool = False

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.sequence * self.data

    @property
    def name(self) -> str:
        return "-".join(f"{key}_{value}" for key, value in self._asdict().items())


# every other pair of values occurs
PAIRS = [
    Layout(data=2, zero=0, micro=2),
    Layout(data=2, zero=3, recompute="full", states="cpu"),
    Layout(sequence=2, zero=0, micro=2, recompute="selective", offload=True),
    Layout(sequence=2, zero=3, micro=2),
    Layout(tensor=2, zero=2, micro=2, recompute="selective", offload=True, states="cpu"),
    Layout(tensor=2, zero=0, recompute="full"),
    Layout(pipeline=2, micro=2, recompute="full"),
    Layout(tensor=2, data=2, zero=3, recompute="selective"),
    Layout(tensor=2, sequence=2, zero=2),
    Layout(pipeline=2, data=2, micro=2),
    Layout(pipeline=2, tensor=2, recompute="selective", offload=True),
    Layout(pipeline=2, sequence=2),
    Layout(sequence=2, data=2, zero=2, micro=2, recompute="full"),
    Layout(sequence=4),
]


def train_runs(rank: int, runs: dict[str, RunConfig], folder: Path) -> None:
    """Train every run in this process group; every rank writes down what it ended with."""
    import pretrain.training.engine
    import pretrain.training.muon
    import pretrain.training.sampling.sampler
    from pretrain.runtime.ranks import init_ranks
    from pretrain.training.trainer import Trainer
    from spectral.block import Block
    from spectral.gates.spectral_gate import uses_gates

    configure = pretrain.training.engine.deepspeed_config

    def partition_everything(*arguments: Any) -> dict[str, Any]:
        """By default, ZeRO-3 leaves parameters as small as these whole on every rank."""
        config = configure(*arguments)
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    pretrain.training.engine.deepspeed_config = partition_everything
    reset = Block.reset_parameters

    def shaken(block: Block) -> None:
        """Nothing begins at zero: relative errors mean something, and gates do."""
        reset(block)
        for parameter in block.parameters():
            with torch.no_grad():
                parameter += 0.05 * torch.randn(parameter.shape)

    Block.reset_parameters = shaken  # type: ignore[method-assign]
    orthogonalize, orthogonalized = pretrain.training.muon.orthogonalized, [0]

    def counted(matrices: Tensor) -> Tensor:
        orthogonalized[0] += len(matrices)
        return orthogonalize(matrices)

    pretrain.training.muon.orthogonalized = counted
    # counting the operations of each model takes a second
    pretrain.training.sampling.sampler.Utilisation = _Unknown  # type: ignore[misc]
    for name, run in runs.items():
        # the head alone gives an embedding gradients: many are a rounding error in float32
        wide = uses_gates(run.model.gates) or run.model.classes
        _set_dtype(torch.float64 if wide else torch.float32)
        trainer = Trainer(run, init_ranks())
        records, orthogonalized[0] = [], 0
        for batches in trainer.loader:
            records.append(trainer.train_step(batches))
            if trainer.progress.step == run.train.steps:
                break
        valid = [trainer.measurements.validate()["valid_loss"]]
        if run.evaluate.every:
            valid.append(trainer.measurements.evaluate()["eval_scanner_loss"])
        results = records, valid, _pieces(trainer.engine), orthogonalized[0]
        torch.save(results, folder / f"{name}-{rank}.pt")
        trainer.engine.destroy()
    Block.reset_parameters = reset  # type: ignore[method-assign]


class _Unknown:
    """Utilisation of devices whose peak is unknown."""

    def __init__(self, *_: object):
        pass

    def share(self, _: float) -> None:
        return None


def _set_dtype(dtype: torch.dtype) -> None:
    """Train in a dtype, also where DeepSpeed and Megatron-core know of none above float32."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    from megatron.core.tensor_parallel.cross_entropy import VocabParallelCrossEntropy

    def logits_max(logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits, logits.max(dim=-1)[0]

    torch.set_default_dtype(dtype)
    DeepSpeedEngine.get_data_types = lambda _: (dtype, dtype)  # type: ignore[method-assign]
    VocabParallelCrossEntropy.calculate_logits_max = staticmethod(logits_max)


def _pieces(engine: Any) -> dict[str, tuple[Placement, Tensor]]:
    """This rank's parameters and what they are of the whole ones."""
    from deepspeed.utils import safe_get_full_fp32_param

    from pretrain.parallel.placement import placements

    pieces = {}
    for placement, parameter in placements(engine.module):
        value = parameter.detach()
        if engine.zero_optimization_stage():
            value = safe_get_full_fp32_param(parameter)
        pieces[placement.name] = tuple(placement), value.clone()
    return pieces


def _run(corpus: SmallCorpus, folder: Path, case: "Case") -> RunConfig:
    layout, model = case.layout, MODELS[case.model]
    values = load_run(corpus.run_file(folder / "run.toml")).model_dump()
    values["model"] |= {"vocab_size": 513, "num_modes": 8, "conv_chunk": 16} | model
    values["data"] |= {"num_workers": 0, "sequence_length": 128}
    values["objective"]["kind"] = OBJECTIVES.get(case.model, "next_token")
    if case.model == "classifier":
        built = labelled_texts(folder / "labelled", corpus)
        values["data"] |= {
            "datasets": [{"path": str(built / "train")}],
            "valid": str(built / "valid"),
        }
    optimizer = _optimizer(case.model)
    # norms of groups are above 0.1, in different measure
    clip = {"clip": "groups", "clip_norm": 0.1} if case.model == "muon" else {}
    # a rate for each kind of parameter
    scale = {"scale": "width", "base_width": 8} if optimizer == "muon" else {}
    values["optim"] |= {"learning_rate": 1e-3, "name": optimizer, **clip, **scale}
    values["train"] |= {
        "output": folder / case.name,
        "steps": GATED_STEPS if "gates" in model else STEPS,
        "global_batch_size": case.batch,
        "micro_batch_size": layout.micro,
        "z_loss": 0.01,
        "activation_checkpointing": layout.recompute,
        "activation_offload": layout.offload,
        "compile": layout.compiled,
    }
    values["monitor"] |= {"every": 1}
    if case.model not in OBJECTIVES:
        # measured by the tests themselves, after the last step
        text = Path(json.__file__).parent / "scanner.py"
        values["evaluate"] |= {"every": STEPS, "texts": [text]}
    axes = layout._asdict()
    values["parallel"] |= {k: axes[k] for k in ("tensor", "pipeline", "sequence", "data")}
    values["parallel"]["zero_stage"] = layout.zero
    values["parallel"]["nvme_path"] = folder
    values["parallel"]["offload_optimizer"] = layout.states
    values["parallel"]["offload_parameters"] = layout.states if layout.zero == 3 else "none"
    return RunConfig.model_validate(values)


def _optimizer(model: str) -> str:
    return "muon" if model.startswith("muon") else "adamw"


class Case(NamedTuple):
    """A model in a layout, and the rows of a step."""

    model: str
    layout: Layout
    batch: int = 4

    def alone(self) -> "Case":
        """What it must equal on one rank."""
        # noise is drawn, and gates' losses are means, by micro-batch; without gates, any will do
        # three stages' scaled run makes the rounding errors of another order of sums grow, on one
        # rank too
        same_passes = self.model in ("everything", "muon stages")
        micro = self.layout.micro if same_passes else 4
        return Case(self.model, Layout(micro=micro), self.batch)

    @property
    def name(self) -> str:
        return f"{self.model}-{self.batch}-{self.layout.name}"

    def result(self, folder: Path, rank: int) -> Any:
        return torch.load(folder / f"{self.name}-{rank}.pt", weights_only=False)


def check(
    cases: list[Case],
    corpus: SmallCorpus,
    folder: Path,
    fresh: bool = False,
    train: Callable[..., None] = train_runs,
) -> None:
    every = {*cases, *(case.alone() for case in cases)}
    for ranks in sorted({case.layout.ranks for case in every}):
        some = [case for case in every if case.layout.ranks == ranks]
        runs = {x.name: _run(corpus, folder, x) for x in sorted(some)}
        run_ranks(train, ranks, folder, runs, folder, fresh=fresh)
    problems = []
    for case in cases:
        expected = case.alone().result(folder, 0)
        for rank in range(case.layout.ranks):
            # compiled blocks are not looked into
            has_spectra = not case.layout.compiled
            found = differences(case.result(folder, rank), expected, has_spectra=has_spectra)
            problems += [f"{case} rank {rank}: {problem}" for problem in found]
    assert not problems, "\n".join(problems)
