"""Trials that search by themselves: one network, which holds all cells of the DARTS space, is trained, and a cell read off it.

n: images, c: channels, h and w: height and width in pixels.
"""

import json
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import cos, isfinite, pi
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from ray.tune import Trainable
from torch import Tensor, nn

from raynas.arch import Arch
from raynas.errors import ConfigError, ResumeError
from raynas.spaces import make_space
from trainables.base import Plan
from trainables.learning.augmentation import random_crop, random_flip
from trainables.learning.bilevel import second_order_gradients
from trainables.learning.data import Data, View, load
from trainables.learning.networks.supernet import Supernet
from trainables.learning.splits import Split, StreamedSplit
from trainables.learning.trainer import Normalize, TrainingError, limit_threads, make_device

FORMAT = 1  # of a checkpoint


@dataclass(frozen=True, kw_only=True)
class Options:
    """What all one-shot searches share. The learning rate falls by the epoch, along half a cosine.

    The validation images are those that choose the cell. Training and validation images are cropped and mirrored at random, as in
    the publications; an accuracy is that of unchanged ones.
    """

    epochs: int
    channels: int = 16  # of the first cell
    layers: int = 8  # cells
    batch_size: int = 64
    learning_rate: float = 0.025
    learning_rate_min: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip: float = 5.0  # largest norm of the gradient of the weights
    validation: float = 0.5  # fraction of the training images
    padding: int | None = None  # margin in pixels for random crops; None: an eighth of the side of the image, 4 for CIFAR-10
    image_size: int | None = None  # of photographs in a folder, in pixels; None: they are square and of one size, and keep it
    data_dir: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, least in {"epochs": 1, "batch_size": 2, "padding": 0, "image_size": 8}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} of a one-shot search must be at least {least}, not {value}")
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation of a one-shot search must lie between 0 and 1, not {self.validation}: these images choose")

    @property
    def steps(self) -> int:
        """How often a trial reports."""
        return self.epochs


@dataclass(frozen=True, kw_only=True)
class DartsOptions(Options):
    """Liu et al. 2019, https://arxiv.org/abs/1806.09055, section 3.1.1."""

    epochs: int = 50
    order: Literal[1, 2] = 2  # of the approximation of the gradient
    alpha_learning_rate: float = 3e-4  # Adam's, for the strengths of the operations
    alpha_weight_decay: float = 1e-3
    warmup: float = 0.0  # fraction of the epochs in which only the weights are trained
    partial: int = 1  # one channel in so many passes through the operations


@dataclass(frozen=True, kw_only=True)
class PCDartsOptions(DartsOptions):
    """Xu et al. 2020, https://arxiv.org/abs/1907.05737, section 4.2; https://github.com/yuhuixu1993/PC-DARTS (train_search.py)."""

    order: Literal[1, 2] = 1
    batch_size: int = 256
    learning_rate: float = 0.1
    alpha_learning_rate: float = 6e-4
    warmup: float = 0.3  # 15 of 50 epochs
    partial: int = 4


@dataclass(frozen=True, kw_only=True)
class RandomOptions(Options):
    """Li & Talwalkar 2019, https://arxiv.org/abs/1902.07638, the larger of their networks for CIFAR-10.

    https://github.com/liamcli/randomNAS_release (scripts/run_experiment.sh, searchers/random_weight_share.py).
    """

    epochs: int = 150
    channels: int = 24
    clip: float = 1.0
    rounds: int = 5  # of choosing a cell, after the epochs
    samples: int = 1000  # cells in a round
    batches: int = 10  # of validation images, on which each of them is tried
    finalists: int = 10  # of a round, which are tried on all validation images

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rounds", "samples", "batches", "finalists"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a one-shot search must be at least 1, not {getattr(self, name)}")

    @property
    def steps(self) -> int:
        return self.epochs + self.rounds


# What the options are for images that no publication searches on, as the recipe is for those that none trains on.
FOR_DATASETS = {"digits": {"epochs": 10, "channels": 4, "layers": 3, "rounds": 1, "samples": 200}}


class Batch(NamedTuple):
    """Images to train on."""

    images: Tensor  # (n, c, h, w), changed at random and normalised
    labels: Tensor  # (n,)


class OneShotTrial(Trainable):  # type: ignore[misc]  # ray has no types
    """One step is one epoch; methods differ in what they do before a step of the weights, and in how they choose.

    Config: `dataset` (see `learning.data.load`), `seed` (0: of the validation images, the weights and all else that is random), `space`
    ("darts"), `space_options` ({}), and the fields of the class's `Options`, which are small for digits unless given. A trial has its
    own working directory, so paths must be absolute.

    Each report has `epoch`, `train_loss`, `valid_accuracy` (of the supernet as it is; it does not tell how good the cell is when it is
    trained alone), `arch` (the cell as JSON text, or None before one is chosen), `train_seconds` (of all epochs so far) and `warning`
    (None, or a line for the user); the last one has `done`. All is computed in float32, not in TF32 as GPUs would: with it, the finite
    differences were a fifth off.
    """

    oneshot: ClassVar[bool] = True  # by this `raynas.search` knows that the trial proposes architectures instead of evaluating one
    Options: ClassVar[type[Any]]

    @classmethod
    def plan(cls, *, space: str, dataset: str, seed: int, space_options: dict[str, Any] | None = None, **options: Any) -> Plan:
        """Loads the data and builds the supernet, so that what cannot work is found before the first trial."""
        if space != "darts":
            raise ConfigError(f"one-shot searches know the space 'darts' alone, not {space!r}; add --space darts")
        make_space(space, space_options)
        chosen = cls._chosen(dataset, options)
        _supernet(chosen, _data(chosen, dataset, seed))
        make_device(chosen.device)
        return Plan(chosen.steps)

    @classmethod
    def _chosen(cls, dataset: str, given: Mapping[str, Any]) -> Any:
        """The `Options` that `given` holds among other things; what it leaves out is chosen for `dataset`, or else as published."""
        values = {**FOR_DATASETS.get(dataset, {}), **given}
        return cls.Options(**{f.name: values[f.name] for f in fields(cls.Options) if f.name in values})

    def setup(self, config: dict[str, Any]) -> None:
        limit_threads(self.trial_resources)
        self._options = self._chosen(config["dataset"], config)
        self._seed, self._dataset = config.get("seed", 0), config["dataset"]
        self._space = make_space(config.get("space", "darts"), config.get("space_options"))
        options, self._device = self._options, make_device(self._options.device)
        self._data = _data(options, self._dataset, self._seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(self._seed)
            self._supernet = _supernet(options, self._data).to(self._device)
        self._weights = self._supernet.weights()
        self._optimizer = torch.optim.SGD(self._weights, options.learning_rate, options.momentum, weight_decay=options.weight_decay)
        self._normalize = Normalize(self._data.mean, self._data.std).to(self._device)
        self._train, self._valid = (part.to(self._device) for part in (self._data.train, self._data.valid))
        self._epoch, self._seconds = 0, 0.0  # that are done, and that they took
        self._warning: str | None = None  # of the next report

    def step(self) -> dict[str, Any]:
        began = time.perf_counter()
        rng = np.random.default_rng((self._seed, self._epoch + 1))  # whatever happened before: this is how it goes on
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            report = self._report(rng)
        self._epoch += 1
        self._seconds += time.perf_counter() - began
        warning, self._warning = self._warning, None
        done = self._epoch == self._options.steps
        return report | {"epoch": self._epoch, "train_seconds": self._seconds, "done": done, "warning": warning}

    @abstractmethod
    def _report(self, rng: np.random.Generator) -> dict[str, Any]:
        """Does what the epoch is for; what there is to report of it."""

    @abstractmethod
    def _before_step(self, batch: Batch, rng: np.random.Generator, generator: torch.Generator) -> Arch | None:
        """What the method does before the weights learn from `batch`; the cell whose weights do, None: all."""

    def _epoch_of_training(self, rng: np.random.Generator) -> float:
        """Trains on every training image once; the mean loss.

        Raises:
            TrainingError: the loss became infinite or no number.
        """
        options = self._options
        generator = torch.Generator(self._device).manual_seed(int(rng.integers(2**63)))
        fallen = (1 + cos(pi * self._epoch / options.epochs)) / 2  # https://arxiv.org/abs/1608.03983 without restarts
        for group in self._optimizer.param_groups:
            group["lr"] = options.learning_rate_min + (options.learning_rate - options.learning_rate_min) * fallen
        self._supernet.train()
        order = torch.randperm(len(self._train), generator=generator, device=self._device)
        total, seen = torch.zeros((), device=self._device), 0
        for indices in torch.split(order, options.batch_size):
            if len(indices) < 2:  # no batch norm of a single image
                continue
            batch = self._batch(self._train, indices, generator)
            arch = self._before_step(batch, rng, generator)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss(batch, arch)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._weights, options.clip)
            self._optimizer.step()
            total += loss.detach() * len(indices)
            seen += len(indices)
        mean = float(total) / seen
        if not isfinite(mean):
            raise TrainingError(f"the supernet diverged: the loss of epoch {self._epoch + 1} is {mean}; try another seed or learning_rate")
        return mean

    def _batch(self, split: Split, indices: Tensor, generator: torch.Generator) -> Batch:
        ((images, labels),) = split.batches([indices])
        padding = self._data.image_size // 8 if self._options.padding is None else self._options.padding
        images = random_crop(images, padding, generator) if padding else images
        images = random_flip(images, generator) if self._data.mirrored else images
        return Batch(self._normalize(images), labels)

    def _loss(self, batch: Batch, arch: Arch | None = None) -> Tensor:
        return F.cross_entropy(self._supernet(batch.images, arch), batch.labels)

    @torch.no_grad()
    def _accuracy(self, arch: Arch | None, indices: Tensor | None = None) -> float:
        """The fraction of the validation images, of all or of those with `indices`, that a cell or the mixture classifies correctly."""
        if indices is None:
            indices = torch.arange(len(self._valid), device=self._device)
        self._supernet.eval()
        correct = torch.zeros((), device=self._device)
        for x, y in self._valid.batches(torch.split(indices, 2 * self._options.batch_size)):
            correct += (self._supernet(self._normalize(x), arch).argmax(1) == y).sum()
        return float(correct) / len(indices)

    # -- checkpoints -----------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        options = {key: value for key, value in asdict(self._options).items() if key not in ("data_dir", "device")}
        return {"format": FORMAT, "dataset": self._dataset, "seed": self._seed} | options

    def _state(self) -> dict[str, Any]:
        return {"supernet": self._supernet.state_dict(), "optimizer": self._optimizer.state_dict()}

    def _set_state(self, state: dict[str, Any]) -> None:
        self._supernet.load_state_dict(state["supernet"])
        self._optimizer.load_state_dict(state["optimizer"])

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        state = {"identity": self._identity(), "epoch": self._epoch, "seconds": self._seconds} | self._state()
        torch.save(state, Path(checkpoint_dir) / "state.pt")

    def load_checkpoint(self, checkpoint: str) -> None:
        """Goes on from a checkpoint. With one that cannot be read the trial begins again, and its next report says so.

        Raises:
            ResumeError: the checkpoint is of another search.
        """
        try:
            state = torch.load(Path(checkpoint) / "state.pt", map_location=self._device, weights_only=True)
        except Exception as error:  # torch.load promises no type of error for a file that is damaged
            reason = (str(error).splitlines() or [""])[0]
            self._warning = f"its checkpoint cannot be read, so it begins again ({type(error).__name__}: {reason})"
            return
        for key, own in self._identity().items():
            if state["identity"].get(key) != own:
                raise ResumeError(f"the checkpoint is of another search: its {key} is {state['identity'].get(key)!r}, here it is {own!r}")
        self._set_state(state)
        self._epoch, self._seconds = state["epoch"], state["seconds"]


class DartsTrial(OneShotTrial):
    """DARTS: gradient descent on the strengths of the operations and, alternating, on the weights. The options have the published values.

    With `partial` > 1 only one channel in so many passes through the operations, as in PC-DARTS, which also weighs edges.
    """

    Options = DartsOptions

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        options = self._options
        self._alphas = self._supernet.architecture()
        rates = {"lr": options.alpha_learning_rate, "weight_decay": options.alpha_weight_decay}
        self._alpha_optimizer = torch.optim.Adam(self._alphas, betas=(0.5, 0.999), **rates)

    def _report(self, rng: np.random.Generator) -> dict[str, Any]:
        loss = self._epoch_of_training(rng)
        return {"train_loss": loss, "valid_accuracy": self._accuracy(None), "arch": json.dumps(self._supernet.derive().to_config())}

    def _before_step(self, batch: Batch, rng: np.random.Generator, generator: torch.Generator) -> None:
        """A step of the strengths, on random validation images."""
        if self._epoch < self._options.warmup * self._options.epochs:
            return
        indices = torch.randperm(len(self._valid), generator=generator, device=self._device)[: self._options.batch_size]
        valid = self._batch(self._valid, indices, generator)
        if self._options.order == 2:
            losses = (lambda: self._loss(batch)), (lambda: self._loss(valid))
            gradients = second_order_gradients(*losses, self._weights, self._alphas, self._optimizer)
        else:
            gradients = list(torch.autograd.grad(self._loss(valid), self._alphas))
        for alpha, gradient in zip(self._alphas, gradients, strict=True):
            alpha.grad = gradient
        self._alpha_optimizer.step()

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"alpha_optimizer": self._alpha_optimizer.state_dict()}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self._alpha_optimizer.load_state_dict(state["alpha_optimizer"])


class PCDartsTrial(DartsTrial):
    """DARTS with partial channels as PC-DARTS was published."""

    Options = PCDartsOptions


class RandomTrial(OneShotTrial):
    """Random search with weight sharing: each step trains the weights of a random cell, then random cells compete with these weights.

    After the epochs come the rounds, a step each: of `samples` random cells the best `finalists` on some validation images are tried on
    all of them. All cells of a round see the same images, which in the published code they do not. Its cells may hold the operation
    `none`; here that is up to the space (`with_none`).
    """

    Options = RandomOptions

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        self._best: tuple[float, str] | None = None  # validation accuracy and cell of the best finalist
        self._newest: Arch  # of the cells that were trained

    def _report(self, rng: np.random.Generator) -> dict[str, Any]:
        if self._epoch < self._options.epochs:
            loss = self._epoch_of_training(rng)
            return {"train_loss": loss, "valid_accuracy": self._accuracy(self._newest), "arch": None}
        best = self._round(rng)
        if self._best is None or best[0] > self._best[0]:
            self._best = best
        return {"train_loss": None, "valid_accuracy": self._best[0], "arch": self._best[1]}

    def _before_step(self, batch: Batch, rng: np.random.Generator, generator: torch.Generator) -> Arch:
        self._newest = self._space.sample(rng)
        return self._newest

    def _round(self, rng: np.random.Generator) -> tuple[float, str]:
        """Validation accuracy of the best finalist, and the cell."""
        options = self._options
        some = torch.from_numpy(rng.permutation(len(self._valid))[: options.batches * options.batch_size]).to(self._device)
        cells = [self._space.sample(rng) for _ in range(options.samples)]
        finalists = sorted(cells, key=lambda arch: self._accuracy(arch, some), reverse=True)[: options.finalists]
        accuracies = [self._accuracy(arch) for arch in finalists]
        best = int(np.argmax(accuracies))
        return accuracies[best], json.dumps(finalists[best].to_config())

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"best": self._best}

    def _set_state(self, state: dict[str, Any]) -> None:
        super()._set_state(state)
        self._best = state["best"]


def _data(options: Any, dataset: str, seed: int) -> Data:
    view = None if options.image_size is None else View(options.image_size, options.image_size)
    data = load(dataset, seed, options.validation, options.data_dir, view)
    if isinstance(data.train, StreamedSplit):
        raise ConfigError(f"one-shot searches hold all images in memory; {dataset} has too many: resize them, or take some of them")
    return data


def _supernet(options: Any, data: Data) -> Supernet:
    sizes = {"channels": options.channels, "layers": options.layers, "partial": getattr(options, "partial", 1)}
    return Supernet(data.classes, data.image_size, data.channels, **sizes)
