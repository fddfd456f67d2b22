"""Training steps that a GPU replays.

The hundreds of small operations of a cell take a CPU several times as long to launch as a GPU to compute; a CUDA graph launches all of
them at once.
"""

import gc
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def replayed(network: nn.Module, device: torch.device) -> Callable[[Tensor], Any]:
    """`network`, on a GPU so that its training steps are replayed if they can be: if it has an attribute `branch`.

    That is what decides in Python, besides the shape of the input, which operations run; all else must be the same in each step.
    """
    return Replayed(network) if device.type == "cuda" and hasattr(network, "branch") else network


def free() -> None:
    """Gives the memory of networks that are gone back to the GPU; no network that is replayed may be left."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        gc.collect()  # captured ones, whose parts hold each other
        torch._C._cuda_clearCublasWorkspaces()  # of the streams of captures
        torch.cuda.empty_cache()


class Replayed:
    """Calls a network; with batches of a shape and on a branch that come twice in a row, forward and backward passes are CUDA graphs.

    Results and gradients lie where those of the step before lay: what of them is needed for longer must be copied.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self._last: Any = None  # shape and branch of the last call
        self._captured: tuple[Any, Callable[[Tensor], Any]] = None, network  # shape and branch, and what replays them
        self._refused = False  # whether capturing has failed, for lack of memory or whatever else

    def __call__(self, x: Tensor) -> Any:
        if self._refused or not (self.network.training and torch.is_grad_enabled()):
            return self.network(x)
        key = x.shape, self.network.branch
        before, self._last = self._last, key
        if key != self._captured[0]:
            if key != before:
                return self.network(x)
            self._captured = None, self.network
            gc.collect()  # of one before, whose parts hold each other
            try:
                self._captured = key, _capture(self.network, x)
            except RuntimeError:  # of CUDA, which has many kinds
                self._refused = True
        return self._captured[1](x)


class _Shell(nn.Module):
    """Takes what `make_graphed_callables` does to a module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        return self.network(x)


def _capture(network: nn.Module, x: Tensor) -> Callable[[Tensor], Any]:
    """What replays the steps of `network` with inputs like `x`; the steps that warm it up leave no trace."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    kind = x.device.type
    casting = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False)
    try:
        with torch.random.fork_rng([x.device], device_type=kind), casting, warnings.catch_warnings():
            # PyTorch 2.11 warms up on another stream than it captures on; 2.14 does not.
            warnings.filterwarnings("ignore", "The AccumulateGrad node's stream")
            made: Callable[[Tensor], Any] = torch.cuda.make_graphed_callables(_Shell(network), (x.clone(),), allow_unused_input=True)
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return made
