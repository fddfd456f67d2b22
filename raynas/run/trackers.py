"""MLflow and Weights & Biases: what trials report goes there, too, through Tune's own callbacks for them (`--log`).

A run of the tracker is one trial. Each tracker has a thread of its own, which alone calls it: the search hands over and goes on. What the
thread cannot keep up with is dropped, what the tracker refuses is lost, and one line says so; all of it is in the run folder anyway.
"""

import importlib.util
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from raynas import signals
from raynas.errors import ConfigError
from raynas.outcome import COSTS
from raynas.registry import unknown
from raynas.storage import first_line

MOST = 10_000  # calls that wait for a tracker
_UPLOAD = 50  # seconds that Tune's callback for wandb waits for what is left
_EXPERIMENT = "raynas"  # where trials go unless told otherwise
_SECRET = re.compile(r"key|token|passw|secret|credential", re.IGNORECASE)  # in the name of an option
_CREDENTIALS = re.compile(r"://[^/@\s]*@")


def _mlflow(options: Mapping[str, str], run_id: str) -> Any:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = options.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI")  # the callback would unset the latter
    experiment = options.get("experiment_name") or os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    return MLflowLoggerCallback(uri, experiment_name=experiment, tags={"run_id": run_id})


def _wandb(options: Mapping[str, str], run_id: str) -> Any:
    from ray.air.integrations.wandb import WandbLoggerCallback

    told = {"project": options.get("project") or os.environ.get("WANDB_PROJECT") or _EXPERIMENT, "group": options.get("group")}
    told |= {"entity": options.get("entity") or os.environ.get("WANDB_ENTITY"), "mode": os.environ.get("WANDB_MODE")}
    return WandbLoggerCallback(
        **{name: value for name, value in told.items() if value},
        upload_timeout=_UPLOAD,
        resume="allow",
        tags=[run_id],
    )


@dataclass(frozen=True)
class Tracker:
    """A kind of tracker."""

    make: Callable[[Mapping[str, str], str], Any]  # Tune's callback, with these options, for the run of this name
    options: tuple[str, ...]
    environment: str  # where secrets belong
    patience: float  # seconds without any success after which the end of a search waits for it no more


TRACKERS = {
    "mlflow": Tracker(
        _mlflow,
        ("tracking_uri", "experiment_name"),
        "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_URI with all in it",
        10.0,
    ),
    # Each trial has two processes there, which take their time to start.
    "wandb": Tracker(_wandb, ("project", "entity", "group"), "WANDB_API_KEY", 60.0),
}


def refuse_secrets(names: Any, options: Any) -> None:
    """Refuses what must not be kept in a run folder; the message does not repeat it.

    Raises:
        ConfigError: an option is one, by its name, or a URI that holds some.
    """
    if not isinstance(options, Mapping):
        raise ConfigError("log_options holds options of trackers by name, as --set log_options.experiment_name=first")
    for name, value in options.items():
        if _SECRET.search(str(name)) or _with_credentials(value):
            named = [kind.environment for tracker, kind in TRACKERS.items() if not names or tracker in names]
            mend = f"set it in the environment: {'; '.join(named)}"
            raise ConfigError(f"log_options.{name} holds a secret, which config.json would keep; {mend}")


def _with_credentials(value: Any) -> bool:
    """Whether a text is a URI with a password or the like in it; a mapping could hold anything."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
    except ValueError:  # no URI, as `http://[`
        return _CREDENTIALS.search(value) is not None
    return parts is not None and ("@" in parts.netloc or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query)))


def check_trackers(names: list[str], options: Mapping[str, Any]) -> None:
    """Refuses trackers that cannot be used here.

    Raises:
        UnknownNameError: there is no such tracker, or none of those named has such an option.
        ConfigError: its package is missing, or an option is no text.
    """
    allowed = [option for name in names if name in TRACKERS for option in TRACKERS[name].options]
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, which wandb leaves, is no package
            raise ConfigError(f"--log {name} needs the package {name}: pip install 'raynas[{name}]'")
    for option, value in options.items():
        if option not in allowed:
            raise unknown("option of log_options" if names else "option of log_options, without --log,", option, allowed)
        if not isinstance(value, str):
            raise ConfigError(f"log_options.{option} must be a text, not {value!r}")


@dataclass(frozen=True)
class _Trial:
    """In place of a trial of Tune's: what its callbacks for trackers ask of one. Equal are those of equal names."""

    trial_id: str
    name: str = field(compare=False)
    config: dict[str, Any] = field(compare=False)  # parameters
    experiment_dir_name: str = field(compare=False)

    @property
    def local_path(self) -> str:
        """Where wandb puts its own folder."""
        return os.getcwd()

    def __str__(self) -> str:
        return self.name


class _Link:
    """One tracker and its thread."""

    def __init__(self, name: str, options: Mapping[str, str], run_id: str) -> None:
        self.name, self._kind = name, TRACKERS[name]
        self._make = partial(self._kind.make, options, run_id)
        self.problem: str | None = None  # why not everything arrives
        self._calls: SimpleQueue[tuple[str, tuple[Any, ...]] | None] = SimpleQueue()  # None: there are no more
        self._worked = time.monotonic()  # when the last call succeeded
        self._thread = threading.Thread(target=self._work, name=f"raynas-{name}", daemon=True)  # one that hangs must not keep us
        self._thread.start()

    def call(self, hook: str, *args: Any) -> None:
        """Has a method of the callback called, soon."""
        if self._calls.qsize() < MOST:
            self._calls.put((hook, args))
        else:
            self._trouble("it is too slow, or does not answer")

    def close(self) -> None:
        """Returns once all is told, or it seems in vain; after a signal not much later."""
        self._calls.put(None)
        began = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(timeout=0.1)
            if time.monotonic() - (began if signals.received() else max(began, self._worked)) > self._kind.patience:
                self._trouble(f"no answer for {self._kind.patience:.0f} s")
                return

    def _trouble(self, reason: str) -> None:
        self.problem = self.problem or _CREDENTIALS.sub("://...@", reason)

    def _work(self) -> None:
        try:
            callback = self._make()
            callback.setup()
            for hook, args in iter(self._calls.get, None):
                self._try(partial(getattr(callback, hook), *args))
            self._try(partial(callback.on_experiment_end, []))
        except Exception as error:  # of a package that cannot be loaded, or a server that is not there
            self._trouble(f"{type(error).__name__}: {first_line(error)}")

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
            self._worked = time.monotonic()
        except Exception as error:
            self._trouble(f"{type(error).__name__}: {first_line(error)}")


class Trackers:
    """What a recorder tells of trials: rows of `started`, reports and rows of `trials`. No method waits for a tracker but `close`.

    Args:
        names: of trackers.
        options: of all of them.
        run_id: of the run.
        settings: of the search, parameters of every trial.
    """

    def __init__(self, names: list[str], options: Mapping[str, str], run_id: str, settings: Mapping[str, Any]) -> None:
        self._run_id, self._settings = run_id, dict(settings)
        self._links = [_Link(name, options, run_id) for name in dict.fromkeys(names)]
        self._told: set[str] = set()  # trackers of whose problem was told
        self._open: dict[str, int] = {}  # trial id -> its last epoch

    def started(self, row: Mapping[str, Any]) -> None:
        """A trial begins, or goes on in another session."""
        self._open[row["trial_id"]] = 0
        arch = {f"arch.{name}": value for name, value in json.loads(row["arch"]).items() if name not in ("id", "space")}
        origin = {name: row.get(name) for name in ("trial_id", "arch_id", "proposed_by", "parent", "predicted", "acquisition")}
        self._call("log_trial_start", row["trial_id"], self._settings | origin | {"run_id": self._run_id} | arch)

    def reported(self, trial_id: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """It reports."""
        self._open[trial_id] = epoch
        self._result(trial_id, metrics)

    def ended(self, row: Mapping[str, Any]) -> None:
        """It has ended."""
        known = {name: row.get(name) for name in (*COSTS, "queue_seconds", "retries")}  # the rest it has reported
        told = {name: row.get(name) for name in ("status", "error", "fault", "node", "device")}
        self._end(row["trial_id"], known, told, row["status"] == "failed")

    def news(self) -> Iterator[str]:
        """Lines about trackers that are in trouble, each once."""
        for link in self._links:
            if link.problem is not None and link.name not in self._told:
                self._told.add(link.name)
                yield f"warning: {link.name} does not get everything ({link.problem}); the search and its results are not affected"

    def close(self) -> None:
        """Ends the trials that have not; returns once all is told, or it seems in vain."""
        for trial_id in list(self._open):
            self._end(trial_id, {}, {"status": "interrupted"}, True)
        for link in self._links:
            link.close()

    def _end(self, trial_id: str, metrics: Mapping[str, Any], told: Mapping[str, Any], failed: bool) -> None:
        """What is known at the end only are further parameters: MLflow's take them as those of a start, wandb's with a result."""
        self._call("log_trial_start", trial_id, told)
        self._result(trial_id, metrics, told)
        self._call("log_trial_end", trial_id, {}, failed)
        del self._open[trial_id]

    def _result(self, trial_id: str, metrics: Mapping[str, Any], told: Mapping[str, Any] | None = None) -> None:
        result = {name: value for name, value in metrics.items() if value is not None}
        result |= {"training_iteration": self._open[trial_id], "config": flat(told or {})}
        for link in self._links:
            link.call("log_trial_result", 0, self._trial(trial_id, {}), dict(result))

    def _call(self, hook: str, trial_id: str, parameters: Mapping[str, Any], *args: Any) -> None:
        for link in self._links:
            link.call(hook, self._trial(trial_id, parameters), *args)

    def _trial(self, trial_id: str, parameters: Mapping[str, Any]) -> _Trial:
        return _Trial(f"{self._run_id}-{trial_id}", trial_id, flat(parameters), self._run_id)


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is nested by dotted names, lists as texts; what is None is left out."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": text for inner, text in flat(value).items()}
        elif isinstance(value, (list, tuple)):
            plain = not any(isinstance(item, (Mapping, list, tuple)) for item in value)
            found[name] = ", ".join(map(str, value)) if plain else json.dumps(value, separators=(",", ":"))
        elif value is not None:
            found[name] = value
    return found
