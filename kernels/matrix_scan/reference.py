"""The incoming state of each chunk, where chunks transform the state by a matrix.

Shape letters: B batch, J chunk, H head, K rows of a state, V columns of a state.
"""

import torch
from torch import Tensor


def matrix_scan(
    transition_BJHKK: Tensor, update_BJHKV: Tensor, initial_BHKV: Tensor
) -> tuple[Tensor, Tensor]:
    """States of the recurrence S_(j+1) = M_j S_j + U_j from S_0 = initial.

    Args:
        transition_BJHKK: Matrix of each chunk; zero where a document begins.
        update_BJHKV: Update of each chunk: its final state when it begins from zero.
        initial_BHKV: State before the first chunk.

    Returns:
        (incoming_BJHKV, final_BHKV): the state before each chunk, and that after the last one.

    Cost: 2 B J H K^2 V FLOPs in J sequential steps.
    """
    incoming_BJHKV = torch.empty_like(update_BJHKV, memory_format=torch.contiguous_format)
    state_BHKV = initial_BHKV
    chunks = zip(transition_BJHKK.unbind(1), update_BJHKV.unbind(1), strict=True)
    for j, (transition_BHKK, update_BHKV) in enumerate(chunks):
        incoming_BJHKV[:, j] = state_BHKV
        state_BHKV = transition_BHKK @ state_BHKV + update_BHKV
    return incoming_BJHKV, state_BHKV.clone()


def matrix_scan_backward(
    grad_incoming_BJHKV: Tensor,
    grad_final_BHKV: Tensor,
    transition_BJHKK: Tensor,
    incoming_BJHKV: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `matrix_scan`, by the same recurrence from the last chunk to the first.

    Args:
        grad_incoming_BJHKV: Gradient of the incoming states.
        grad_final_BHKV: Gradient of the final state.
        transition_BJHKK: The matrices of the forward pass.
        incoming_BJHKV: The incoming states that the forward pass returned.

    Returns:
        (dtransition_BJHKK, dupdate_BJHKV, dinitial_BHKV).
    """
    dupdate_BJHKV = torch.empty_like(incoming_BJHKV, memory_format=torch.contiguous_format)
    state_BHKV = grad_final_BHKV
    for j, grad_BHKV in reversed(list(enumerate(grad_incoming_BJHKV.unbind(1)))):
        dupdate_BJHKV[:, j] = state_BHKV
        state_BHKV = transition_BJHKK[:, j].mT @ state_BHKV + grad_BHKV
    return dupdate_BJHKV @ incoming_BJHKV.mT, dupdate_BJHKV, state_BHKV.clone()
