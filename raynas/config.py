"""The configuration of a search: strict, frozen, one documented field per knob."""

import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raynas.errors import ConfigError
from raynas.registry import unknown
from raynas.storage import read_yaml as read_yaml


class RunConfig(BaseModel):
    """Everything that defines a search. It is written to `config.json` in the run folder before the first trial."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    space: str = Field("nasbench201", description="search space, by name or as module:Class")
    space_options: dict[str, Any] = Field(default_factory=dict, description="settings of the space")
    trainable: str = Field("lookup", description="lookup (in a table) or train; or a one-shot search: darts, pc-darts, random-ws")
    trainable_options: dict[str, Any] = Field(default_factory=dict, description="settings of the trial")
    table: str | None = Field(
        None, description="benchmark table (Parquet) to look results up in; without it the installed one of the space"
    )
    dataset: str = Field("cifar10", description="data set")
    searcher: str = Field("bananas", description="search method")
    searcher_options: dict[str, Any] = Field(default_factory=dict, description="settings of the search method")
    scheduler: str = Field("fifo", description="Tune scheduler that stops bad trials early: fifo (stops none), asha, hyperband or median")
    scheduler_options: dict[str, Any] = Field(default_factory=dict, description="settings of the scheduler")
    trials: int = Field(150, gt=0, description="architectures to evaluate; of one-shot searches the seeds, 4 unless given")
    max_epochs: int | None = Field(None, gt=0, description="epochs of a full evaluation; without it, what the table or the recipe has")
    concurrency: int | None = Field(None, gt=0, description="trials at once; without it, as many as the cluster has room for")
    cpus_per_trial: float = Field(1.0, ge=0, allow_inf_nan=False, description="CPU cores for one trial")
    gpus_per_trial: float = Field(0.0, ge=0, allow_inf_nan=False, description="GPUs for one trial; a fraction lets trials share one")
    max_failures: int = Field(0, ge=0, description="how often a trial that crashes is tried again")
    seed: int = Field(0, ge=0, description="seed of the search")
    out: str | None = Field(None, description="run folder: a path or a URI such as s3://bucket/run; without it, a new one in runs/")
    address: str | None = Field(None, description="Ray cluster to use; without it a running one on this machine, else a new local one")
    tensorboard_trials: bool = Field(False, description="also write one TensorBoard run for each trial (slow for thousands)")


RESUMABLE = frozenset({"trials", "concurrency", "cpus_per_trial", "gpus_per_trial", "max_failures", "address", "out", "tensorboard_trials"})
"""What may differ when a run is resumed; everything else would make it another search."""


Model = TypeVar("Model", bound=BaseModel)


def make_config(values: Mapping[str, Any], model: type[Model]) -> Model:
    """The configuration with these values and the defaults for the rest.

    Raises:
        ConfigError: one line about the first wrong value.
        UnknownNameError: a key does not exist.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise unknown("configuration key", key, model.model_fields) from error
        raise ConfigError(f"{key} = {first['input']!r} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def assign(values: dict[str, Any], assignments: Sequence[str]) -> None:
    """Applies `a.b=c` to nested mappings; c is read as YAML, so numbers, lists and true/false work.

    Raises:
        ConfigError: there is no `=`, c is no YAML, or `a` is not a mapping.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigError(f"--set takes KEY=VALUE, as in searcher_options.pool=500, not {assignment!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment!r}: the value is not valid YAML") from error
        *parents, last = path.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {assignment!r}: {parent} holds no further keys")
        target[last] = value


def provenance() -> dict[str, Any]:
    """The commit of the checkout that runs, if it is one, and the versions of what computes."""
    folder = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        shown = subprocess.run(git, capture_output=True, text=True, check=False) if (folder / ".git").exists() else None
    except FileNotFoundError:  # git itself is not installed
        shown = None
    packages = ("raynas", "ray", "torch", "numpy", "pyarrow")
    return {
        "commit": shown.stdout.strip() if shown is not None and shown.returncode == 0 else None,
        "versions": {package: version(package) for package in packages},
    }
