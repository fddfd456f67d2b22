"""What a network costs: its parameters, and the multiply-accumulates of one image, counted while the image passes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.spaces import Cost, SearchSpace
from trainables.learning.blame import blamed
from trainables.learning.networks import made_of, make_network


class Count(NamedTuple):
    """What an image meets in a network."""

    parameters: int  # trainable ones
    products: int  # multiplications in convolutions, linear layers and attention
    normalised: int  # elements that pass a batch normalisation
    output: Any


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is computed within it, whichever layers or functions compute it.

    Where tensors have no values most of the time would go into finding out that normalisations and activations keep shapes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.products = self.normalised = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "batch_norm" in func.__name__:
            self.normalised += args[0].numel()
        if args and isinstance(args[0], Tensor) and args[0].is_meta:
            if func is torch.ops.aten.native_batch_norm.default:
                return args[0], *args[3:5]
            if torch.Tag.pointwise in func.tags and func._schema.is_mutable:  # in place
                return args[0]
        output = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.products += formula(*args, **(kwargs or {}), out_val=output) // 2  # two of torch's operations are one of ours
        return output


class _Unfilled(TorchFunctionMode):
    """Leaves new weights as they are, which takes half the time; on the meta device they have no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fills: tuple[Callable[..., Any], ...] = (Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_)
        return args[0] if func in fills else func(*args, **(kwargs or {}))


def count(network: nn.Module, channels: int, size: int) -> Count:
    """What one image (channels, size, size) meets in the network, which is in evaluation mode meanwhile."""
    was_training, example = network.training, next(network.parameters())
    # Not the inference mode, in which layers are not taken apart into the operations that are counted.
    with torch.no_grad(), _Counting() as counting:
        output = network.eval()(torch.zeros(1, channels, size, size, device=example.device, dtype=example.dtype))
    network.train(was_training)
    parameters = sum(w.numel() for w in network.parameters() if w.requires_grad)
    return Count(parameters, counting.products, counting.normalised, output)


def cost_of(space: SearchSpace, arch: Arch, classes: int, size: int, channels: int) -> Cost:
    """The cost of the network of `arch` for `classes` and images (channels, size, size), as `Cost` defines it.

    Raises:
        ConfigError: the network cannot be made, does not take such an image, or does not return (1, classes).
    """
    try:
        with torch.device("meta"), _Unfilled():
            counted = count(make_network(space, arch, classes, size, channels), channels, size)
    except Exception:  # what needs values, such as `.item()`, has none there
        with torch.random.fork_rng([]), blamed(made_of(space, arch)):
            counted = count(make_network(space, arch, classes, size, channels), channels, size)
    shape = tuple(counted.output.shape) if isinstance(counted.output, Tensor) else type(counted.output).__name__
    if shape != (1, classes):
        raise ConfigError(
            f"{made_of(space, arch)} must turn images (n, {channels}, {size}, {size}) into (n, {classes}), but one became {shape}"
        )
    return Cost(counted.parameters, counted.products + 2 * counted.normalised)
