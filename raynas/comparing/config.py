"""The configuration of a comparison, and files that hold several."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from raynas.config import assign, make_config
from raynas.errors import ConfigError, RaynasError
from raynas.storage import join, read_yaml


def _joined(value: Any) -> Any:
    return ",".join(value) if isinstance(value, list) and all(isinstance(name, str) for name in value) else value


Names = Annotated[str, BeforeValidator(_joined)]  # separated by commas, in a file also a list


class CompareConfig(BaseModel):
    """Everything that defines a comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    space: str = Field("nasbench201", description="search space, by name or as module:Class")
    space_options: dict[str, Any] = Field(default_factory=dict, description="settings of the space")
    table: str | None = Field(None, description="benchmark table (Parquet); without it the installed one of the space")
    dataset: str = Field("cifar10", description="data set of the installed table")
    repeat: int | Literal["mean"] = Field("mean", description="which repeat of the table the searchers observe, or the mean")
    searchers: Names = Field("bananas,evolution,random", description="search methods, separated by commas")
    searcher_options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="settings for each search method")
    schedulers: Names = Field("fifo", description="Tune schedulers, separated by commas")
    seeds: int = Field(10, gt=0, description="runs of each searcher with each scheduler")
    searcher_seeds: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict, description="runs of single searchers instead")
    first_seed: int = Field(0, ge=0, description="seed of the first run")
    trials: int = Field(150, gt=0, description="architectures that each run evaluates")
    stop_at_best: bool = Field(False, description="a run ends when it has met the best architecture of the table, and counts as constant")
    max_epochs: int | None = Field(None, gt=0, description="largest budget; without it the table's")
    workers: int = Field(1, gt=0, description="simulated workers; 1 with the default searcher is the sequential setting of the papers")
    failure_rate: float = Field(0.0, ge=0, le=1, description="share of the trials that fail")
    straggler_rate: float = Field(0.0, ge=0, le=1, description="share of the trials that take five times longer")
    processes: int | None = Field(None, gt=0, description="processes; without it one for each core")
    out: str = Field("comparison", description="folder for the results")

    def runs_of(self, searcher: str) -> int:
        """How many seeds a searcher has."""
        return self.searcher_seeds.get(searcher, self.seeds)


EXTENDABLE = frozenset({"searchers", "schedulers", "seeds", "searcher_seeds", "first_seed", "processes", "out"})
"""What may differ when a comparison goes on."""

_OF_ALL = ("out", "processes")  # what one of several comparisons cannot have for itself
_KEY = "comparisons"


def names(text: str) -> list[str]:
    """The names in a list separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_configs(path: str | None, assignments: Sequence[str], flags: Mapping[str, Any]) -> dict[str, CompareConfig]:
    """The comparisons of a file by name; one without a name where the file has no `comparisons`.

    What stands beside `comparisons` holds for all of them, unless one has a value of its own. `--set` and flags override both;
    `--set comparisons.NAME.KEY=VALUE` concerns one. Each has a folder of its own, below `out`.

    Raises:
        RaynasError: the file or a value is not allowed.
    """
    shared = read_yaml(path) if path else {}
    single = [text for text in assignments if text.partition("=")[0].partition(".")[0] == _KEY]
    rest = [text for text in assignments if text not in single]
    assign(shared, single)
    if _KEY not in shared:
        return {"": _made(shared, {}, rest, flags)}
    named = shared.pop(_KEY)
    if not isinstance(named, dict) or not named:
        raise ConfigError(f"{_KEY} must map names to settings, such as '{_KEY}: {{short: {{trials: 50}}}}'")
    made = {}
    for name, own in named.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            raise ConfigError(f"{name!r} in {_KEY} cannot be the name of a folder; allowed: letters, digits and _ . -")
        if own is not None and not isinstance(own, dict):
            raise ConfigError(f"{_KEY}.{name} must hold keys and values, such as 'trials: 150', not a {type(own).__name__}")
        with_own = [key for key in _OF_ALL if key in (own or {})]
        if with_own:
            raise ConfigError(f"{_KEY}.{name}.{with_own[0]}: all comparisons of a file share it; write it beside {_KEY}")
        with told(name):
            config = _made(shared, own or {}, rest, flags)
        made[name] = config.model_copy(update={"out": join(config.out, name)})
    return made


@contextmanager
def told(name: str) -> Iterator[None]:
    """Within it the error of one of several comparisons says whose it is."""
    try:
        yield
    except RaynasError as error:
        if not name:
            raise
        raise type(error)(f"{_KEY}.{name}: {error}") from error


def _made(shared: Mapping[str, Any], own: Mapping[str, Any], assignments: Sequence[str], flags: Mapping[str, Any]) -> CompareConfig:
    values = copy.deepcopy({**shared, **own})
    assign(values, assignments)
    return make_config({**values, **flags}, CompareConfig)
