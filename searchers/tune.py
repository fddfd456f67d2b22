"""The only module that speaks Tune's Searcher protocol: an adapter around the engine."""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from ray.tune.search import Searcher

from raynas.arch import Arch
from raynas.errors import ConfigError, ResumeError
from raynas.history import History, Observation
from raynas.outcome import METRICS, VALID_ACCURACY, Metric, Objective
from raynas.spaces import SearchSpace
from searchers.bananas import Bananas, BananasPaper
from searchers.engine import Engine
from searchers.evolution import Evolution
from searchers.fitting import Refit, Where
from searchers.method import Method, Suggestion
from searchers.random import Random


class TuneSearcher(Searcher):  # type: ignore[misc]  # ray has no types
    """Any method as a searcher of Tune; hand an instance to `tune.TuneConfig(search_alg=...)`.

    A suggestion is `{"arch": Arch.to_config()}`, and `max_epochs` where the method names a budget.

    Args:
        space: a search space or the name of one.
        method: None: that of the class, with `settings`.
        metric, mode: what to optimise, as in Tune. The searcher needs them here where Tune passes none (empty `param_space`).
        objective: instead of these, one metric or several, with limits.
        max_epochs: the budget of a full evaluation; a trial whose `time_attr` ends below it counts as stopped.
        seed, time_attr, fitting, points_to_evaluate: as in `Engine`.
    """

    of: ClassVar[type[Method]]  # the method whose settings the constructor takes
    _metric: str
    _mode: str

    def __init__(
        self,
        space: SearchSpace | str = "nasbench201",
        *,
        method: Method | None = None,
        metric: str | None = None,
        mode: str | None = None,
        objective: Objective | None = None,
        seed: int | Sequence[int] = 0,
        max_epochs: float | None = None,
        time_attr: str = "epoch",
        fitting: Where = "process",
        points_to_evaluate: Iterable[Arch | Mapping[str, Any]] = (),
        **settings: Any,
    ) -> None:
        if mode not in (None, "min", "max"):
            raise ConfigError(f"mode must be 'min' or 'max', not {mode!r}")
        if objective is not None and (metric, mode) != (None, None):
            raise ConfigError("a searcher takes an objective, or metric and mode, not both")
        if method is None and not hasattr(self, "of"):
            raise ConfigError("TuneSearcher needs a method, as method=Bananas()")
        if method is not None and settings:
            raise ConfigError(f"the settings {', '.join(settings)} belong to the method; give them to {type(method).__name__}")
        self._explicit = metric is not None or objective is not None
        objective = objective or _objective(metric or VALID_ACCURACY.name, mode)
        super().__init__(metric=objective.first.name, mode=objective.first.direction)
        self.engine = Engine(
            method or self.of(**settings),
            space,
            objective=objective,
            seed=seed,
            max_budget=max_epochs,
            time_attr=time_attr,
            fitting=fitting,
            points_to_evaluate=points_to_evaluate,
        )
        self._live: dict[str, str] = {}  # trial id -> architecture id
        self._suggested: dict[str, tuple[Suggestion, float]] = {}  # trial id -> what this process suggested, and when on its clock
        self._broken: str | None = None

    # -- what Tune calls -------------------------------------------------------------------------------------------------

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Takes metric and mode from Tune where the constructor was given none."""
        if self._explicit and (metric not in (None, self._metric) or mode not in (None, self._mode)):
            return False
        changed = metric is not None and metric != self._metric
        self._optimise(_objective(metric or self._metric, mode or (None if changed else self._mode)))
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The configuration of a new trial; `Searcher.FINISHED` where the space holds no more, None where there is none now."""
        if self._broken:
            raise ResumeError(self._broken)
        suggestion = self.engine.ask()
        if suggestion is None:
            return str(Searcher.FINISHED) if self.engine.exhausted else None
        self._live[trial_id] = suggestion.arch.id
        self._suggested[trial_id] = suggestion, time.monotonic()
        budget = {} if suggestion.budget is None else {"max_epochs": int(suggestion.budget)}
        return {"arch": suggestion.arch.to_config()} | budget

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes an intermediate result."""
        if trial_id in self._live:
            self.engine.report(self._live[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Notes the end of a trial; ids that are unknown or ended before are ignored."""
        self._suggested.pop(trial_id, None)
        if trial_id in self._live:
            self.engine.tell(self._live.pop(trial_id), result, error="the trial failed" if error else None)

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """A result from elsewhere, in Tune's form: `parameters["arch"]` is the architecture, `value` its metric."""
        arch, engine = self.engine.space.from_config(parameters["arch"]), self.engine
        report, values = {self._metric: value}, list(intermediate_values or ())
        curve = list(enumerate(values if not values or values[-1] == value else [*values, value], 1))
        told = engine.observation(arch, report, curve, error="it failed" if error else None)
        engine.tell_many([replace(told, status="stopped") if pruned and told.status == "finished" else told])

    def save(self, checkpoint_path: str) -> None:
        """Writes the state as JSON, atomically."""
        temporary = f"{checkpoint_path}.tmp"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(self.to_json(), file)
        os.replace(temporary, checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """Reads the state back.

        Tune answers an exception here by quietly starting a new experiment of one trial, so a failed restore also makes every
        later `suggest` raise: the run stops loudly instead.

        Raises:
            ResumeError: the file is missing, damaged, or of another searcher or space.
        """
        try:
            with open(checkpoint_path, encoding="utf-8") as file:
                self.load_json(json.load(file))
        except ResumeError as error:
            self._broken = str(error)
            raise
        except Exception as error:  # whatever the file holds
            self._broken = f"the searcher's state {checkpoint_path} cannot be restored: {type(error).__name__}: {error}"
            raise ResumeError(self._broken) from error

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Reads back the newest state in a folder of Tune's; as `restore`, also where the folder holds none."""
        try:
            super().restore_from_dir(checkpoint_dir)
        except RuntimeError as error:
            self._broken = f"the searcher's state cannot be restored: {checkpoint_dir} holds none"
            raise ResumeError(self._broken) from error

    # -- what other code calls -------------------------------------------------------------------------------------------

    @property
    def space(self) -> SearchSpace:
        """What is searched."""
        return self.engine.space

    @property
    def history(self) -> History:
        """What is known."""
        return self.engine.history

    @property
    def memory(self) -> Any:
        """What the method remembers beyond it."""
        return self.engine.history.memory

    @property
    def refits(self) -> list[Refit]:
        """The fits of the model so far."""
        return self.engine.refits

    def suggested(self, trial_id: str) -> tuple[Suggestion, float] | None:
        """What was suggested as this trial, which has not ended, and how many seconds ago; None for a trial of an earlier session."""
        suggestion, moment = self._suggested.get(trial_id, (None, 0.0))
        return None if suggestion is None else (suggestion, time.monotonic() - moment)

    @property
    def promotes(self) -> bool:
        """Whether what was stopped may go on, as another trial."""
        return self.engine.promotion is not None

    @property
    def exhausted(self) -> bool:
        """Whether the space holds no architecture that is not known."""
        return self.engine.exhausted

    def enqueue(self, archs: Iterable[Arch | Mapping[str, Any]], budget: float | None = None) -> None:
        """As `Engine.enqueue`."""
        self.engine.enqueue(archs, budget)

    def tell_many(self, observations: Iterable[Observation]) -> None:
        """As `Engine.tell_many`."""
        self.engine.tell_many(observations)

    def tell_prior(self, observations: Iterable[Observation]) -> int:
        """As `Engine.tell_prior`."""
        return self.engine.tell_prior(observations)

    def recommend(self) -> Arch | None:
        """As `Engine.recommend`."""
        return self.engine.recommend()

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain JSON."""
        return {"metric": self._metric, "mode": self._mode, "live": dict(self._live), "engine": self.engine.to_json()}

    def load_json(self, state: Mapping[str, Any]) -> None:
        """The inverse of `to_json`; raises ResumeError for the state of another searcher or space."""
        self.engine.load_json(state["engine"])
        self._live = dict(state["live"])
        if (state["metric"], state["mode"]) != (self._metric, self._mode):
            if self._explicit:
                raise ResumeError(
                    f"the saved state optimises {state['metric']} ({state['mode']}), this searcher {self._metric} ({self._mode})"
                )
            self._optimise(_objective(state["metric"], state["mode"]))

    def _optimise(self, objective: Objective) -> None:
        first = objective.first
        if (first.name, first.direction) != (self._metric, self._mode):
            self._metric, self._mode = first.name, str(first.direction)
            self.engine.objective = objective


def _objective(metric: str, mode: str | None) -> Objective:
    known = METRICS.get(metric, Metric(metric))
    return Objective((replace(known, direction=mode or known.direction or "max"),))  # type: ignore[arg-type]  # checked by Metric


class BananasSearch(TuneSearcher):
    """`Bananas`, whose settings are further keywords."""

    of = Bananas


class BananasPaperSearch(TuneSearcher):
    """`BananasPaper`, whose settings are further keywords."""

    of = BananasPaper


class RegularizedEvolutionSearch(TuneSearcher):
    """`Evolution`, whose settings are further keywords."""

    of = Evolution


class RandomSearch(TuneSearcher):
    """`Random`, whose settings are further keywords."""

    of = Random
