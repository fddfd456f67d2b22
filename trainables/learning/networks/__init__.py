"""From an architecture to the network that its publication trains, as its search space says (`SearchSpace.network`).

Every network maps images (n, image_channels, image_size, image_size) to logits (n, classes). Two attributes are optional:

* `has_auxiliary`: where it is true, the network returns (logits, auxiliary logits), each (n, classes), in training mode;
* `drop_path_prob`: where it exists it may be set to a float in [0, 1), the probability with which training drops a path.

Weights are drawn from torch's global generator, so `torch.manual_seed` fixes them.
"""

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
    the space names takes (arch, classes, image_size, image_channels, **options).

    Raises:
        UnknownNameError: the network cannot be imported, or does not take one of the options.
        ConfigError: the space names no network; an option has the wrong type or value, the image is too small or too large for it, or
            a user's own function fails.
        OutOfSpaceError: the network cannot be made from this architecture.
    """
    if space.network is None or ":" not in space.network:
        what = "no network to train" if space.network is None else f"the network {space.network!r}, which is none"
        raise ConfigError(
            f"space {space.name!r} has {what}; give the class {type(space).__name__} the attribute network = 'module:function', "
            "where function(arch, classes, image_size, image_channels) returns a module of torch"
        )
    what = f"the network of space {space.name!r}"
    factory = resolve({}, space.network, what)
    checked = check_options(factory, options, what)
    with blamed(what):
        made = factory(arch, classes, image_size, image_channels, **checked)
    if not isinstance(made, nn.Module) or next(made.parameters(), None) is None:
        raise ConfigError(f"{what} must be a module of torch with weights, but {space.network} returned {type(made).__name__}")
    return made


__all__ = ["make_network"]
