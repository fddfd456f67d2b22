"""The network within which one-shot methods search: every edge of a cell holds all operations of the DARTS space.

Liu et al. 2019, https://arxiv.org/abs/1806.09055, section 2 (https://github.com/quark0/darts, cnn/model_search.py); partial channels:
Xu et al. 2020, https://arxiv.org/abs/1907.05737.

n: images, c: channels, h and w: height and width of a feature map. A cell has 14 edges: those into node 0, from inputs 0 and 1, then
those into node 1, from inputs 0 to 2, and so on; the 8 operations are in the order of `OPS`.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.spaces.darts import KINDS, NODES, OPS, DARTSSpace
from trainables.learning.networks.darts import FactorizedReduce, operation
from trainables.learning.networks.operations import check_counts, pooled, relu_conv_bn, stem, stem_halvings

STARTS = tuple(node * (node + 3) // 2 for node in range(NODES + 1))  # the first edge into each node, and the number of edges
EDGES = STARTS[NODES]  # 14

Choice = Tensor | int | None  # of one edge: weights of all operations (8,), the index of the only one, or None: the edge is left out


class MixedOperation(nn.Module):
    """All operations on one edge; of `partial` > 1 they see one channel in so many, and the others pass by them.

    A batch norm follows each pooling, so that its result has the scale of the others. No batch norm here has weights: they would undo
    those of the mixture.
    """

    def __init__(self, channels: int, stride: int, partial: int) -> None:
        super().__init__()
        self.stride, self.partial, self.share = stride, partial, channels // partial
        self.ops = nn.ModuleList()
        for op in OPS:
            made = operation(op, self.share, stride, affine=False)
            self.ops.append(nn.Sequential(made, nn.BatchNorm2d(self.share, affine=False)) if "pool" in op else made)

    def forward(self, x: Tensor, choice: Tensor | int, rectified: Tensor | None = None) -> Tensor:
        """(n, c, h, w) -> (n, c, h / stride, w / stride); `rectified`: `x`, where it is known, as several edges need it."""
        rectified = x.relu() if rectified is None else rectified
        if self.partial == 1:
            return self._chosen(x, choice, rectified)
        rest = x[:, self.share :]
        rest = F.max_pool2d(rest, 2) if self.stride == 2 else rest
        # Mixed, so that the next edge sees other channels: (i, j) becomes (j, i) where channel = i * share + j.
        return F.channel_shuffle(torch.cat([self._chosen(x[:, : self.share], choice, rectified[:, : self.share]), rest], 1), self.partial)

    def _chosen(self, x: Tensor, choice: Tensor | int, rectified: Tensor) -> Tensor:
        if isinstance(choice, int):
            chosen: Tensor = self.ops[choice](x)
            return chosen
        # The first operation, `none`, adds zeros and has no gradient: its weight counts as it takes from the others.
        terms = [weighed(op, x, rectified, weight) for weight, op in zip(choice[1:], self.ops[1:], strict=True)]
        mixture: Tensor = sum(terms[1:], terms[0])
        return mixture


def weighed(op: nn.Module, x: Tensor, rectified: Tensor, weight: Tensor) -> Tensor:
    """`weight` () times what `op` makes of `x`: (n, c, h, w) -> (n, c, h / stride, w / stride).

    The last batch norm multiplies by it, so that no result is kept only for the gradient of its weight.
    """
    if isinstance(op, nn.Identity):
        return weight * x
    if isinstance(op, FactorizedReduce):
        x, norm = op.halves(x), op.norm
    else:
        assert isinstance(op, nn.Sequential)
        x = rectified if isinstance(op[0], nn.ReLU) else op[0](x)
        for layer in list(op)[1:-1]:
            x = layer(x)
        norm = op[-1]  # type: ignore[assignment]
    assert norm.momentum is not None
    weights = weight.expand(norm.num_features)
    return F.batch_norm(x, norm.running_mean, norm.running_var, weights, None, norm.training, norm.momentum, norm.eps)


class SearchCell(nn.Module):
    """4 nodes, each the sum over the edges from all that come before it, concatenated."""

    def __init__(self, before: int, last: int, channels: int, reduction: bool, reduction_before: bool, partial: int) -> None:
        super().__init__()
        halve = FactorizedReduce(before, channels, affine=False) if reduction_before else None
        self.before = halve or relu_conv_bn(before, channels, kernel=1, affine=False)
        self.last = relu_conv_bn(last, channels, kernel=1, affine=False)
        strides = [2 if reduction and source < 2 else 1 for node in range(NODES) for source in range(node + 2)]
        self.edges = nn.ModuleList([MixedOperation(channels, stride, partial) for stride in strides])

    def forward(self, before: Tensor, last: Tensor, choices: Sequence[Choice], importance: Tensor | None = None) -> Tensor:
        """Outputs of the cell before the last one and of the last one -> (n, 4c, h, w), h and w halved in a reduction cell.

        `choices`: one for each edge; `importance` (14,): by which the results of the edges are multiplied.
        """
        states = [self.before(before), self.last(last)]
        rectified: list[Tensor] = []
        for start in STARTS[:NODES]:
            terms = []
            rectified += [x.relu() for x in states[len(rectified) :]]
            for edge, (x, positive) in enumerate(zip(states, rectified, strict=True), start):
                choice = choices[edge]
                if choice is not None:
                    result = self.edges[edge](x, choice, positive)
                    terms.append(result if importance is None else importance[edge] * result)
            states.append(sum(terms[1:], terms[0]))
        return torch.cat(states[2:], 1)


class Supernet(nn.Module):
    """Maps images (n, image_channels, image_size, image_size) to logits (n, classes): by the mixture of all cells, or by one of them.

    The strengths (alpha in the publication) of the operations are parameters, (14, 8) for each kind of cell; their softmax over the
    operations are the weights of the mixture. Of `partial` > 1 every edge has an importance (beta) too, (14,) for each kind, whose
    softmax over the edges into a node weighs these. All start as normal noise of deviation 0.001.

    Images above 64 pixels are halved by strided convolutions first. With 16 channels, 8 layers, 10 classes and images of 3 channels
    there are 1,930,618 weights, as in the published code.

    Args:
        channels: of the first cell; each reduction cell, at 1/3 and 2/3 of the layers, doubles them. The stem has three times as many.
        layers: number of cells.
        partial: K of PC-DARTS, 4 in the publication; 1: all channels.

    Raises:
        ConfigError: a count is too small, the image does not fit, or `partial` does not divide the channels.
    """

    def __init__(
        self, classes: int, image_size: int = 32, image_channels: int = 3, channels: int = 16, layers: int = 8, partial: int = 1
    ) -> None:
        super().__init__()
        check_counts(classes=classes, image_size=image_size, image_channels=image_channels, channels=channels, partial=partial)
        halvings = stem_halvings(image_size)
        if image_size % 2 ** (halvings + 2):
            raise ConfigError(f"the supernet needs an image_size that is a multiple of {2 ** (halvings + 2)}, not {image_size}")
        if layers < 3:
            raise ConfigError(f"layers of a supernet must be at least 3, not {layers}: two reduction cells and a normal one")
        if channels % partial:
            raise ConfigError(f"partial must divide the channels of the supernet, {channels}; {partial} does not")
        self.stem = stem(image_channels, 3 * channels, halvings)
        self.cells, self._kinds = nn.ModuleList(), list[str]()
        before = last = 3 * channels
        reduction_before = False
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            self._kinds.append(KINDS[reduction])
            self.cells.append(SearchCell(before, last, channels, reduction, reduction_before, partial))
            before, last, reduction_before = last, NODES * channels, reduction
        self.classifier = nn.Linear(last, classes)
        self.strengths = nn.ParameterDict({kind: nn.Parameter(1e-3 * torch.randn(EDGES, len(OPS))) for kind in KINDS})
        edges = {kind: nn.Parameter(1e-3 * torch.randn(EDGES)) for kind in KINDS} if partial > 1 else {}
        self.importances = nn.ParameterDict(edges)

    def architecture(self) -> list[nn.Parameter]:
        """What the choice of a cell follows from: strengths and, with partial channels, importances."""
        return [*self.strengths.values(), *self.importances.values()]

    def weights(self) -> list[nn.Parameter]:
        """All other parameters."""
        own = {id(parameter) for parameter in self.architecture()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]

    def forward(self, x: Tensor, arch: Arch | None = None) -> Tensor:
        """(n, image_channels, image_size, image_size) -> (n, classes); `arch`: the only cells that are computed, None: the mixture."""
        if arch is None:
            choices = {kind: self.strengths[kind].softmax(-1).unbind() for kind in KINDS}
            importances = {kind: _by_node(self.importances[kind]) for kind in self.importances}
        else:
            choices, importances = {kind: chosen(arch[kind]) for kind in KINDS}, {}
        before = last = self.stem(x)
        for kind, cell in zip(self._kinds, self.cells, strict=True):
            before, last = last, cell(before, last, choices[kind], importances.get(kind))
        logits: Tensor = self.classifier(pooled(last))
        return logits

    @torch.no_grad()
    def derive(self) -> Arch:
        """The architecture that the strengths stand for; see `derived`."""
        mixtures = {kind: self.strengths[kind].softmax(-1) for kind in KINDS}
        for kind, importance in self.importances.items():
            mixtures[kind] = mixtures[kind] * _by_node(importance)[:, None]
        return derived(mixtures)


def _by_node(importance: Tensor) -> Tensor:
    """Softmax over the edges into each node: (14,) -> (14,)."""
    return torch.cat([importance[start:stop].softmax(0) for start, stop in pairwise(STARTS)])


def chosen(cell: Sequence[tuple[str, int]]) -> list[Choice]:
    """A cell's 8 pairs (operation, input) as choices for all 14 edges."""
    choices: list[Choice] = [None] * EDGES
    for i, (op, source) in enumerate(cell):
        choices[STARTS[i // 2] + source] = OPS.index(op)
    return choices


def derived(mixtures: Mapping[str, Tensor]) -> Arch:
    """The architecture in which every node keeps the two edges whose strongest operation is strongest, and of these that operation.

    `none` does not take part; of equals the first counts (section 2.4 of the publication). `mixtures`: (14, 8) for each kind of cell.
    """
    cells: dict[str, list[tuple[str, int]]] = {}
    for kind in KINDS:
        strongest, ops = mixtures[kind].cpu()[:, 1:].max(1)  # (14,) each
        cells[kind] = []
        for start, stop in pairwise(STARTS):
            best = strongest[start:stop].argsort(descending=True, stable=True)[:2]
            cells[kind] += [(OPS[1 + int(ops[start + source])], int(source)) for source in best]
    return DARTSSpace().from_genotype(**cells)
