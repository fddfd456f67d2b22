"""Tree-structured Parzen estimators (Bergstra et al., NIPS 2011). The method is Optuna's `TPESampler`; this file tells it what is known."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from raynas.arch import Arch
from raynas.errors import ConfigError
from raynas.history import History
from raynas.model.candidates import distinct
from raynas.spaces import SearchSpace
from searchers.decisions import Variables, check_decisions, decide, described, first_new, listed
from searchers.method import Method, Origin, Proposal

_TRIES = 15  # draws for one architecture that is new; each costs a Parzen estimator for each variable


@dataclass(frozen=True, kw_only=True)
class TPE(Method):
    """TPE: densities over the variables of the adjacency encoding, of good and of other results; the highest ratio is proposed.

    Every proposal is made by a new study of Optuna's that was told all results: finished and stopped ones with their values, pending
    ones as running (Optuna's constant liar keeps away from them). The variables are categorical, and one that has a single value
    after those before it is no parameter, so conditional choices stay conditional. What is no architecture, or known, is drawn
    again; then what is nearest to the last draw is taken.

    Args:
        candidates: of which the one with the highest ratio is taken; 24 as in hyperopt, with which the comparisons ran.
        multivariate: joint densities, of conditional variables in groups, which is Optuna's own default: better, and three times faster.
            Without, a density for each variable, as published.
    """

    candidates: int = 24
    multivariate: bool = True
    refit_every: int = 1

    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise ConfigError(f"candidates must be at least 1, not {self.candidates}")

    def check(self, space: SearchSpace) -> None:
        """As `check_decisions`; and Optuna must be there."""
        if find_spec("optuna") is None:
            raise ConfigError("the searcher tpe needs Optuna: pip install 'raynas[rivals]'")
        check_decisions(space)

    def warm_up(self, space: SearchSpace) -> None:
        """Loads Optuna."""
        import optuna.samplers  # noqa: F401

    def propose(self, space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        """`count` draws, each as if the ones before it were pending."""
        with _quiet():
            study = self._study(space, history, int(rng.integers(2**32)))
            found: dict[str, Arch] = {}
            for _ in range(count):
                arch = _ask(study, space, {*history.observed, *history.pending, *found}, rng)
                if arch is None:
                    break
                found[arch.id] = arch
        return Proposal(list(found.values()), origins=[Origin("model")] * len(found))

    def _study(self, space: SearchSpace, history: History, seed: int) -> Any:
        import optuna

        sampler = optuna.samplers.TPESampler(
            n_startup_trials=0, n_ei_candidates=self.candidates, multivariate=self.multivariate, group=self.multivariate, seed=seed
        )
        study = optuna.create_study(direction="maximize", sampler=sampler)
        states = optuna.trial.TrialState
        known: list[tuple[Arch, Any]] = [(arch, float(value)) for arch, value in zip(*history.targets(), strict=True)]
        for arch, value in [*known, *((arch, None) for arch in history.pending.values())]:
            parameters = dict(_parameters(space, space.adjacency(arch)))
            study.add_trial(
                optuna.trial.create_trial(
                    state=states.RUNNING if value is None else states.COMPLETE,
                    value=value,
                    params={name: chosen for name, (_, chosen) in parameters.items()},
                    distributions={
                        name: optuna.distributions.CategoricalDistribution(allowed) for name, (allowed, _) in parameters.items()
                    },
                )
            )
        return study


def _name(before: Sequence[int], allowed: Sequence[int]) -> str:
    """Of a parameter: one for each set of values that a variable may take."""
    return f"{len(before)}: {' '.join(map(str, allowed))}"


def _parameters(space: SearchSpace, variables: Sequence[int]) -> Iterator[tuple[str, tuple[Sequence[int], int]]]:
    for i, chosen in enumerate(variables):
        allowed = space.allowed(variables[:i])
        if len(allowed) > 1:
            yield _name(variables[:i], allowed), (allowed, chosen)


def _ask(study: Any, space: SearchSpace, known: set[str], rng: np.random.Generator) -> Arch | None:
    """One architecture that is new; its trial is left running."""
    trials: list[tuple[Any, Variables]] = []

    def draw() -> Variables:
        if trials:
            study.tell(trials[-1][0], state=_failed())
        trial = study.ask()

        def choose(before: Sequence[int], allowed: Sequence[int]) -> int:
            return int(trial.suggest_categorical(_name(before, allowed), allowed)) if len(allowed) > 1 else allowed[0]

        trials.append((trial, decide(space, choose)))
        return trials[-1][1]

    new = first_new(space, draw, known, _TRIES)
    if new is not None:
        return new[0]
    last = trials[-1][1]
    if (rest := listed(space)) is not None:
        near = rest.most((rest.variables == last).sum(axis=1) + rng.random(len(rest.archs)) / 2, known)
        return None if near is None else near[0]
    parents = [arch for _, variables in trials if (arch := described(space, variables)) is not None]
    return next(iter(distinct(lambda: space.mutate(parents[-1], rng), 1, known)), None) if parents else None


def _failed() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's log of each study, and its warning that groups are experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
