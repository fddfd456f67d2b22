"""What batch norms go by outside of training, taken from the network as it is now."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def calibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the statistics of all batch norms to the means over some batches (n, c, h, w), normalised images; all else stays.

    Running averages lag behind the weights: over the few steps that an epoch of few images has, too far for a deep network to be of any
    use. Wu & Johnson 2021, https://arxiv.org/abs/2105.07576, section 3.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.no_grad():
        for images in batches:
            network(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
