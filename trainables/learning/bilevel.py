"""The gradient of a loss that is computed after a step of the weights, by what the step depends on."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def second_order_gradients(
    train_loss: Callable[[], Tensor],
    valid_loss: Callable[[], Tensor],
    weights: list[nn.Parameter],
    alphas: Sequence[nn.Parameter],
    optimizer: torch.optim.SGD,
    radius: float = 0.01,
) -> list[Tensor]:
    """The gradient of the validation loss after one more step of the weights, by the strengths; equations 7 and 8 of arXiv 1806.09055.

    With w' the weights w after a step of `optimizer` (momentum and weight decay included, clipping left out, as in the published code),
    ξ its learning rate and w± = w ± ε ∇_w' L_valid(w', α), where ε is `radius` divided by the norm of that gradient:

        ∇_α L_valid(w', α) - ξ (∇_α L_train(w+, α) - ∇_α L_train(w-, α)) / 2ε

    The weights are as before afterwards; the statistics of batch norms have seen the images as often as the losses were computed.
    """
    (group,) = optimizer.param_groups
    rate, old = group["lr"], [weight.detach().clone() for weight in weights]
    moves = torch._foreach_add(list(torch.autograd.grad(train_loss(), weights)), old, alpha=group["weight_decay"])
    for move, weight in zip(moves, weights, strict=True):
        momentum = optimizer.state.get(weight, {}).get("momentum_buffer")
        if momentum is not None:
            move.add_(momentum, alpha=group["momentum"])
    _assign(weights, torch._foreach_add(old, moves, alpha=-rate))
    gradients = torch.autograd.grad(valid_loss(), [*alphas, *weights])
    direct, direction = gradients[: len(alphas)], list(gradients[len(alphas) :])
    length = radius / float(nn.utils.get_total_norm(direction).clamp(min=1e-12))
    sides = []
    for sign in (1, -1):
        _assign(weights, torch._foreach_add(old, direction, alpha=sign * length))
        sides.append(torch.autograd.grad(train_loss(), alphas))
    _assign(weights, old)
    return [d - rate * (plus - minus) / (2 * length) for d, plus, minus in zip(direct, *sides, strict=True)]


@torch.no_grad()
def _assign(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
