"""The only module that speaks Tune's Searcher protocol: one adapter around a pure proposal function.

A search method is `propose(history, rng, count)`: it reads what is known, including what is pending, and returns
architectures. Everything that must survive a restart is the history, the generator and the queue of proposals that were not
handed out yet. Tune's controller is single-threaded, so a model is fitted in a thread (`fitting="thread"`) and suggestions come
from the queue meanwhile.
"""

import json
import logging
import math
import os
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from ray.tune.search import Searcher

from raynas.arch import Arch
from raynas.errors import ConfigError, ResumeError
from raynas.history import Curve, History, Observation, Status
from raynas.model.candidates import random_archs
from raynas.model.ranks import spearman
from raynas.spaces import SearchSpace, make_space

logger = logging.getLogger(__name__)

STATE_VERSION = 1

T = TypeVar("T")

_QUEUE_FACTOR = 4  # proposals per refit beside the control loop: enough to serve until the next one is ready


@dataclass(frozen=True)
class Proposal:
    """Architectures to evaluate, best first, and what the model expects of each (None: it was not asked)."""

    archs: Sequence[Arch]
    expected: Sequence[float | None] = ()


@dataclass(frozen=True)
class Refit:
    """One fit of the model, and how it predicted the results that came in since the fit before, before it learned them."""

    observations: int  # that it learned from
    seconds: float  # of fitting and proposing
    compared: int  # new results with a prediction
    mae: float | None  # mean absolute error, in units of the metric
    rank_correlation: float | None  # Spearman's; None for fewer than 3 results


@dataclass
class _Queued:
    arch: Arch
    expected: float | None = None


class ArchSearcher(Searcher):  # type: ignore[misc]  # ray has no types
    """Base of all searchers; hand an instance to `tune.TuneConfig(search_alg=...)`.

    A suggestion is `{"arch": Arch.to_config()}`: never one that was evaluated or is pending. A trial that ends with an error,
    or without a finite value of the metric, is a failed one: its architecture is not proposed again, and no model learns
    from it. A trial that a scheduler stops early counts with its last value, carried to the full budget as
    `History.targets` says; whether it was stopped is seen from `max_epochs`.

    Args:
        space: a search space or the name of one.
        metric, mode: what to optimise, as in Tune. The searcher needs them here where Tune passes none (empty `param_space`).
        seed: with `fitting="inline"` and the same order of results, the same seed gives the same suggestions.
        max_epochs: the budget of a full evaluation; a trial whose `time_attr` ends below it counts as stopped.
        time_attr: the key of a result that holds the budget spent.
        num_initial: random architectures before any method takes over.
        refit_every: completed trials after which a model is fitted again, at most.
        refit_share: the same as a share of all completed trials, so that a young search, where each result says much, refits often.
        fitting: `thread`: beside the control loop, `suggest` never waits; `inline`: within `suggest`, reproducible.
        points_to_evaluate: architectures to begin with, as `Arch` or as the plain JSON of one.
    """

    _metric: str
    _mode: str
    learns: ClassVar[bool] = False  # whether a model is fitted, and so a thread and a queue are worth it

    def __init__(
        self,
        space: SearchSpace | str = "nasbench201",
        *,
        metric: str | None = None,
        mode: str | None = None,
        seed: int | Sequence[int] = 0,
        max_epochs: float | None = None,
        time_attr: str = "epoch",
        num_initial: int = 10,
        refit_every: int = 10,
        refit_share: float = 0.3,
        fitting: Literal["thread", "inline"] = "thread",
        points_to_evaluate: Iterable[Arch | Mapping[str, Any]] = (),
    ) -> None:
        if mode not in (None, "min", "max"):
            raise ConfigError(f"mode must be 'min' or 'max', not {mode!r}")
        super().__init__(metric=metric or "valid_accuracy", mode=mode or "max")
        if fitting not in ("thread", "inline"):
            raise ConfigError(f"fitting must be 'thread' or 'inline', not {fitting!r}")
        if num_initial < 1 or refit_every < 1:
            raise ConfigError(f"num_initial and refit_every must be at least 1, not {num_initial} and {refit_every}")
        self.space = make_space(space) if isinstance(space, str) else space
        self.max_epochs, self.time_attr = max_epochs, time_attr
        self.num_initial, self.refit_every, self.refit_share = num_initial, refit_every if self.learns else 1, refit_share
        self.threaded = self.learns and fitting == "thread"
        self.history = History()
        self.refits: list[Refit] = []
        self.exhausted = False  # the space holds no architecture that is not known
        self._explicit = metric is not None
        self._rng = np.random.default_rng(seed)
        self._live: dict[str, str] = {}  # trial id -> architecture id
        self._expected: dict[str, float] = {}  # architecture id -> what the model expects of it
        self._fresh: list[str] = []  # completed since the last fit
        self._learning: list[str] = []  # what was fresh when the fit that is running began
        self._queue: deque[_Queued] = deque()
        self._first: deque[_Queued] = deque()  # to be evaluated before anything else
        self._broken: str | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._fit: Future[tuple[Proposal, Refit]] | None = None
        self.enqueue(points_to_evaluate)

    # -- the method ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def propose(self, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """Up to `count` new architectures, best first; reads its arguments only. Called once `num_initial` are known."""

    def stopgap(self, history: History, rng: np.random.Generator) -> Arch | None:
        """An architecture at once, while a fit is running and the queue is empty; None where the space holds no more."""
        return next(iter(random_archs(self.space, history, rng, 1)), None)

    def recommend(self) -> Arch | None:
        """The architecture to choose after what is known now; None before any result. Without a model the best observed one."""
        best = self.history.best()
        return None if best is None else best.arch

    # -- what Tune calls -------------------------------------------------------------------------------------------------

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Takes metric and mode from Tune where the constructor was given none."""
        if self._explicit and (metric not in (None, self._metric) or mode not in (None, self._mode)):
            return False
        self._metric, self._mode = metric or self._metric, mode or self._mode
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The configuration of a new trial, or `Searcher.FINISHED` where the space holds no more."""
        if self._broken:
            raise ResumeError(self._broken)
        queued = self._next()
        if queued is None:
            self.exhausted = True
            return str(Searcher.FINISHED)
        self.history.start(queued.arch)
        self._live[trial_id] = queued.arch.id
        if queued.expected is not None:
            self._expected[queued.arch.id] = queued.expected
        return {"arch": queued.arch.to_config()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes an intermediate result; nothing is learned before the trial ends."""
        arch_id = self._live.get(trial_id)
        value = self._value(result)
        if arch_id is not None and value is not None:
            self.history.report(arch_id, self._budget(result), value)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Notes the end of a trial; ids that are unknown or ended before are ignored."""
        if trial_id not in self._live:
            return
        if result and not error:
            self.on_trial_result(trial_id, result)
        arch_id = self._live.pop(trial_id)
        if error:
            self.history.end(arch_id, "failed")
        elif result is None and not self.history.has_reports(arch_id):
            self.history.withdraw(arch_id)  # stopped before it ran
            return
        elif result and self._value(result) is None:
            self.history.end(arch_id, "failed")
        else:
            budget = self._budget(result) if result else 0
            self.history.end(arch_id, "stopped" if self.max_epochs and budget < self.max_epochs else "finished")
        self._completed(arch_id)

    def add_evaluated_point(
        self,
        parameters: dict[str, Any],
        value: float,
        error: bool = False,
        pruned: bool = False,
        intermediate_values: list[float] | None = None,
    ) -> None:
        """A result from elsewhere, in Tune's form: `parameters["arch"]` is the architecture, `value` its metric."""
        arch = self.space.from_config(parameters["arch"])
        curve = [(self.max_epochs or 1, value)]
        if intermediate_values:
            curve = [(i, v) for i, v in enumerate(intermediate_values, 1)]
        self.observe(arch, "failed" if error else "stopped" if pruned else "finished", curve)

    # -- what other code calls -------------------------------------------------------------------------------------------

    def observe(self, arch: Arch, status: Status, curve: Iterable[tuple[float, float]]) -> None:
        """A result from elsewhere: (budget, metric) pairs, budgets ascending, in the metric's own sign."""
        sign = self._sign()
        points: Curve = tuple((float(b), sign * float(v)) for b, v in curve if math.isfinite(v))
        self.history.add(Observation(arch, status if points else "failed", points))
        self._completed(arch.id)

    def enqueue(self, archs: Iterable[Arch | Mapping[str, Any]]) -> None:
        """Architectures to suggest before any other; raises OutOfSpaceError for one that is not of the space."""
        for arch in archs:
            self._first.append(_Queued(self.space.from_config(arch.to_config() if isinstance(arch, Arch) else arch)))

    # -- proposals -------------------------------------------------------------------------------------------------------

    def _sign(self) -> float:
        return -1.0 if self._mode == "min" else 1.0

    def _value(self, result: Mapping[str, Any]) -> float | None:
        """The metric, turned so that higher is better; None where it is missing or not finite."""
        value = result.get(self._metric)
        return self._sign() * float(value) if isinstance(value, (int, float, np.number)) and math.isfinite(value) else None

    def _budget(self, result: Mapping[str, Any]) -> float:
        return float(result.get(self.time_attr, result.get("training_iteration", 1)))

    def _starting(self) -> bool:
        """Whether the initial design goes on: too few architectures known, or too few of them evaluated to learn from."""
        return len(self.history) < self.num_initial or 2 * len(self.history.observed) < self.num_initial

    def _batch(self) -> int:
        """Completed trials from one fit to the next."""
        return max(1, min(self.refit_every, int(self.refit_share * len(self.history.observed))))

    def _pop(self, queue: deque[_Queued]) -> _Queued | None:
        while queue:
            queued = queue.popleft()
            if queued.arch.id not in self.history:
                return queued
        return None

    def _next(self) -> _Queued | None:
        queued = self._pop(self._first)
        if queued is None and not self._starting():
            if self.threaded:
                self._collect()
                self._launch()
            elif not self._queue or len(self._fresh) >= self._batch():
                self._refill(*self._refit(self.history, self._child_rng(), self._comparable()))
            queued = self._pop(self._queue)
        if queued is None:
            arch = self._random() if self._starting() else self._guarded(lambda: self.stopgap(self.history, self._rng), self._random)
            queued = None if arch is None else _Queued(arch)
        return queued

    def _random(self) -> Arch | None:
        return next(iter(random_archs(self.space, self.history, self._rng, 1)), None)

    def _guarded(self, attempt: Callable[[], T], instead: Callable[[], T]) -> T:
        """An exception in a searcher would abort the whole experiment: log it and go on without the model."""
        try:
            return attempt()
        except Exception:
            logger.exception("%s failed to propose; random architectures are suggested instead", type(self).__name__)
            return instead()

    def _child_rng(self) -> np.random.Generator:
        return np.random.default_rng(int(self._rng.integers(2**63)))

    def _completed(self, arch_id: str) -> None:
        self._fresh.append(arch_id)
        if self.threaded and not self._starting():
            self._collect()
            self._launch()

    def _comparable(self) -> list[tuple[float, float]]:
        """(expected, observed) of the full evaluations since the last fit; what is fresh now is learned by the fit to come."""
        fresh, self._fresh = self._fresh, []
        pairs = [(self._expected.pop(arch_id), self.history.observed[arch_id]) for arch_id in fresh if arch_id in self._expected]
        return [(expected, o.value) for expected, o in pairs if o.status == "finished"]

    def _refit(self, history: History, rng: np.random.Generator, pairs: list[tuple[float, float]]) -> tuple[Proposal, Refit]:
        """Fits and proposes; touches nothing but its arguments, so it may run in a thread."""
        start = time.perf_counter()
        count = _QUEUE_FACTOR * self.refit_every if self.threaded else self._batch()
        proposal = self._guarded(lambda: self.propose(history, rng, count), lambda: Proposal(()))
        seconds = time.perf_counter() - start
        expected, observed = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        mae = float(np.abs(expected - observed).mean()) if pairs else None
        return proposal, Refit(len(history.observed), seconds, len(pairs), mae, spearman(expected, observed))

    def _refill(self, proposal: Proposal, refit: Refit) -> None:
        expected = [*proposal.expected, *[None] * len(proposal.archs)]
        self._queue = deque(_Queued(arch, value) for arch, value in zip(proposal.archs, expected, strict=False))
        if self.learns:
            self.refits.append(refit)

    def _launch(self) -> None:
        """Starts a fit beside the control loop if one is due and none is running."""
        if self._fit is not None or not self._fresh or (self._queue and len(self._fresh) < self._batch()):
            return
        self._learning = self._fresh
        self._executor = self._executor or ThreadPoolExecutor(1, thread_name_prefix="raynas-fit")
        self._fit = self._executor.submit(self._refit, self.history.copy(), self._child_rng(), self._comparable())

    def _collect(self) -> None:
        """Takes over what a fit beside the control loop has proposed, if it is ready."""
        if self._fit is not None and self._fit.done():
            self._refill(*self._fit.result())
            self._fit, self._learning = None, []

    def wait(self) -> None:
        """Waits for a fit that is running, if any, and takes over what it proposes."""
        if self._fit is not None:
            self._fit.exception()
            self._collect()

    # -- state -----------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain JSON; a fit that is running is left out and made up for after a restore."""
        return {
            "version": STATE_VERSION,
            "searcher": type(self).__name__,
            "space": self.space.name,
            "metric": self._metric,
            "mode": self._mode,
            "history": self.history.to_json(),
            "live": dict(self._live),
            "expected": dict(self._expected),
            "fresh": self._learning + self._fresh,
            "queue": [[q.arch.to_config(), q.expected] for q in self._queue],
            "first": [[q.arch.to_config(), q.expected] for q in self._first],
            "rng": self._rng.bit_generator.state,
        }

    def load_json(self, state: Mapping[str, Any]) -> None:
        """The inverse of `to_json`.

        Raises:
            ResumeError: the state is of another version, searcher or space.
        """
        for key, mine in (("version", STATE_VERSION), ("searcher", type(self).__name__), ("space", self.space.name)):
            if state[key] != mine:
                raise ResumeError(f"the saved state is of {key} {state[key]!r}, but this searcher is of {key} {mine!r}")
        self._metric, self._mode = state["metric"], state["mode"]
        self.history = History.from_json(state["history"])
        self._live, self._expected, self._fresh = dict(state["live"]), dict(state["expected"]), list(state["fresh"])
        self._queue = deque(_Queued(Arch.from_config(config), value) for config, value in state["queue"])
        self._first = deque(_Queued(Arch.from_config(config), value) for config, value in state["first"])
        self._rng.bit_generator.state = state["rng"]
        self._fit, self._learning = None, []

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

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles the searcher before the run; threads do not travel."""
        return self.__dict__ | {"_executor": None, "_fit": None, "_fresh": self._learning + self._fresh, "_learning": []}
