"""Stand-ins for what a rehearsal lacks: peers, clocks, GPUs, and counts that depend on values."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from kernels import dispatch
from pretrain.config import RunConfig
from pretrain.planning.matrix_peers import replace_peers
from pretrain.planning.records import OpaqueError
from pretrain.planning.split_loss import replace_loss
from pretrain.planning.tracer import Tracer
from pretrain.runtime.deepspeed_setup import start_deepspeed
from pretrain.runtime.ranks import Ranks
from spectral.layout import ExpertDispatch
from spectral.mixers import per_document

# shapes and dtypes of the tensors that a stage sends to the next
Message = list[tuple[tuple[int, ...], torch.dtype]]
MARK = "step"


@contextlib.contextmanager
def stand_ins(
    run: RunConfig,
    tracer: Tracer,
    ranks: Ranks,
    *,
    kernels: bool,
    message: Message | None,
    bounds: list[int] | None,
) -> Iterator[Message]:
    """Context in which the training code of one rank runs without its peers.

    Args:
        run: The run.
        tracer: Receives the launches of kernels and what is moved to the host.
        ranks: The rank.
        kernels: Whether operators launch the kernels of a GPU.
        message: What the stage before sends.
        bounds: First block of each stage, and one past the last block; None for equal stages.

    Yields:
        What this stage sends to the next one, filled as it does.
    """
    sent: Message = []
    dist.init_process_group("fake", store=FakeStore(), rank=ranks.rank, world_size=ranks.world_size)
    with contextlib.ExitStack() as stack:
        stack.callback(dist.destroy_process_group)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.enter_context(_replaced(owner, name, value))

        replace(nn.Module, "_apply", _apply)
        replace(ExpertDispatch, "numbers", _even_rows)
        replace(per_document, "per_document", _whole_rows)
        if run.parallel.zero_stage == 3:
            _replace_agreement(replace)
        if run.optim.name == "muon":
            replace_peers(replace)
        if run.parallel.tensor > 1:
            replace_loss(replace, tracer)
        if run.parallel.pipeline > 1:
            bounds = bounds or even_bounds(run)
            _replace_peers(replace, tracer, message or [], sent, bounds)
        if kernels:
            _replace_gpu(replace, tracer)
        yield sent


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _apply(module: nn.Module, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
    """`Module._apply`, which refuses to swap fake parameters: it replaces them."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for key, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                value = function(parameter)
            if value is not parameter:
                module._parameters[key] = nn.Parameter(value, parameter.requires_grad)
    for key, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[key] = function(buffer)
    return module


def _whole_rows(convolve: Any, u_BDT: Tensor, _segment_ids_BT: Tensor | None) -> Any:
    """Stand-in for operators on documents, whose lengths are values: a row is a document."""
    return convolve(u_BDT)


def _even_rows(_dispatch: ExpertDispatch, counts: Tensor, rows: int) -> Any:
    """Equally many rows for all experts."""
    E = counts.shape[-1] * (counts.shape[1] if counts.ndim > 1 else 1)
    share = [rows * (e + 1) // E - rows * e // E for e in range(E)]
    if counts.ndim == 1:
        return share
    L = counts.shape[-1]
    return [[share[first : first + L] for first in range(0, E, L)]] * 2


def _replace_agreement(replace: Callable[..., None]) -> None:
    """Rank 0 has the list that this rank has; it is sent all the same."""
    from deepspeed.runtime.zero import utils

    receive = utils.get_lst_from_rank0

    def received(numbers: list[int]) -> list[int]:
        receive(numbers)
        return numbers

    replace(utils, "get_lst_from_rank0", received)


def even_bounds(run: RunConfig) -> list[int]:
    """First block of each stage by the operations of the blocks, where real ranks time them."""
    from pretrain.parallel.split_model import empty_model
    from pretrain.parallel.stage_balance import balanced

    model = empty_model(run.model)
    costs = [float(sum(p.numel() for p in block.parameters())) for block in model.blocks]
    # a look-up is cheap compared with the products of the output layer
    costs[-1] += sum(p.numel() for p in model.embedding.parameters())
    largest = max(costs)
    return balanced([cost / largest for cost in costs], run.parallel.pipeline)


def _replace_peers(
    replace: Callable[..., None],
    tracer: Tracer,
    message: Message,
    sent: Message,
    bounds: list[int],
) -> None:
    """The neighbours of a stage: what they send has known shapes."""
    start_deepspeed()
    from deepspeed.runtime.pipe.engine import PipelineEngine, p2p, schedule

    from pretrain.parallel import pipeline_parallel

    send, receive = PipelineEngine._send_tensor_meta, p2p.recv

    def send_meta(engine: Any, buffer: tuple[Tensor, ...], stage: int) -> None:
        sent[:] = [(tuple(x.shape), x.dtype) for x in buffer]
        send(engine, buffer, stage)

    def receive_meta(engine: Any, stage: int) -> tuple[Tensor, ...]:
        # the message that announces the shapes
        receive(torch.empty(256, dtype=torch.int32), stage)
        return tuple(
            engine._allocate_or_extend_buffers(index, list(shape), dtype)
            for index, (shape, dtype) in enumerate(message)
        )

    def in_step(function: Callable[[Any], None]) -> Callable[[Any], None]:
        def marked(engine: Any) -> None:
            with tracer.during(MARK):
                function(engine)

        return marked

    replace(pipeline_parallel, "stage_bounds", lambda *_: bounds)
    replace(PipelineEngine, "_send_tensor_meta", send_meta)
    replace(PipelineEngine, "_recv_tensor_meta", receive_meta)
    instructions = dict(PipelineEngine._INSTRUCTION_MAP)
    for kind in (schedule.ReduceGrads, schedule.ReduceTiedGrads):
        instructions[kind] = in_step(instructions[kind])
    replace(PipelineEngine, "_INSTRUCTION_MAP", instructions)


def _replace_gpu(replace: Callable[..., None], tracer: Tracer) -> None:
    """A GPU: kernels are launched and do nothing; what is offloaded leaves the device."""
    from fairscale.nn.checkpoint.checkpoint_activations import CheckpointFunction

    forward = CheckpointFunction.forward

    def offloading(
        ctx: Any, dummy: Tensor, function: Any, parent: dict[str, Any], keys: Any, *inputs: Any
    ) -> Any:
        outputs = forward(ctx, dummy, function, parent, keys, *inputs)
        if parent["offload"]:
            tracer.leave(x for x in inputs if isinstance(x, Tensor))
        return outputs

    replace(CheckpointFunction, "forward", staticmethod(offloading))
    try:
        from triton.runtime.jit import JITFunction
    except ImportError:
        # without Triton, operators are planned by their references
        return

    def launch(_kernel: Any, *arguments: Any, **keywords: Any) -> None:
        tracer.launch([*arguments, *keywords.values()])

    def skip(_message: str) -> None:
        raise OpaqueError

    # where no kernel serves, the reference would run in thousands of small pieces
    replace(dispatch, "_warn_once", skip)
    replace(dispatch, "_wants_kernel", lambda _device: True)
    replace(JITFunction, "run", launch)
