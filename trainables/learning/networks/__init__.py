"""From an architecture to the network that its publication trains, by the name of the search space.

Every network maps images (n, image_channels, image_size, image_size) to logits (n, classes). Two attributes are optional:

* `has_auxiliary`: where it is true, the network returns (logits, auxiliary logits), each (n, classes), in training mode;
* `drop_path_prob`: where it exists it may be set to a float in [0, 1), the probability with which training drops a path.

Weights are drawn from torch's global generator, so `torch.manual_seed` fixes them.
"""

from typing import Any

from torch import nn

from raynas.arch import Arch
from raynas.registry import check_options, resolve

NETWORKS: dict[str, str] = {
    "nasbench101": "trainables.learning.networks.nasbench101:NASBench101Network",
    "nasbench201": "trainables.learning.networks.nasbench201:NASBench201Network",
    "darts": "trainables.learning.networks.darts:darts_network",
}


def make_network(
    arch: Arch, classes: int, image_size: int = 32, image_channels: int = 3, network: str | None = None, **options: Any
) -> nn.Module:
    """The network of `arch`: that registered for its space, or `network`, a name or the `module:function` of a user's own space.

    `options` are those of the network, such as its width and depth; by default it is the one of the publication. The function
    takes (arch, classes, image_size, image_channels, **options).

    Raises:
        UnknownNameError: no such network, or it does not take one of the options.
        ConfigError: an option has the wrong type or value, or the image is too small or too large for it.
        OutOfSpaceError: the network cannot be made from this architecture.
    """
    name = arch.space if network is None else network
    factory = resolve(NETWORKS, name, "network")
    made: nn.Module = factory(arch, classes, image_size, image_channels, **check_options(factory, options, f"network {name!r}"))
    return made


__all__ = ["NETWORKS", "make_network"]
