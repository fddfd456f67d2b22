"""RMSProp as TensorFlow defines it, with which NAS-Bench-101 was trained."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class TensorFlowRMSprop(torch.optim.Optimizer):
    """`tf.train.RMSPropOptimizer`; g is the gradient plus `weight_decay` times the variable w:

        s <- decay s + (1 - decay) g²,  m <- momentum m + lr g / sqrt(s + eps),  w <- w - m;  at first s = 1 and m = 0

    PyTorch's own divides by sqrt(s) + eps, which for the published eps of 1 is another method, and starts with s = 0.
    https://github.com/tensorflow/tensorflow/blob/v1.15.0/tensorflow/python/training/rmsprop.py
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, decay: float = 0.9, momentum: float = 0.9, eps: float = 1.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Changes all variables that have a gradient."""
        for group in self.param_groups:
            variables = [w for w in group["params"] if w.grad is not None]
            if not variables:
                continue
            for w in variables:
                if not self.state[w]:
                    self.state[w] = {"square": torch.ones_like(w), "momentum": torch.zeros_like(w)}
            squares = [self.state[w]["square"] for w in variables]
            momenta = [self.state[w]["momentum"] for w in variables]
            gradients = torch._foreach_add([w.grad for w in variables], variables, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["decay"])
            roots = torch._foreach_add(squares, group["eps"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_addcdiv_(momenta, gradients, roots, value=group["lr"])
            torch._foreach_sub_(variables, momenta)
