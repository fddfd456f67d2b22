"""A trial that looks its results up in a benchmark table instead of training."""

import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ray.tune import Trainable

from raynas.errors import ConfigError
from raynas.spaces import SearchSpace, make_space
from raynas.tables import Table, open_table, searchable
from trainables.base import Plan

_table = lru_cache(maxsize=4)(open_table)  # one process runs many trials


@lru_cache(maxsize=4)
def _space(name: str, options: str) -> SearchSpace:
    return make_space(name, json.loads(options))


def report_epochs(table: Table, max_epochs: int | None) -> tuple[int, ...]:
    """The budgets of `table` at which a trial of at most `max_epochs` reports, ascending; None: all.

    Raises:
        ConfigError: `max_epochs` lies below the smallest budget.
    """
    epochs = tuple(budget for budget in table.budgets if max_epochs is None or budget <= max_epochs)
    if not epochs:
        known = ", ".join(map(str, table.budgets))
        raise ConfigError(f"max_epochs is {max_epochs}, but the table starts at {table.budgets[0]} epochs; its budgets are {known}")
    return epochs


class LookupTrial(Trainable):  # type: ignore[misc]  # ray has no types
    """One step is one budget of the table: the trial reports what the table knows of the architecture there.

    Config: `arch` (the form of `Arch.to_config`), `space` (a name or module:Class), `space_options` ({}), `table` (None: the installed
    one; a trial has its own working directory, so a local path must be absolute), `dataset`, `repeat` ("mean"), `max_epochs` (None: the
    largest budget) and `seconds_per_report` (0.0: how long a step sleeps, to rehearse a cluster).

    Each report has `epoch`, `valid_accuracy`, `test_accuracy` and `train_seconds` (None where the table has none); the last one has `done`.
    """

    @classmethod
    def plan(
        cls,
        *,
        space: str,
        table: str | None,
        dataset: str,
        max_epochs: int | None,
        space_options: dict[str, Any] | None = None,
        repeat: int | Literal["mean"] = "mean",
        seconds_per_report: float = 0.0,
        **others: Any,
    ) -> Plan:
        """Opens the table, so that a missing or wrong one is found before the first trial, and tells which architectures it holds."""
        made = make_space(space, space_options)
        opened = open_table(table, made.name, dataset)
        epochs = report_epochs(opened, max_epochs)
        optimum = opened.best("valid_accuracy", epochs[-1], repeat)[1]
        return Plan(epochs[-1], optimum, not seconds_per_report, searchable(opened, made, epochs, repeat))

    def setup(self, config: dict[str, Any]) -> None:
        space = _space(config["space"], json.dumps(config.get("space_options") or {}, sort_keys=True))
        self._table = _table(config.get("table"), space.name, config["dataset"])
        self._epochs = report_epochs(self._table, config.get("max_epochs"))
        self._arch = space.from_config(config["arch"])
        self._repeat = config.get("repeat", "mean")
        self._seconds_per_report: float = config.get("seconds_per_report", 0.0)
        self._position = 0  # how many of `_epochs` are reported

    def step(self) -> dict[str, Any]:
        time.sleep(self._seconds_per_report)
        record = self._table.query(self._arch.id, self._epochs[self._position], self._repeat)
        self._position += 1
        return record._asdict() | {"done": self._position == len(self._epochs)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Makes the actor the trial of `new_config` (Tune's reuse_actors): `setup` assigns every attribute, so nothing is left over."""
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "position.json").write_text(json.dumps(self._position))

    def load_checkpoint(self, checkpoint: str) -> None:
        self._position = json.loads((Path(checkpoint) / "position.json").read_text())
