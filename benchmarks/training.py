"""Images per second of our training of DARTS networks, and time and memory of our supernet, against plain ones in the same process.

    python benchmarks/training.py [--settings digits,proxy] [--rounds 5] [--workers 2] [--threads N] [--device auto]

`plain_training.py` is what we are compared with. Both networks are checked to have the same parameters and to give the same logits, in
float32. Images are random: there is nothing to learn, and nothing to download. Both take turns: times are medians over the rounds,
ratios medians of each round's ratio. Of a GPU, ours uses bfloat16 where it can, as it does in every training there.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from plain_training import CLASSES, MEAN, STD, PlainSupernet, PlainTraining
from torch import Tensor, nn

from raynas.arch import Arch
from raynas.spaces.darts import GENOTYPES, DARTSSpace
from trainables.learning.augmentation import augmented
from trainables.learning.data import Data
from trainables.learning.networks.operations import memory_format
from trainables.learning.networks.supernet import Supernet
from trainables.learning.recipes import RECIPES
from trainables.learning.splits import Split
from trainables.learning.trainer import Trainer, make_device


@dataclass(frozen=True)
class Setting:
    """A size at which both are measured."""

    recipe: str
    network: Mapping[str, Any]  # options of the DARTS network
    side: int  # of the images, in pixels
    batches: int  # in an epoch
    supernet: Mapping[str, int]  # its options
    batch: int  # of the supernet


SETTINGS = {
    "digits": Setting("quick", {"channels": 4, "layers": 3}, 8, 18, {"channels": 4, "layers": 3}, 64),
    "proxy": Setting("darts-search", {"channels": 16, "layers": 8, "auxiliary": True}, 32, 3, {"channels": 8, "layers": 5}, 32),
    "full": Setting("darts-search", {"channels": 36, "layers": 20, "auxiliary": True}, 32, 20, {"channels": 16, "layers": 8}, 64),
}


def random_images(setting: Setting, batch_size: int) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    rng = np.random.default_rng(0)
    counts = {"train": setting.batches * batch_size, "valid": 2 * batch_size}
    shape = (setting.side, setting.side, 3)
    return {name: (rng.integers(256, size=(n, *shape), dtype=np.uint8), rng.integers(CLASSES, size=n)) for name, n in counts.items()}


def as_data(images: Mapping[str, Any]) -> Data:
    train, valid = (Split(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(y)) for x, y in images.values())
    names, statistics = tuple(map(str, range(CLASSES))), ((MEAN,) * 3, (STD,) * 3)
    return Data("random", train, valid, valid, CLASSES, train.images.shape[2], 3, *statistics, mirrored=True, class_names=names)


def check_equal(plain: nn.Module, ours: nn.Module, images: Tensor) -> int:
    """Gives `ours` the weights of `plain`, checks that they compute the same, and returns how many there are."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for a, b in zip([*plain.parameters(), *plain.buffers()], [*ours.parameters(), *_statistics(ours)], strict=True):
            assert a.shape == b.shape, f"{a.shape} in the plain network, {b.shape} in ours"
            b.copy_(a)
        results = [network.eval()(images) for network in (plain, ours)]
    first, second = (result[0] if isinstance(result, tuple) else result for result in results)
    torch.testing.assert_close(second, first, rtol=1e-2, atol=1e-3)
    return sum(weight.numel() for weight in ours.parameters())


def _statistics(network: nn.Module) -> Iterator[Tensor]:
    """Buffers of batch norms."""
    return (buffer for name, buffer in network.named_buffers() if name != "keep")


class Table:
    """Takes turns at the plain and our way of doing the same, and prints a row with both times and their ratio."""

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        print(f"{'':38s} {'plain':>10s} {'ours':>10s}   ratio")

    def seconds(self, call: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def times(self, plain: Callable[[], object], ours: Callable[[], object]) -> list[tuple[float, float]]:
        """Of each round, after two to warm up: CUDA graphs are captured in the second."""
        return [(self.seconds(plain), self.seconds(ours)) for _ in range(self.rounds + 2)][2:]

    def memory(self, plain: float, ours: float) -> None:
        print(f"{'kept for the gradients, MB':38s} {plain:10,.1f} {ours:10,.1f} {plain / ours:7.2f}")

    def row(self, name: str, times: list[tuple[float, float]], images: int | None = None) -> None:
        """Milliseconds, or images per second if there is a number of images."""
        medians = [statistics.median(column) for column in zip(*times, strict=True)]
        shown = [1e3 * t if images is None else images / t for t in medians]
        unit = "ms" if images is None else "images/s"
        print(f"{name + ', ' + unit:38s} {shown[0]:10,.1f} {shown[1]:10,.1f} {statistics.median(a / b for a, b in times):7.2f}")


def held(network: nn.Module, images: Tensor) -> float:
    """Megabytes that a forward pass in float32 keeps for the backward pass, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, Tensor] = {}  # by address; they live on, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e6


def measure_pieces(table: Table, plain: PlainTraining, trainer: Trainer) -> None:
    """One batch: what each piece of a training step, and an evaluation, takes."""
    recipe, device, train = trainer.recipe, trainer.device, trainer.data.train.to(trainer.device)
    generator = torch.Generator(device).manual_seed(0)

    def plain_input() -> tuple[Tensor, Tensor]:
        items = [plain.train[i] for i in range(recipe.batch_size)]
        images, labels = torch.utils.data.default_collate(items)
        return images.to(device), labels.to(device)

    def our_input() -> tuple[Tensor, Tensor]:
        batch = torch.randperm(len(train), generator=generator, device=device)[: recipe.batch_size]
        ((images, labels),) = train.batches([batch])
        changed = augmented(images, trainer.data, recipe, trainer.normalize, generator, partial(trainer._seed_of, 0))
        return trainer._formatted(changed), labels

    def our_loss(images: Tensor, labels: Tensor) -> Tensor:
        with trainer._autocast():
            outputs = trainer._averaging(images)
            logits, extra = outputs if isinstance(outputs, tuple) else (outputs, None)
            loss = F.cross_entropy(logits, labels)
            return loss if extra is None else loss + recipe.auxiliary_weight * F.cross_entropy(extra, labels)

    def our_update() -> None:
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(trainer.network.parameters(), recipe.clip)
        trainer.optimizer.step()

    table.row("input of a batch", table.times(plain_input, our_input))
    inputs, ours = plain_input(), our_input()
    table.memory(held(plain.network, inputs[0]), held(trainer.network, ours[0]))
    losses: dict[str, Tensor] = {}
    rows: dict[str, list[tuple[float, float]]] = {"forward": [], "backward": [], "optimizer": []}
    for network in (plain.network, trainer.network):
        network.train()
        network.drop_path_prob = recipe.drop_path / 2
    for _ in range(table.rounds + 2):
        plain.optimizer.zero_grad()
        trainer.optimizer.zero_grad()
        steps = {
            "forward": (lambda: losses.update(plain=plain.loss(*inputs)[1]), lambda: losses.update(ours=our_loss(*ours))),
            "backward": (lambda: losses["plain"].backward(), lambda: losses["ours"].backward()),
            "optimizer": (plain.update, our_update),
        }
        for name, (first, second) in steps.items():
            rows[name].append((table.seconds(first), table.seconds(second)))
    for name, times in rows.items():
        table.row(f"{name} of a batch", times[2:])


def measure_training(setting: Setting, arch: Arch, table: Table, workers: int, float32: bool, graphs: bool) -> None:
    """The rows of the networks: pieces, then whole epochs."""
    device, given = table.device, RECIPES[setting.recipe]
    recipe = replace(given, networks={"darts": setting.network}, epochs=50)
    images = random_images(setting, recipe.batch_size)
    trainer = Trainer(DARTSSpace(), arch, as_data(images), recipe, device, seed=0, graphs=graphs)
    trainer._bf16 = trainer._bf16 and not float32
    plain, alone = (PlainTraining(arch, recipe, setting.side, images, device, n) for n in (workers, 0))
    ((some, _),) = trainer.data.valid.batches([torch.arange(8)], device=device)
    example = trainer.normalize(some)
    count = check_equal(plain.network, trainer.network, example)
    size = f"{setting.side}x{setting.side}x3"
    print(f"network: {dict(setting.network)}, {count:,} parameters, batches of {recipe.batch_size} images of {size}")
    measure_pieces(table, plain, trainer)
    total = len(images["train"][1])
    table.row("evaluation", table.times(plain.evaluate, lambda: trainer.evaluate("valid")), len(images["valid"][1]))
    table.row(f"training, {workers} loader processes", table.times(plain.train_epoch, trainer.train_epoch), total)
    table.row("training, no loader process", table.times(alone.train_epoch, trainer.train_epoch), total)


def measure_supernet(setting: Setting, table: Table) -> None:
    """The rows of the supernets: a step that makes the gradients of all weights, and the memory it needs."""
    device, options = table.device, dict(setting.supernet)
    plain, ours = PlainSupernet(3, **options).to(device), Supernet(CLASSES, setting.side, 3, **options).to(device)
    layout = memory_format(ours, device)
    ours = ours.to(memory_format=layout)
    images = torch.randn(setting.batch, 3, setting.side, setting.side, device=device)
    labels = torch.randint(CLASSES, (setting.batch,), device=device)
    count = check_equal(plain, ours, images)
    print(f"supernet: {options}, {count:,} parameters, batches of {setting.batch}")

    def step(network: nn.Module, inputs: Tensor) -> None:
        network.train().zero_grad()
        F.cross_entropy(network(inputs), labels).backward()

    inputs = images.contiguous(memory_format=layout)
    times = table.times(lambda: step(plain, images), lambda: step(ours, inputs))
    table.row("gradients of all weights", times, setting.batch)
    table.memory(held(plain, images), held(ours, inputs))


def main() -> None:
    """Prints a table for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default="digits,proxy", help=f"of {', '.join(SETTINGS)}; full is for GPUs")
    parser.add_argument("--arch", default="DARTS_V2", choices=GENOTYPES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes that load images for the plain training; the original has 2")
    parser.add_argument("--threads", type=int, help="of PyTorch; by default as many as it takes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--float32", action="store_true", help="ours in float32 on a GPU, too")
    parser.add_argument("--cuda-graphs", action="store_true", help="ours replays its steps on a GPU")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = make_device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"PyTorch {torch.__version__}, {name}, {arguments.arch}")
    torch.manual_seed(0)
    np.random.seed(0)
    for setting in arguments.settings.split(","):
        print(f"\n{setting}")
        table = Table(device, arguments.rounds)
        arch = DARTSSpace(with_none=True).from_genotype(**GENOTYPES[arguments.arch])
        measure_training(SETTINGS[setting], arch, table, arguments.workers, arguments.float32, arguments.cuda_graphs)
        measure_supernet(SETTINGS[setting], table)


if __name__ == "__main__":
    main()
