"""The configuration of a search: strict, frozen, one documented field per knob."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from raynas.errors import ConfigError
from raynas.registry import unknown
from raynas.spaces import SearchSpace
from searchers.method import Method


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else value


Texts = Annotated[list[str], BeforeValidator(_listed)]  # one text stands for a list of it


class RunConfig(BaseModel):
    """Everything that defines a search. It is written to `config.json` in the run folder before the first trial."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    space: str = Field("nasbench201", description="search space: nasbench201, nasbench101, darts, or module:Class")
    space_options: dict[str, Any] = Field(default_factory=dict, description="settings of the space")
    trainable: str = Field("lookup", description="what evaluates an architecture: lookup (in a table), train, or module:Class")
    trainable_options: dict[str, Any] = Field(default_factory=dict, description="settings of the trial")
    table: str | None = Field(
        None, description="benchmark table (Parquet) to look results up in; without it the installed one of the space"
    )
    dataset: str = Field("cifar10", description="data set: what the table is of, or images (raynas list datasets)")
    recipe: str | dict[str, Any] | None = Field(
        None, description="how to train: a recipe's name or a YAML file; without it, as is published for the space, or for the data set"
    )
    searcher: str = Field(
        "bananas",
        description="search method: bananas, bananas-paper, evolution, random, or module:Class; or one-shot: darts, pc-darts, random-ws",
    )
    searcher_options: dict[str, Any] = Field(default_factory=dict, description="settings of the search method")
    objective: Texts = Field(
        default_factory=list, description="metric to optimise, -METRIC to minimise it; repeat it for several; without it valid_accuracy"
    )
    limit: Texts = Field(default_factory=list, description="what must hold, as parameters<=3.5e6; repeat it for several")
    metrics: dict[str, dict[str, Any]] = Field(default_factory=dict, description="what is known of metrics, see raynas.outcome.Metric")
    warm_start: Texts = Field(
        default_factory=list,
        description="folder of another run whose results count as known, or, of another data set, as a prior; repeat it for several",
    )
    proxies: bool = Field(
        False, description="let the model see three zero-cost proxies of networks that trials train: grad_norm, synflow and nwot"
    )
    scheduler: str = Field(
        "fifo", description="Tune scheduler that stops bad trials early: asha, bananas-asha, hyperband, median; fifo stops none"
    )
    scheduler_options: dict[str, Any] = Field(default_factory=dict, description="settings of the scheduler")
    trials: int = Field(150, gt=0, description="architectures to evaluate; of one-shot searches the seeds, 4 unless given")
    max_epochs: int | None = Field(None, gt=0, description="epochs of a full evaluation; without it, what the table or the recipe has")
    concurrency: int | None = Field(None, gt=0, description="trials at once; without it, as many as the cluster has room for")
    cpus_per_trial: float = Field(1.0, ge=0, allow_inf_nan=False, description="CPU cores for one trial")
    gpus_per_trial: float = Field(0.0, ge=0, allow_inf_nan=False, description="GPUs for one trial; a fraction lets trials share one")
    max_failed_share: float = Field(0.5, ge=0, le=1, description="a run in which a larger share of trials failed has failed itself")
    max_failures: int = Field(
        3, ge=0, description="how often a trial is tried again that a machine has failed; one that hung or raised an error, once at most"
    )
    trial_timeout: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds that one try of a trial may take; without it, any time"
    )
    stall_timeout: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="seconds that a trial may be silent, since its start or last report; without it, any time",
    )
    seed: int = Field(0, ge=0, description="seed of the search")
    out: str | None = Field(None, description="run folder: a path or a URI such as s3://bucket/run; without it, a new one in runs/")
    address: str | None = Field(None, description="Ray cluster to use; without it a running one on this machine, else a new local one")
    log: Texts = Field(
        default_factory=list, description="tracker that gets what trials report, too: mlflow or wandb; repeat it for several"
    )
    log_options: dict[str, Any] = Field(default_factory=dict, description="settings of the trackers; secrets go into the environment")
    tensorboard_trials: bool = Field(False, description="also write one TensorBoard run for each trial (slow for thousands)")


_RESOURCES = {"concurrency", "cpus_per_trial", "gpus_per_trial", "address"}
RESUMABLE = frozenset(
    _RESOURCES
    | {"trials", "max_failed_share", "max_failures", "trial_timeout", "stall_timeout", "out", "log", "log_options", "tensorboard_trials"}
)
"""What may differ when a run is resumed; everything else would make it another search."""


class Settings(TypedDict, total=False):
    """The fields of `RunConfig` as keywords of `raynas.run_search`; what is named there by `module:Class` may be the class itself."""

    space: str | Callable[..., Any] | SearchSpace
    space_options: dict[str, Any]
    trainable: str | Callable[..., Any]
    trainable_options: dict[str, Any]
    table: str | None
    dataset: str
    recipe: str | dict[str, Any] | None
    searcher: str | Callable[..., Any] | Method
    searcher_options: dict[str, Any]
    objective: list[str]
    limit: list[str]
    metrics: dict[str, dict[str, Any]]
    warm_start: list[str]
    proxies: bool
    scheduler: str | Callable[..., Any]
    scheduler_options: dict[str, Any]
    trials: int
    max_epochs: int | None
    concurrency: int | None
    cpus_per_trial: float
    gpus_per_trial: float
    max_failed_share: float
    max_failures: int
    trial_timeout: float | None
    stall_timeout: float | None
    seed: int
    out: str | None
    address: str | None
    log: list[str]
    log_options: dict[str, Any]
    tensorboard_trials: bool


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
        except yaml.YAMLError:
            raise ConfigError(f"--set {path}=...: the value is not valid YAML") from None  # it may be a secret
        *parents, last = path.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {assignment!r}: {parent} holds no further keys")
        target[last] = value


def provenance() -> dict[str, Any]:
    """The commit of the checkout that runs, if it is one, whether files of it were changed since, and the versions of what computes."""
    folder = Path(__file__).resolve().parents[1]
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        shown = subprocess.run(git, capture_output=True, text=True, check=False) if (folder / ".git").exists() else None
    except FileNotFoundError:  # git itself is not installed
        shown = None
    packages = ("raynas", "ray", "torch", "numpy", "pyarrow")
    commit, _, dirty = shown.stdout.strip().partition("-") if shown is not None and shown.returncode == 0 else (None, "", None)
    return {
        "commit": commit,
        "dirty": None if commit is None else dirty == "dirty",
        "versions": {package: _version(package) for package in packages},
    }


def _version(package: str) -> str | None:
    """None of what is not installed, as raynas itself where its folder is on the path."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
