"""A plain training of DARTS networks, against which `training.py` measures ours; it works as the original code does.

One image at a time is changed by torchvision in a DataLoader; networks are eager, float32, in PyTorch's default format, each operation
by itself; SGD goes from weight to weight; the loss is read after every step."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raynas.arch import Arch
from raynas.spaces.darts import OPS
from trainables.learning.recipes import Recipe

CLASSES, MEAN, STD = 10, 0.5, 0.29  # of random images

# Networks


def relu_conv_bn(inputs: int, outputs: int, affine: bool = True) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs, affine=affine))


def depthwise(c: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    wide = nn.Conv2d(c, c, kernel, stride, dilation * (kernel // 2), dilation, groups=c, bias=False)
    return [nn.ReLU(), wide, nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c, affine=affine)]


class PlainReduce(nn.Module):
    def __init__(self, inputs: int, outputs: int, affine: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.second = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.norm(torch.cat([self.first(x), self.second(x[:, :, 1:, 1:])], 1))


class PlainNone(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


def plain_operation(op: str, c: int, stride: int, affine: bool = True) -> nn.Module:
    if op == "none":
        return PlainNone(stride)
    if op == "skip_connect":
        return nn.Identity() if stride == 1 else PlainReduce(c, c, affine)
    if "pool" in op:
        return nn.MaxPool2d(3, stride, 1) if op.startswith("max") else nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    kernel = int(op[-1])
    if op.startswith("dil"):
        return nn.Sequential(*depthwise(c, kernel, stride, 2, affine))
    return nn.Sequential(*depthwise(c, kernel, stride, 1, affine), *depthwise(c, kernel, 1, 1, affine))


def drop_path(x: Tensor, probability: float) -> Tensor:
    keep = 1.0 - probability
    mask = torch.empty(x.size(0), 1, 1, 1, device=x.device).bernoulli_(keep)
    return x.div_(keep).mul_(mask)


class PlainCell(nn.Module):
    def __init__(self, pairs: Any, before: int, last: int, c: int, reduction: bool, reduction_before: bool) -> None:
        super().__init__()
        self.pairs = pairs
        self.before = PlainReduce(before, c) if reduction_before else relu_conv_bn(before, c)
        self.last = relu_conv_bn(last, c)
        self.ops = nn.ModuleList(plain_operation(op, c, 2 if reduction and source < 2 else 1) for op, source in pairs)

    def forward(self, before: Tensor, last: Tensor, probability: float) -> Tensor:
        states = [self.before(before), self.last(last)]
        for node in range(4):
            results = []
            for i in (2 * node, 2 * node + 1):
                result = self.ops[i](states[self.pairs[i][1]])
                if self.training and probability > 0 and not isinstance(self.ops[i], nn.Identity):
                    result = drop_path(result, probability)
                results.append(result)
            states.append(results[0] + results[1])
        return torch.cat(states[2:], dim=1)


class PlainNetwork(nn.Module):
    def __init__(self, arch: Arch, image_channels: int, channels: int, layers: int, auxiliary: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(image_channels, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))
        self.cells, self.auxiliary_layer, self.auxiliary = nn.ModuleList(), 2 * layers // 3, None
        before, last, reduction_before, self.drop_path_prob = 3 * channels, 3 * channels, False, 0.0
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            pairs = arch["reduce" if reduction else "normal"]
            self.cells.append(PlainCell(pairs, before, last, channels, reduction, reduction_before))
            before, last, reduction_before = last, 4 * channels, reduction
            if auxiliary and layer == self.auxiliary_layer:
                small = [nn.ReLU(), nn.AvgPool2d(5, stride=3), nn.Conv2d(last, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU()]
                large = [nn.Conv2d(128, 768, 2, bias=False), nn.BatchNorm2d(768), nn.ReLU(), nn.Flatten(), nn.Linear(768, CLASSES)]
                self.auxiliary = nn.Sequential(*small, *large)
        self.classifier = nn.Linear(last, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        before = last = self.stem(x)
        extra = None
        for layer, cell in enumerate(self.cells):
            before, last = last, cell(before, last, self.drop_path_prob)
            if layer == self.auxiliary_layer and self.auxiliary is not None and self.training:
                extra = self.auxiliary(last)
        return self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1)), extra


class PlainMixture(nn.Module):
    def __init__(self, c: int, stride: int) -> None:
        super().__init__()
        self.ops = nn.ModuleList()
        for op in OPS:
            made = plain_operation(op, c, stride, affine=False)
            self.ops.append(nn.Sequential(made, nn.BatchNorm2d(c, affine=False)) if "pool" in op else made)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return sum(weight * op(x) for weight, op in zip(weights, self.ops, strict=True))


class PlainSearchCell(nn.Module):
    def __init__(self, before: int, last: int, c: int, reduction: bool, reduction_before: bool) -> None:
        super().__init__()
        self.reduction = reduction
        self.before = PlainReduce(before, c, affine=False) if reduction_before else relu_conv_bn(before, c, affine=False)
        self.last = relu_conv_bn(last, c, affine=False)
        self.edges = nn.ModuleList(PlainMixture(c, 2 if reduction and j < 2 else 1) for i in range(4) for j in range(i + 2))

    def forward(self, before: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        states, start = [self.before(before), self.last(last)], 0
        for _ in range(4):
            total = sum(self.edges[start + j](x, weights[start + j]) for j, x in enumerate(states))
            start += len(states)
            states.append(total)
        return torch.cat(states[2:], dim=1)


class PlainSupernet(nn.Module):
    def __init__(self, image_channels: int, channels: int, layers: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(image_channels, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))
        self.cells = nn.ModuleList()
        before, last, reduction_before = 3 * channels, 3 * channels, False
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            self.cells.append(PlainSearchCell(before, last, channels, reduction, reduction_before))
            before, last, reduction_before = last, 4 * channels, reduction
        self.classifier = nn.Linear(last, CLASSES)
        self.strengths = nn.ParameterList(1e-3 * torch.randn(14, len(OPS)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        before = last = self.stem(x)
        for cell in self.cells:
            before, last = last, cell(before, last, F.softmax(self.strengths[cell.reduction], dim=-1))
        return self.classifier(F.adaptive_avg_pool2d(last, 1).flatten(1))


# Training


class Cutout:
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        h, w = image.shape[1:]
        mask = np.ones((h, w), np.float32)
        y, x = np.random.randint(h), np.random.randint(w)
        half = self.length // 2
        mask[max(0, y - half) : y + half, max(0, x - half) : x + half] = 0.0
        return image * torch.from_numpy(mask).expand_as(image)


class PlainImages(Dataset):
    """Images (n, h, w, 3) as torchvision's CIFAR-10 gives them."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], transform: Callable[[Any], Tensor]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


class PlainTraining:
    """Epochs of training and evaluation as in the original code."""

    def __init__(self, arch: Arch, recipe: Recipe, side: int, images: Mapping[str, Any], device: torch.device, workers: int) -> None:
        self.recipe, self.device, self.epoch = recipe, device, 0
        self.network = PlainNetwork(arch, 3, **recipe.networks["darts"]).to(device)
        rate, decay = recipe.learning_rate, recipe.weight_decay
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), rate, recipe.momentum, weight_decay=decay, nesterov=recipe.nesterov, foreach=False
        )
        end = [transforms.ToTensor(), transforms.Normalize([MEAN] * 3, [STD] * 3)]
        change = [transforms.RandomCrop(side, padding=recipe.padding), transforms.RandomHorizontalFlip(), *end]
        change += [Cutout(recipe.cutout)] if recipe.cutout else []
        self.train = PlainImages(*images["train"], transforms.Compose(change))
        options = {"batch_size": recipe.batch_size, "pin_memory": device.type == "cuda", "persistent_workers": workers > 0}
        self.loader = DataLoader(self.train, shuffle=True, num_workers=workers, **options)
        self.valid_loader = DataLoader(PlainImages(*images["valid"], transforms.Compose(end)), num_workers=workers, **options)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits, extra = self.network(images)
        loss = F.cross_entropy(logits, labels)
        return logits, loss if extra is None else loss + self.recipe.auxiliary_weight * F.cross_entropy(extra, labels)

    def update(self) -> None:
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip, foreach=False)
        self.optimizer.step()

    def train_epoch(self) -> None:
        self.network.train()
        self.network.drop_path_prob = self.recipe.drop_path * self.epoch / self.recipe.epochs
        self.epoch += 1
        total = 0.0
        for images, labels in self.loader:
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            self.optimizer.zero_grad()
            logits, loss = self.loss(images, labels)
            loss.backward()
            self.update()
            total += loss.item() * len(labels) + (logits.argmax(1) == labels).sum().item()

    def evaluate(self) -> float:
        self.network.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in self.valid_loader:
                logits, loss = self.loss(images.to(self.device), labels.to(self.device))
                loss.item()
                correct += (logits.argmax(1).cpu() == labels).sum().item()
        return correct / len(self.valid_loader.dataset)
