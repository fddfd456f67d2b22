"""From an architecture to the network that its publication trains, as its search space says (`SearchSpace.network`).

Every network maps images (n, image_channels, image_size, image_size) to logits (n, classes). Two attributes are optional:

* `has_auxiliary`: where it is true, the network returns (logits, auxiliary logits), each (n, classes), in training mode;
* `drop_path_prob`: where it exists it may be set to a float in [0, 1), the probability with which training drops a path.

Weights are drawn from torch's global generator, so `torch.manual_seed` fixes them.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.registry import check_options, resolve
from raynas.spaces import SearchSpace
from trainables.learning.blame import blamed


def make_network(space: SearchSpace, arch: Arch, classes: int, image_size: int = 32, image_channels: int = 3, **options: Any) -> nn.Module:
    """The network of an architecture of `space`.

    `options` are those of the network, such as its width and depth; by default it is the one of the publication. The function that
    the space has or names takes (arch, classes, image_size, image_channels, **options).

    Raises:
        UnknownNameError: the network cannot be imported, or does not take one of the options.
        ConfigError: the space has no network; an option has the wrong type or value, the image is too small or too large for it, or
            a user's own function fails.
        OutOfSpaceError: the network cannot be made from this architecture.
    """
    what = f"the network of space {space.name!r}"
    factory = network_factory(space)
    checked = check_options(inspect.unwrap(factory), options, what)
    with blamed(made_of(space, arch)):
        made = factory(arch, classes, image_size, image_channels, **checked)
    if not isinstance(made, nn.Module) or next(made.parameters(), None) is None:
        named = space.network if isinstance(space.network, str) else getattr(inspect.unwrap(factory), "__qualname__", "build")
        raise ConfigError(f"{made_of(space, arch)} must be a module of torch with weights, but {named} returned {type(made).__name__}")
    return made


def network_factory(space: SearchSpace) -> Callable[..., Any]:
    """What makes the networks of a space; where it wraps a function, the options are that one's.

    Raises:
        UnknownNameError: it cannot be imported.
        ConfigError: the space has none.
    """
    network = space.network
    if network is None or (isinstance(network, str) and ":" not in network):
        what = "no network to train" if network is None else f"the network {network!r}, which is none"
        raise ConfigError(
            f"space {space.name!r} has {what}; give the class {type(space).__name__} the attribute network = 'module:function', "
            "where function(arch, classes, image_size, image_channels) returns a module of torch"
        )
    found: Callable[..., Any] = resolve({}, network, f"the network of space {space.name!r}") if isinstance(network, str) else network
    return found


def made_of(space: SearchSpace, arch: Arch) -> str:
    """The network of an architecture, in words for an error; named only where the space's own code may fail for one and not for others."""
    return f"the network of space {space.name!r}" + ("" if isinstance(space.network, str) else f" for {arch.id}")


__all__ = ["made_of", "make_network", "network_factory"]
