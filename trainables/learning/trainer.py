"""Training of one architecture on one device, or as one of several equal workers, an epoch at a time.

n: images, c: channels, h and w: height and width in pixels.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import cos, isfinite, pi
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from raynas.arch import Arch
from raynas.errors import ConfigError, RaynasError, ResumeError
from raynas.spaces import SearchSpace
from trainables.learning.augmentation import augmented, middle, mix
from trainables.learning.blame import blamed
from trainables.learning.calibration import calibrate
from trainables.learning.data import Data
from trainables.learning.networks import make_network
from trainables.learning.networks.counting import count
from trainables.learning.networks.operations import memory_format
from trainables.learning.recipes import Recipe
from trainables.learning.replay import replayed
from trainables.learning.rmsprop import TensorFlowRMSprop
from trainables.learning.splits import StreamedSplit
from trainables.learning.testing import accuracy

FORMAT = 1  # of `Trainer.state_dict`
SplitName = Literal["train", "valid", "test"]


class TrainingError(RaynasError):
    """A training cannot go on."""


class Normalize(nn.Module):
    """Images in [0, 1] -> images of mean 0 and deviation 1 in each channel: (n, c, h, w) -> (n, c, h, w)."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def make_device(name: str) -> torch.device:
    """The device `name`; "auto": a GPU where there is one, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}; auto chooses one") from error
    return device


def device_name(device: torch.device) -> str:
    """What people call a device: `cpu`, or `cuda:3 NVIDIA A10G`, counted as the machine does where Ray shows a process some GPUs only."""
    if device.type != "cuda":
        return str(device)
    index, shown = device.index or 0, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    number = shown[index] if index < len(shown) and shown[index] else index
    return f"cuda:{number} {torch.cuda.get_device_name(device)}"


def has_bf16(device: torch.device) -> bool:
    """Whether to train in bfloat16: on a GPU that computes in it. Those that only emulate it are slower with it than in float32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def limit_threads(resources: Any) -> None:
    """At most as many threads as there are CPUs in a trial's resources (Tune's, None: not a trial).

    Where OMP_NUM_THREADS is set Ray leaves this alone, and two trials with two threads each on two cores took 8 times as long.
    """
    if resources is not None:
        torch.set_num_threads(min(torch.get_num_threads(), max(1, int(resources.required_resources.get("CPU", 1)))))


def check_shares(batch_size: int, workers: int, micro_batches: int = 1) -> None:
    """Checks that `workers` can take equal shares of each batch.

    Raises:
        ConfigError: they cannot.
    """
    if workers > 1 and micro_batches > 1:
        raise ConfigError("batches are divided among workers or into micro-batches, not both; add workers to save memory")
    if batch_size % workers or batch_size < 2 * workers:
        up = max(2, -(-batch_size // workers)) * workers
        raise ConfigError(
            f"{workers} workers cannot share batches of {batch_size} images, at least 2 each; choose a batch size such as {up}"
        )


class Trainer:
    """Trains the network of `arch`, of `space`, on `data` as `recipe` says.

    What is random in an epoch follows from `seed` and the number of the epoch alone, so that a training that goes on from a saved
    state is, on a CPU with the same number of threads, equal to one that never stopped, bit for bit.

    Within a process group of torch.distributed its processes train one network together: each makes a Trainer with the same
    arguments and calls the same methods in the same order. Each step takes the batch that one process alone would take, changed in
    the same random ways; every process computes the gradient of its share, and they are averaged. So only batch norms, which see the
    shares, and rounding differ from a training in one process. Reports are those of all shares, the same in each process.

    Args:
        epochs: after which the learning rate is 0; None: those of the recipe.
        batch_size: of all processes together; None: that of the recipe.
        micro_batches: parts into which a batch is divided to save memory; gradients add up, batch norms see the parts.
        compiled: whether torch.compile makes the network faster; it needs a C++ compiler, and takes its time at first.
        graphs: whether a GPU replays training steps from CUDA graphs, see `replay`; without effect where one of the others counts.

    Raises:
        ConfigError: the network does not fit the images, or the batch not the number of processes; or nothing can be compiled here.
    """

    def __init__(
        self,
        space: SearchSpace,
        arch: Arch,
        data: Data,
        recipe: Recipe,
        device: torch.device,
        seed: int,
        epochs: int | None = None,
        batch_size: int | None = None,
        micro_batches: int = 1,
        compiled: bool = False,
        graphs: bool = False,
    ) -> None:
        self.space, self.arch, self.data, self.recipe, self.device, self.seed = space, arch, data, recipe, device, seed
        self.epochs = recipe.epochs if epochs is None else epochs
        self.batch_size = recipe.batch_size if batch_size is None else batch_size
        self.micro_batches, self.compiled, self.graphs = micro_batches, compiled, graphs
        if self.epochs < 1 or self.batch_size < 2:
            raise ConfigError(
                f"a training needs at least 1 epoch and batches of at least 2 images, not {self.epochs} and {self.batch_size}"
            )
        self.rank, self.workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        check_shares(self.batch_size, self.workers, micro_batches)
        self.epoch = 0  # how many are done
        self.train_seconds = 0.0  # spent on training so far
        with self._randomness(0):
            network = make_network(space, arch, data.classes, data.image_size, data.channels, **recipe.network_options(space.name))
        self._format = memory_format(network, device)
        self.network = network.to(device, memory_format=self._format)  # type: ignore[call-overload]
        with blamed(f"the network of space {space.name!r}"):
            counted = count(self.network, data.channels, data.image_size)
        self.parameters, self.flops = counted.parameters, counted.products
        self.optimizer = _optimizer(recipe, self.network)
        self._model = _compiled(self.network, device) if compiled else self.network
        self._averaging: Callable[[Tensor], Any] = self._model  # its gradients are averages over the workers
        if self.workers > 1:
            # A static graph may have layers that are never used. Batch norms are averaged after each epoch instead.
            self._averaging = DistributedDataParallel(self._model, broadcast_buffers=False, static_graph=True)
        elif graphs and micro_batches == 1 and not compiled and not isinstance(data.train, StreamedSplit):  # threads disturb captures
            self._averaging = replayed(self.network, device)
        self.normalize = Normalize(data.mean, data.std).to(device)
        self._bf16 = has_bf16(device)
        self._splits = {"train": data.train.to(device), "valid": data.valid.to(device), "test": data.test}  # tested once, batch by batch

    @contextmanager
    def _randomness(self, epoch: int) -> Iterator[None]:
        """Within it, torch's global generators follow from the seed and the number of the epoch, 0 for the initial weights."""
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(_derived(self.seed, epoch, 2 * self.rank))  # each worker drops other paths
            yield

    def train_epoch(self) -> dict[str, float]:
        """Trains on every training image once.

        Returns `epoch` (from 1 on), `train_loss` (mean cross entropy, without that of an auxiliary head), `train_accuracy`
        (of the changed images, while the weights change), `learning_rate` (of the last step) and `train_seconds` (of all epochs).

        Raises:
            TrainingError: the loss became infinite or no number; no epoch is left.
            DataError: an image that is streamed cannot be read.
        """
        if self.epoch >= self.epochs:
            raise TrainingError(f"all {self.epochs} epochs are done; a longer training must start anew, with more epochs")
        began, rate = time.perf_counter(), 0.0
        totals = torch.zeros(2, device=self.device)  # loss, correct
        train = self._splits["train"]
        self.network.train()
        if hasattr(self.network, "drop_path_prob"):
            self.network.drop_path_prob = self.recipe.drop_path * self.epoch / self.epochs
        with self._randomness(self.epoch + 1):
            generator = torch.Generator(self.device).manual_seed(_derived(self.seed, self.epoch + 1, 1))
            order = torch.randperm(len(train), generator=generator, device=self.device)
            smallest = 2 * self.workers  # no batch norm of a single image
            batches = [batch for batch in torch.split(order, self.batch_size) if len(batch) >= smallest]
            for step, (images, labels) in enumerate(train.batches(batches, (self.rank, self.workers))):
                rate = self._set_learning_rate(step / len(batches))
                images = augmented(images, self.data, self.recipe, self.normalize, generator, partial(self._seed_of, step))
                totals += self._step(images, labels, step)
            if self.recipe.calibration:
                self._calibrate(order[: self.recipe.calibration])
        self._average_statistics()
        loss, accuracy = (self._sum(totals) / sum(map(len, batches))).tolist()
        if not isfinite(loss):
            raise TrainingError(f"the training diverged: the loss of epoch {self.epoch + 1} is {loss}; try another seed or architecture")
        self.epoch += 1
        self.train_seconds += time.perf_counter() - began
        return {
            "epoch": self.epoch,
            "train_loss": loss,
            "train_accuracy": accuracy,
            "learning_rate": rate,
            "train_seconds": self.train_seconds,
        }

    def _set_learning_rate(self, progress: float) -> float:
        """Along half a cosine, https://arxiv.org/abs/1608.03983 without restarts; `progress` within the epoch, in [0, 1)."""
        position = self.epoch + (progress if self.recipe.cosine == "step" else 0.0)
        rate = self.recipe.learning_rate * (1 + cos(pi * position / self.epochs)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _seed_of(self, step: int, use: int) -> int:
        """A seed of the current epoch's step for one use."""
        return _derived(self.seed, self.epoch + 1, step, use)

    def _step(self, images: Tensor, labels: Tensor, step: int) -> Tensor:
        """One step of the optimizer, on this worker's share of a batch.

        Returns (2,): the sum of the losses, and how many images were classified correctly; a mixed one as what most of it is.
        """
        self.optimizer.zero_grad(set_to_none=True)
        totals, size = torch.zeros(2, device=self.device), len(labels) / self.workers
        images, labels = (part.tensor_split(self.workers)[self.rank] for part in (images, labels))
        if self.recipe.mixup or self.recipe.cutmix:
            alphas = self.recipe.mixup, self.recipe.cutmix
            images, labels = mix(images, labels, self.data.classes, *alphas, self._seed_of(step, 3 + self.rank))
        parts = min(self.micro_batches, len(labels) // 2)  # no batch norm of a single image
        for x, y in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            with self._autocast():
                output = self._averaging(self._formatted(x))
                logits, auxiliary = output if isinstance(output, tuple) else (output, None)
                loss = own = self._loss(logits, y)
                if auxiliary is not None:
                    loss = own + self.recipe.auxiliary_weight * self._loss(auxiliary, y)
            (loss / size).backward()  # type: ignore[no-untyped-call]
            totals += torch.stack([own.detach(), (logits.argmax(1) == (y if y.ndim == 1 else y.argmax(1))).sum()])
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()
        return totals

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross entropies: (n, classes), (n,) or (n, classes) probabilities -> ()."""
        return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.recipe.label_smoothing)

    def _sum(self, values: Tensor) -> Tensor:
        """The sum over all workers, in place."""
        if self.workers > 1:
            dist.all_reduce(values)
        return values

    def _calibrate(self, chosen: Tensor) -> None:
        """Sets the statistics of batch norms to those of some training images, unchanged, of each worker's share."""
        share = chosen[self.rank :: self.workers]
        batches = [batch for batch in torch.split(share, max(2, self.batch_size // self.workers)) if len(batch) > 1] or [chosen[:2]]
        with self._autocast():
            calibrate(self.network, (self._formatted(self._seen(images)) for images, _ in self._splits["train"].batches(batches)))

    def _seen(self, images: Tensor) -> Tensor:
        """Images as a network sees them outside of training."""
        return self.normalize(middle(images, self.data.image_size))  # type: ignore[no-any-return]

    def _average_statistics(self) -> None:
        """Gives all workers the mean of what their batch norms saw."""
        if self.workers > 1:
            for norm in (module for module in self.network.modules() if isinstance(module, _BatchNorm)):
                for statistic in (norm.running_mean, norm.running_var):
                    assert statistic is not None
                    self._sum(statistic).div_(self.workers)

    def evaluate(self, split: SplitName) -> float | None:
        """The fraction of a split's images, unchanged, that the network classifies correctly; None if there are no images.

        Raises: as `confusion`.
        """
        return accuracy(self.confusion(split))

    def confusion(self, split: SplitName) -> Tensor:
        """(classes, classes) int64: how many of a split's images, unchanged, of a class (row) the network takes for a class (column).

        Raises:
            TrainingError: the network's outputs are no numbers.
            DataError: an image that is streamed cannot be read.
        """
        part, classes = self._splits[split], self.data.classes
        counts = torch.zeros(classes**2 + 1, dtype=torch.int64, device=self.device)  # the last one of outputs that are no numbers
        self.network.eval()
        share = torch.arange(len(part), device=part.labels.device)[self.rank :: self.workers]
        batches = torch.split(share, 2 * max(1, self.batch_size // self.micro_batches // self.workers))
        with torch.inference_mode(), self._autocast():
            for images, labels in part.batches(batches if len(share) else [], device=self.device):
                logits = self._model(self._formatted(self._seen(images)))
                counts += torch.bincount(classes * labels + logits.argmax(1), minlength=len(counts))
                counts[-1] += (~logits.isfinite()).sum()
        if self._sum(counts)[-1]:
            raise TrainingError("the training diverged: outputs of the network are not finite; try another seed or architecture")
        return counts[:-1].view(classes, classes).cpu()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def _formatted(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=self._format)

    @property
    def arguments(self) -> dict[str, Any]:
        """With which another Trainer, on any device, trains in the same way."""
        names = ("space", "arch", "data", "recipe", "seed", "epochs", "batch_size", "micro_batches", "compiled", "graphs")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Everything from which another Trainer can go on: tensors, numbers and texts only, not copied."""
        return {
            **self._identity(),
            "epoch": self.epoch,
            "train_seconds": self.train_seconds,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was called.

        Raises:
            ResumeError: the state is of another training; nothing has changed then.
        """
        for key, own in self._identity().items():
            found = state.get(key) if isinstance(state, Mapping) else None
            if found != own:
                raise ResumeError(f"the checkpoint is of another training: its {key} is {found!r}, here it is {own!r}")
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.train_seconds = state["epoch"], state["train_seconds"]

    def _identity(self) -> dict[str, Any]:
        """What a state must agree with; not the batch size, which memory may force to change."""
        data = self.data
        return {
            "format": FORMAT,
            "space": self.arch.space,
            "architecture": self.arch.id,
            "classes": data.classes,
            "images": [data.channels, data.image_size, data.image_size],
            "recipe": self.recipe.name,
            "epochs": self.epochs,
            "seed": self.seed,
        }


def _derived(*key: int) -> int:
    """A seed of 63 bits that follows from the numbers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """The network, to be compiled when it first runs; it shares the weights."""
    try:
        torch.compile(torch.neg)(torch.ones(1, device=device))
    except Exception as error:  # of whatever kind, depending on what is missing
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--compile does not work on this machine ({reason}); leave it out, or install a C++ compiler") from error
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
    return compiled


def _optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "rmsprop":
        return TensorFlowRMSprop(parameters, rate, momentum=recipe.momentum, weight_decay=decay)
    return torch.optim.SGD(parameters, rate, recipe.momentum, weight_decay=decay, nesterov=recipe.nesterov, fused=True)
