"""A new run from the parameters of another objective's model: what fits is read, by its name."""

from pathlib import Path

from torch import Tensor

from pretrain.checkpoint.boxes import Box, Piece
from pretrain.checkpoint.catalog import find_checkpoint
from pretrain.checkpoint.save import TENSORS
from pretrain.checkpoint.tensor_reader import read_index, read_pieces, stored_pieces
from pretrain.checkpoint.tensor_writer import Shard
from pretrain.config import RunConfig
from pretrain.errors import CheckpointError
from pretrain.parallel.split_model import empty_model

_PREFIX = "value/"


class Transfer:
    """Parameters of a checkpoint for a new run; whole ones, before a layout divides them.

    Args:
        run: The run, whose train.branch_from names the checkpoint.

    Attributes:
        missing: Names of the parameters that the checkpoint does not have in their shape.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or no parameter fits.
    """

    def __init__(self, run: RunConfig):
        self._checkpoint = find_checkpoint(Path(run.train.branch_from))
        self._folder = self._checkpoint / TENSORS
        self._index = read_index(self._folder)
        shapes = {name: shape for name, (shape, _) in stored_pieces(self._folder).items()}
        wanted = {
            name: tuple(parameter.shape)
            for name, parameter in empty_model(run.model).named_parameters()
        }
        self._fitting = {
            name for name, shape in wanted.items() if shapes.get(_PREFIX + name) == shape
        }
        self.missing = [name for name in wanted if name not in self._fitting]
        if not self._fitting - {"final_norm.weight"}:
            raise CheckpointError(
                f"{self._checkpoint}: none of its parameters has the name and the shape of one of "
                "this run's model; expected a model of equal dim, vocab_size and mixers"
            )

    def __call__(self, name: str, parameter: Tensor) -> None:
        """Read a parameter, if the checkpoint has it."""
        if name not in self._fitting:
            return
        whole = parameter.detach()
        shape = tuple(whole.shape)
        piece = Piece(Box((0,) * whole.ndim, shape), whole)
        read_pieces(self._folder, {_PREFIX + name: Shard(shape, [piece])}, self._index)

    def __str__(self) -> str:
        """Number of parameters that are read, and names of those that are initialised."""
        lines = [f"{self._checkpoint}: {len(self._fitting)} parameters are read from it"]
        if self.missing:
            lines.append(f"initialised, since it lacks them: {', '.join(self.missing)}")
        return "; ".join(lines)
