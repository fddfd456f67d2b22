"""Ask and tell: the loop around a method, without Ray and without torch.

    search = Engine(Bananas(), "nasbench201")
    suggestion = search.ask()
    search.tell(suggestion.arch, {"valid_accuracy": train(suggestion.arch)})

Everything that must survive a restart is the history, the generator and the queue of proposals that were not handed out yet. A method
that learns is asked beside the control loop (`fitting="process"`), and suggestions come from the queue meanwhile: a fit of BANANAS takes
0.2 to 0.5 s of one core after up to 1,000 results, and 2 s after 10,000.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar, get_args

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError, ResumeError
from raynas.history import History, Observation
from raynas.model.priors import prior_of
from raynas.model.recommend import observed
from raynas.outcome import COSTS, Objective, Outcome, as_number, budget_of
from raynas.spaces import SearchSpace, known_costs, make_space
from searchers.fitting import Beside, Fit, Refit, Where, fit, refit
from searchers.initial import at_random, initial, starting
from searchers.method import Method, Origin, Proposal, Suggestion, check_objective, within_limits
from searchers.promotion import Promotion

logger = logging.getLogger(__name__)

STATE_VERSION = 3

T = TypeVar("T")

_QUEUE_FACTOR = 4  # proposals per refit beside the control loop, in batches: enough to serve until the next one is ready


class Engine:
    """One search by a method in a space.

    A suggestion is never an architecture that was evaluated or is pending. A trial that ends with an error, or without a number that the
    objective needs, is a failed one: its architecture is not proposed again, and no model learns from it. A trial that is stopped early
    counts with its last value, carried to the full budget as `History` says.

    Args:
        method: how architectures are proposed.
        space: a search space or the name of one.
        objective: what is optimised; by default `valid_accuracy`.
        seed: with `fitting="inline"` and the same order of results, the same seed gives the same suggestions.
        max_budget: of a full evaluation; one that ends below it counts as stopped. None: none does.
        time_attr: the key of a report that holds the budget spent.
        fitting: where a method that learns is asked: `inline`: within `ask`, reproducible; `apart`: the same in a process for which `ask`
            waits, so that what models need is not loaded here; `process` or `thread`: beside the control loop, so that `ask` never waits
            (a process gives way to a thread where method or space cannot be sent to it).
        points_to_evaluate: architectures to begin with, as `Arch` or as the plain JSON of one.

    Raises:
        ConfigError: a value is not allowed, or the method does not go with the objective.
    """

    def __init__(
        self,
        method: Method,
        space: SearchSpace | str = "nasbench201",
        *,
        objective: Objective | None = None,
        seed: int | Sequence[int] = 0,
        max_budget: float | None = None,
        time_attr: str = "epoch",
        fitting: Where = "inline",
        points_to_evaluate: Iterable[Arch | Mapping[str, Any]] = (),
    ) -> None:
        if fitting not in get_args(Where):
            raise ConfigError(f"fitting must be one of {', '.join(get_args(Where))}, not {fitting!r}")
        self.method, self.space = method, make_space(space) if isinstance(space, str) else space
        self.objective = objective or Objective()
        method.check(self.space)
        check_objective(method, self.objective)
        self.space = within_limits(self.space, self.objective)
        self.max_budget, self.time_attr = max_budget, time_attr
        self.fitting: Where = fitting if method.learns else "inline"
        self._waits = self.fitting in ("inline", "apart")
        self.history = History(method.carry, self.objective)
        self.promotion: Promotion | None = None  # which of the trials that a scheduler has stopped go on
        self._forecasts: Mapping[str, float] = {}  # of the last fit, see `Proposal`
        self._spent: set[str] = set()  # ids of what failed when it went on
        self.refits: list[Refit] = []
        self.problem: str | None = None  # why the method failed, where it never proposed anything
        self.exhausted = False  # the space holds no architecture that is not known
        self._worked = self._failed = False  # whether the method ever did
        self._rng = np.random.default_rng(seed)
        self._reports: dict[str, Mapping[str, Any]] = {}  # the last one of each pending architecture, by id
        self._expected: dict[str, float] = {}  # architecture id -> what the model expects of it
        self._fresh: list[str] = []  # completed since the last fit
        self._learning: list[str] = []  # what was fresh when the fit that is running began
        self._queue: deque[Suggestion] = deque()
        self._first: deque[Suggestion] = deque()  # to be evaluated before anything else
        self._beside: Beside | None = None
        self._fit: Future[Fit] | None = None
        self._pairs: list[tuple[float, float]] = []  # (expected, observed) for the fit that is running,
        self._observations = 0  # from which it learns
        self.enqueue(points_to_evaluate)

    # -- ask and tell ----------------------------------------------------------------------------------------------------

    def ask(self) -> Suggestion | None:
        """What to evaluate next; None where the space holds no more, or (not `exhausted`) nothing until another trial has ended."""
        self.warm_up()
        suggestion = self._next()
        if suggestion is None:
            self.exhausted = self.promotion is None or not self.history.pending
            return None
        self.history.start(suggestion.arch)
        if suggestion.expected is not None:
            self._expected[suggestion.arch.id] = suggestion.expected
        return suggestion

    def report(self, arch: Arch | str, report: Mapping[str, Any]) -> None:
        """An intermediate report of an architecture, or of a pending one by its id; nothing is learned before the evaluation ends."""
        arch_id = self._pending(arch)
        if arch_id is None:
            return
        self._reports[arch_id] = report
        known = {**report, **(self._costs(self.history.pending[arch_id]) or {})}
        value, budget = self.objective.value(known), budget_of(report, self.time_attr)
        if value is not None:
            self.history.report(arch_id, self.history.next_budget(arch_id) if budget is None else budget, value)

    def tell(self, arch: Arch | str, report: Mapping[str, Any] | float | None = None, *, error: str | None = None) -> Outcome | None:
        """The evaluation of an architecture, or of a pending one by its id, has ended.

        Args:
            report: its last report, or the value of the first objective alone; None: what was reported last counts.
            error: why it failed.

        Returns how it ended; None where nothing is known of the architecture: it may be suggested again.
        """
        arch_id = self._pending(arch)
        if arch_id is None:
            return None
        if report is not None and not isinstance(report, Mapping):
            report = {self.objective.first.name: report}
        last = self._reports.pop(arch_id, None)
        if report is None and error is None:
            if last is None:
                self.history.withdraw(arch_id)  # it never ran
                return None
            report = last
        outcome, vector, over = self._judged(self.history.pending[arch_id], report, error)
        if outcome.status == "failed":
            self._spent.add(arch_id)
            self.history.end(arch_id, "failed")
        else:
            self.history.end(arch_id, outcome.status, outcome.budget, vector, over)
        self._completed([arch_id])
        return outcome

    def tell_many(self, observations: Iterable[Observation]) -> None:
        """Results from elsewhere, such as those of another run (see `observation`); one fit, after the next `ask`, sees all of them.

        Raises:
            ConfigError: one has not a value for each objective.
        """
        for observation in observations:
            observation.check(self.objective)
            self.history.add(observation)
            self._fresh.append(observation.arch.id)

    def tell_prior(self, observations: Iterable[Observation]) -> int:
        """Results of another search, as of another data set, whose order alone says something; how many did not fail. Raises likewise."""
        prior = prior_of(observations, self.history)
        if prior.archs:
            self.history.add_prior(prior)
        return len(prior.archs)

    def observation(
        self, arch: Arch, metrics: Mapping[str, Any], curve: Iterable[tuple[float, float]] = (), *, error: str | None = None
    ) -> Observation:
        """What `tell_many` takes, of the last report of an evaluation and (budget, first objective) pairs in the metric's own sign."""
        outcome, vector, over = self._judged(arch, metrics, error)
        sign = -1.0 if self.objective.first.direction == "min" else 1.0
        points = [(float(b), sign * value) for b, v in curve if (value := as_number(v)) is not None]
        if vector is not None and not points:
            points.append((outcome.budget, vector[0]))
        return Observation(arch, outcome.status if points else "failed", tuple(points), (vector or ())[1:], over)

    def enqueue(self, archs: Iterable[Arch | Mapping[str, Any]], budget: float | None = None) -> None:
        """Architectures to suggest before any other, with this budget.

        Raises:
            OutOfSpaceError: one is not of the space.
            ConfigError: one is no architecture at all.
        """
        for arch in archs:
            if not isinstance(arch, (Arch, Mapping)):
                raise ConfigError(f"an architecture is given as JSON, as in the column arch of trials.parquet, not as {arch!r}")
            given = self.space.from_config(arch.to_config() if isinstance(arch, Arch) else arch)
            self._first.append(Suggestion(given, budget, origin=Origin("given")))

    def recommend(self) -> Arch | None:
        """The architecture to choose after what is known now; None before any result."""
        try:
            return self.method.recommend(self.space, self.history)
        except Exception:
            logger.exception("%s failed to recommend; the best observed architecture is", type(self.method).__name__)
            return observed(self.space, self.history)

    def _judged(
        self, arch: Arch, report: Mapping[str, Any] | None, error: str | None
    ) -> tuple[Outcome, tuple[float, ...] | None, tuple[float, ...]]:
        """How an evaluation ended, its values of all objectives, and by how much it breaks each limit."""
        outcome = self.objective.judge(report, self.max_budget, error=error, costs=self._costs(arch), time_attr=self.time_attr)
        over = () if outcome.status == "failed" else self.objective.over(outcome.metrics)
        return outcome, self.objective.vector(outcome.metrics), over

    def _pending(self, arch: Arch | str) -> str | None:
        """The id of what is being evaluated, which an architecture that was never asked for is, too; None for what is not."""
        if isinstance(arch, str):
            return arch if arch in self.history.pending else None
        before = self.history.observed.get(arch.id)
        if arch.id not in self.history.pending and (before is None or before.status == "stopped"):
            self.history.start(arch)
        return arch.id if arch.id in self.history.pending else None

    # -- proposals -------------------------------------------------------------------------------------------------------

    def _costs(self, arch: Arch) -> dict[str, float] | None:
        """What is known of an architecture before any trial, where the objective asks for it."""
        names = {metric.name for metric in self.objective.metrics} | {limit.metric for limit in self.objective.limits}
        return known_costs(self.space, arch) if names & set(COSTS) else None

    def _batch(self) -> int:
        """Completed trials from one fit to the next."""
        return self.method.batch(len(self.history.observed))

    def _pop(self, queue: deque[Suggestion]) -> Suggestion | None:
        while queue:
            suggestion = queue.popleft()
            if self._new(suggestion):
                return suggestion
        return None

    def _new(self, suggestion: Suggestion) -> bool:
        """Whether an architecture is not known yet, or was stopped and may spend more now."""
        arch_id = suggestion.arch.id
        before = self.history.observed.get(arch_id)
        if before is None or arch_id in self.history.pending:
            return arch_id not in self.history
        more = self.promotion is not None or (suggestion.budget is not None and suggestion.budget > before.budget)
        return before.status == "stopped" and more

    def _next(self) -> Suggestion | None:
        suggestion = self._pop(self._first)
        starts = starting(self.history, self.method.num_initial)
        if suggestion is None and not starts and self.promotion is not None:
            suggestion = self.promotion.due(self.history, self._forecasts, self._spent)
        if suggestion is None and not starts:
            if self._waits:
                self._ask_method()
            else:
                self._launch()
            suggestion = self._pop(self._queue)
        if suggestion is None:
            arch, by = initial(self.space, self.history, self._rng) if starts else (self._stopgap(), "stopgap")
            suggestion = None if arch is None else Suggestion(arch, origin=Origin(by))
        return suggestion

    def _ask_method(self) -> None:
        """Waits for new proposals if they are due."""
        if self._queue and len(self._fresh) < self._batch():
            return
        pairs = self._comparable()
        propose = partial(fit, self.method, self.space) if self._beside is None else self._beside.fit
        self._refill(self._guarded(lambda: propose(self.history, self._child_rng(), self._batch())), pairs)

    def _stopgap(self) -> Arch | None:
        try:
            arch = self.method.stopgap(self.space, self.history, self._rng)
            Proposal([] if arch is None else [arch]).check(self.space)
            return arch
        except Exception:
            self._tell_of_failure()
            return at_random(self.space, self.history, self._rng)

    def _guarded(self, attempt: Callable[[], Fit]) -> Fit:
        """An exception in a method would abort the whole search: log it and go on without the method."""
        try:
            done = attempt()
            done.proposal.check(self.space)
        except Exception as error:
            self._tell_of_failure()
            if not self._worked:
                self.problem = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1]}"
            return Fit(Proposal(()), 0.0)
        self._worked, self.problem = True, None
        return done

    def _tell_of_failure(self) -> None:
        """In full once; each further time in one line."""
        text = "%s failed to propose; random architectures are suggested instead"
        logger.error(text, type(self.method).__name__, exc_info=not self._failed)
        self._failed = True

    def _child_rng(self) -> np.random.Generator:
        return np.random.default_rng(int(self._rng.integers(2**63)))

    def _completed(self, arch_ids: list[str]) -> None:
        self._fresh += arch_ids
        if not self._waits and not starting(self.history, self.method.num_initial):
            self._launch()

    def _comparable(self) -> list[tuple[float, float]]:
        """(expected, observed) of the full evaluations since the last fit; what is fresh now is learned by the fit to come."""
        fresh, self._fresh = self._fresh, []
        pairs = [(self._expected.pop(arch_id), self.history.observed[arch_id]) for arch_id in fresh if arch_id in self._expected]
        return [(expected, o.value) for expected, o in pairs if o.status == "finished"]

    def _refill(self, done: Fit, pairs: list[tuple[float, float]], observations: int | None = None) -> None:
        """Takes over what a fit proposed, and notes how good the model before it was."""
        proposal = done.proposal
        self._queue, self._forecasts = deque(proposal.suggestions()), proposal.forecasts
        if proposal.memory is not None:
            self.history.memory = proposal.memory
        if self.method.learns:
            self.refits.append(refit(len(self.history.observed) if observations is None else observations, done.seconds, pairs))

    # -- beside the control loop -----------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Starts what a fit beside the control loop needs, while the first trials run; `ask` does so if nobody did before."""
        if self.fitting != "inline" and self._beside is None:
            self._beside = Beside(self.method, self.space, "thread" if self.fitting == "thread" else "process")
            self._beside.warm_up()

    def _launch(self) -> None:
        """Starts a fit beside the control loop if one is due and, once its proposals are taken over, none is running."""
        self._collect()
        if self._fit is not None or not self._fresh or (self._queue and len(self._fresh) < self._batch()):
            return
        self.warm_up()
        assert self._beside is not None
        self._learning, self._observations = self._fresh, len(self.history.observed)
        rng = self._child_rng()
        self._pairs = self._comparable()
        wanted = max(_QUEUE_FACTOR * self.method.full_batch(self._observations), len(self.history.pending))  # all workers may ask at once
        self._fit = self._beside.submit(self.history, rng, wanted)

    def _collect(self) -> None:
        """Takes over what a fit beside the control loop has proposed, if it is ready."""
        running = self._fit
        if running is not None and running.done():
            self._refill(self._guarded(running.result), self._pairs, self._observations)
            self._fit, self._learning = None, []

    def wait(self) -> None:
        """Waits for a fit that is running, if any, and takes over what it proposes."""
        if self._fit is not None:
            self._fit.exception()
            self._collect()

    def close(self) -> None:
        """Ends what runs beside the control loop. The search may go on, and starts it anew."""
        if self._beside is not None:
            self._beside.close()
        self._fresh, self._learning = self._learning + self._fresh, []
        self._beside = self._fit = None

    # -- state -----------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The whole state as plain JSON; a fit that is running is left out and made up for after a restore."""
        return {
            "version": STATE_VERSION,
            "method": type(self.method).__name__,
            "space": self.space.name,
            "history": self.history.to_json(),
            "reports": {arch_id: {k: v for k, v in r.items() if as_number(v) is not None} for arch_id, r in self._reports.items()},
            "expected": dict(self._expected),
            "fresh": self._learning + self._fresh,
            "queue": [suggestion.to_json() for suggestion in self._queue],
            "first": [suggestion.to_json() for suggestion in self._first],
            "rng": self._rng.bit_generator.state,
        }

    def load_json(self, state: Mapping[str, Any]) -> None:
        """The inverse of `to_json`.

        Raises:
            ResumeError: the state is of another version, method or space.
        """
        for key, mine in (("version", STATE_VERSION), ("method", type(self.method).__name__), ("space", self.space.name)):
            if state[key] != mine:
                raise ResumeError(f"the saved state is of {key} {state[key]!r}, but this search is of {key} {mine!r}")
        self.close()
        self.history = History.from_json(state["history"], self.method.carry, self.objective)
        self._reports, self._expected, self._fresh = dict(state["reports"]), dict(state["expected"]), list(state["fresh"])
        self._queue, self._first = (deque(map(Suggestion.from_json, state[name])) for name in ("queue", "first"))
        self._rng.bit_generator.state = state["rng"]

    def __getstate__(self) -> dict[str, Any]:
        """Threads and processes do not travel."""
        return self.__dict__ | {"_beside": None, "_fit": None, "_fresh": self._learning + self._fresh, "_learning": []}
