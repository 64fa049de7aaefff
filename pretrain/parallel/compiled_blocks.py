"""Blocks compiled by torch.compile, for training passes; validations and decoding stay as they are.

A block is one graph: its ops are opaque operators of torch. Between ranks that share a block or a
sequence (`parallel.tensor`, `sequence`, `expert`) a graph ends at each exchange, which is left to
the communication library. A recomputed block is compiled inside of its recomputation, and so are a
block's two halves if its feed-forward alone is recomputed.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from pretrain.parallel.activation_checkpointing import recomputed_module
from pretrain.parallel.mesh import Mesh
from spectral.block import Block
from spectral.layout import ExpertDispatch, HeadGroup, Layout, Transposition
from spectral.lm import SpectralLM
from spectral.mixers.context import SequenceContext
from spectral.modules.linear import cpu_multiplies_bfloat16
from spectral.sequence.documents import ChunkDocuments
from spectral.sequence.span import Carry, Span

# graphs of one piece of code: kinds of layers times kinds of documents' borders times recomputation
MOST_GRAPHS = 64
# random numbers are those of the uncompiled model
COMPILER: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}


def compile_blocks(model: SpectralLM, mesh: Mesh) -> None:
    """Compile the blocks of a model in place, after it has its layout and its recomputation.

    Args:
        model: Model with this rank's parts.
        mesh: This rank's position.
    """
    # such operators are torch's own, as without compilation
    warnings.filterwarnings("ignore", message=".*does not support code generation for complex")
    # a fact about the processor, which torch finds out by means that it does not compile
    torch.compiler.assume_constant_result(cpu_multiplies_bfloat16.__wrapped__)
    is_split = max(mesh.tensor.size, mesh.sequence.size, mesh.expert.size) > 1
    if is_split:
        _leave_to_library(model.layout)
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        if is_split:
            _leave_exchanges(block)
        for module in _units(block):
            _Compiled(module, whole=not is_split)


def _leave_to_library(layout: Layout) -> None:
    """Let a layout's exchanges between ranks end a graph."""
    spans = (layout.span, layout.span.reversed())
    for part in (layout.heads, layout.experts, layout.transposition, *spans):
        # those of a single device exchange nothing, and are shared
        if type(part) in (HeadGroup, ExpertDispatch, Span, Transposition):
            continue
        for name, method in vars(type(part)).items():
            if callable(method) and not name.startswith("_"):
                setattr(part, name, torch.compiler.disable(getattr(part, name)))
    for span in spans:
        if type(span) is not Span:
            _leave_carry(span)


def _leave_carry(span: Span) -> None:
    begin = span.start_carry

    def start_carry(*inputs: Tensor) -> Carry:
        return Carry(torch.compiler.disable(begin(*inputs).wait))

    span.start_carry = torch.compiler.disable(start_carry)  # type: ignore[method-assign]


def _leave_exchanges(block: Block) -> None:
    """Let linear layers and hooks that communicate end a graph."""
    from pretrain.parallel.tensor_parallel import Column, Row

    for module in block.modules():
        if isinstance(module, Column | Row):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
        hooks = module._forward_pre_hooks
        for key, hook in hooks.items():
            hooks[key] = torch.compiler.disable(hook)


def _units(block: Block) -> Iterator[nn.Module]:
    """The modules that are compiled, each as one graph."""
    feed_forward = recomputed_module(block.feed_forward)
    if feed_forward is None:
        yield block
    else:
        yield block.mixer
        yield feed_forward


class _Compiled:
    """The forward function of a module, compiled for training; it takes its place."""

    def __init__(self, module: nn.Module, *, whole: bool):
        self.module = module
        self.plain = module.forward
        # torch declares its newer options for no function
        compiler: Any = torch.compile
        self.compiled: Callable[..., Any] = compiler(
            module.forward, fullgraph=whole, recompile_limit=MOST_GRAPHS, **COMPILER
        )
        module.forward = self

    def __call__(self, *inputs: Any) -> Any:
        # a mode that watches operators, such as a planner's, is given those of the plain block
        if not self.module.training or _get_current_dispatch_mode() is not None:
            return self.plain(*inputs)
        for value in inputs:
            if isinstance(value, SequenceContext):
                for documents in value.documents.values():
                    _let_vary(documents)
        return self.compiled(*inputs)


def _let_vary(documents: ChunkDocuments) -> None:
    """Let the code for these documents serve any number of starts.

    torch would compile the first number alone, so a resumed run would have other code.
    """
    for starts_E in (documents.row_E, documents.start_E, documents.stop_E):
        if len(starts_E) > 1:
            torch._dynamo.mark_dynamic(starts_E, 0)
