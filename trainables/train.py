"""A trial that trains: one step is one epoch."""

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.tune import Trainable

from raynas.errors import ConfigError
from raynas.outcome import Metric
from raynas.spaces import SearchSpace, make_space
from trainables.base import Plan
from trainables.learning.data import Data, load
from trainables.learning.photos import damage
from trainables.learning.proxies import AtInitialisation
from trainables.learning.recipes import Recipe, make_recipe
from trainables.learning.replay import free
from trainables.learning.team import dumped
from trainables.learning.testing import latency
from trainables.learning.trainer import Trainer, device_name, limit_threads, make_device

_load = lru_cache(maxsize=1)(load)  # one process runs many trials


def _data(config: dict[str, Any], recipe: Recipe) -> Data:
    data: Data = _load(config["dataset"], config.get("seed", 0), recipe.validation, config.get("data_dir"), recipe.view)
    return data


def _asked(config: dict[str, Any]) -> tuple[SearchSpace, Recipe]:
    space = make_space(config["space"], config.get("space_options"))
    return space, make_recipe(config.get("recipe"), space, config["dataset"], "search")


class TrainTrial(Trainable):  # type: ignore[misc]  # ray has no types
    """One step trains the network of an architecture for an epoch and validates it.

    Config: `arch` (the form of `Arch.to_config`), `space` (a name or module:Class), `space_options` ({}), `dataset` (see
    `learning.data.load`), `max_epochs` (None: those of the recipe; the learning rate falls to 0 over them), `seed` (0: of the validation
    images and of the training, the same for all trials), `recipe` (see `make_recipe`; None: that of the publication, for digits
    `quick`), `data_dir` (None: ~/.cache/raynas), `batch_size` (None: that of the recipe), `device` ("auto"), `cuda_graphs` (False:
    whether a GPU replays training steps) and `latency` (None; images at once for which the network is timed). A trial has its own
    working directory, so paths must be absolute.

    Each report has `epoch`, `valid_accuracy`, `test_accuracy` (None: a search must not see it), `train_loss`, `train_seconds` (of all
    epochs so far), `network_parameters` and `network_flops` (of the network as it is trained, with auxiliary head and for these images;
    `SearchSpace.cost` is that of the published one), `latency` (where it is asked for), `device` (its name) and `warning` (None, or a
    line for the user); the last one has `done`. A trial that runs out of a GPU's memory repeats the epoch once with batches in two
    halves, whose gradients add up.
    """

    metrics = (
        Metric("network_parameters", "min", "weights", low=0.0),
        Metric("network_flops", "min", "multiply-accumulates", low=0.0),
        Metric(
            "latency",
            "min",
            "ms",
            "median time in which the network classifies a batch on the trial's device, which others may use",
            low=0.0,
        ),
    )

    @classmethod
    def plan(
        cls,
        *,
        space: str,
        dataset: str,
        max_epochs: int | None,
        space_options: dict[str, Any] | None = None,
        table: str | None = None,
        seed: int = 0,
        recipe: str | dict[str, Any] | None = None,
        data_dir: str | None = None,
        batch_size: int | None = None,
        device: str = "auto",
        cuda_graphs: bool = False,
        latency: int | None = None,
        **others: Any,
    ) -> Plan:
        """Loads the data and builds one network and its optimizer, so that what cannot work is found before the first trial."""
        if table is not None:
            raise ConfigError(f"a trial that trains reads no table; leave {table} out, or use the trainable 'lookup'")
        folder = dataset.removeprefix("folder:") if dataset.startswith("folder:") else None
        for key, path in {"data_dir": data_dir, "dataset": folder}.items():
            if path is not None and not Path(path).expanduser().is_absolute():
                raise ConfigError(f"trials have working directories of their own, so the path in {key} must be absolute, not {path}")
        if batch_size is not None and batch_size < 2:
            raise ConfigError(f"batch_size must be at least 2, not {batch_size}")
        if latency is not None and latency < 1:
            raise ConfigError(f"latency must be the number of images that are classified at once, such as 1, not {latency!r}")
        try:
            torch.device("cpu" if device == "auto" else device)
        except RuntimeError as error:  # whether it is there, only the machine of the trial knows
            raise ConfigError(f"there is no device {device!r}; allowed: auto, cpu, cuda, cuda:0, ...") from error
        made = make_space(space, space_options)
        chosen = make_recipe(recipe, made, dataset, "search")
        data = _data({"dataset": dataset, "seed": seed, "data_dir": data_dir}, chosen)
        Trainer(made, made.sample(np.random.default_rng(seed)), data, chosen, torch.device("cpu"), seed)
        return Plan(chosen.epochs if max_epochs is None else max_epochs)

    @classmethod
    def proxies(cls, config: dict[str, Any]) -> AtInitialisation:
        """Of the networks of these trials; those of one are computed at once, so that what cannot work is found before the first trial."""
        space, recipe = _asked(config)
        measure = AtInitialisation.of(space, _data(config, recipe), recipe, config["seed"])
        measure.computed(space.sample(np.random.default_rng(config["seed"])))
        return measure

    def setup(self, config: dict[str, Any]) -> None:
        limit_threads(self.trial_resources)
        self._settings = config
        self._space, self._recipe = _asked(config)
        self._arch = self._space.from_config(config["arch"])
        self._warning: str | None = None  # of the next report
        self._damaged: set[str] = set()  # images that were told of
        self._latency: float | None = None  # measured once: it does not depend on the weights
        self._make_trainer(micro_batches=1)

    def _make_trainer(self, micro_batches: int) -> None:
        config = self._settings
        self._trainer: Trainer | None = None
        free()
        data, device = _data(config, self._recipe), make_device(config.get("device", "auto"))
        limits = config.get("max_epochs"), config.get("batch_size"), micro_batches
        graphs = config.get("cuda_graphs", False)
        self._trainer = Trainer(self._space, self._arch, data, self._recipe, device, config.get("seed", 0), *limits, graphs=graphs)

    def step(self) -> dict[str, Any]:
        before = self._saved()
        try:
            return self._epoch()
        except torch.OutOfMemoryError:
            assert self._trainer is not None
            if self._trainer.micro_batches > 1:
                raise
        # Only now, as the error keeps the tensors of the epoch alive.
        self._make_trainer(micro_batches=2)
        self._restore(self._read(io.BytesIO(before)))
        return self._epoch()

    def _epoch(self) -> dict[str, Any]:
        trainer = self._trainer
        assert trainer is not None
        report = trainer.train_epoch()
        warning, self._warning = self._warning, None
        if unseen := trainer.data.damaged - self._damaged:
            self._damaged |= unseen
            warning = damage(unseen, len(trainer.data.train))
        valid_accuracy, images = trainer.evaluate("valid"), self._settings.get("latency")  # the network is in evaluation mode then
        if images and self._latency is None:
            self._latency = latency(trainer.network, trainer.data.channels, trainer.data.image_size, images)
        return {
            "epoch": trainer.epoch,
            "valid_accuracy": valid_accuracy,
            "test_accuracy": None,
            "train_loss": report["train_loss"],
            "train_seconds": trainer.train_seconds,
            "network_parameters": trainer.parameters,
            "network_flops": trainer.flops,
            **({} if self._latency is None else {"latency": self._latency}),
            "device": device_name(trainer.device),
            "done": trainer.epoch == trainer.epochs,
            "warning": warning,
        }

    @property
    def network(self) -> torch.nn.Module:
        """The network that is trained."""
        assert self._trainer is not None
        network: torch.nn.Module = self._trainer.network
        return network

    def _saved(self) -> bytes:
        assert self._trainer is not None
        return dumped(self._trainer.state_dict())

    def _read(self, file: Any) -> Any:
        assert self._trainer is not None
        return torch.load(file, map_location=self._trainer.device, weights_only=True)

    def _restore(self, state: Any) -> None:
        assert self._trainer is not None
        self._trainer.load_state_dict(state)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Makes the actor the trial of `new_config` (Tune's reuse_actors): `setup` assigns every attribute, so nothing is left over."""
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "state.pt").write_bytes(self._saved())

    def load_checkpoint(self, checkpoint: str) -> None:
        """Goes on from a checkpoint. With one that cannot be read the trial begins again, and its next report says so.

        Raises:
            ResumeError: the checkpoint is of another training.
        """
        try:
            state = self._read(Path(checkpoint) / "state.pt")
        except Exception as error:  # torch.load promises no type of error for a file that is damaged
            reason = (str(error).splitlines() or [""])[0]
            self._warning = f"its checkpoint cannot be read, so it begins again ({type(error).__name__}: {reason})"
        else:
            self._restore(state)
