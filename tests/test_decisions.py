"""Architectures from variables, in every space, and what draws them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas import ChoiceSpace, Ordered, Repeat
from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.outcome import Objective
from raynas.spaces import SearchSpace, Subset, make_space
from raynas.spaces.darts import DARTSSpace
from searchers import Engine, make_method
from searchers.decisions import check_decisions, decide, described, listed
from searchers.method import within_limits

DECIDING: dict[str, dict[str, Any]] = {
    "alphax": {"predictor_options": {"members": 1, "epochs": 2}},
    "bohb": {"random_fraction": 0.0, "min_points": 1},
    "reinforce": {},
    "tpe": {},
}
CHOICES: dict[str, Any] = {
    "norm": ["batch", "group"],
    "groups": Ordered(2, 4, when={"norm": "group"}),
    "stages": Repeat(0, 2, {"kernel": [3, 5]}),
}
conditional = ChoiceSpace("conditional", CHOICES, lambda choices, classes, image_size, channels: None)
SPACES: dict[str, SearchSpace] = {
    **{name: make_space(name) for name in ("nasbench101", "nasbench201", "darts", "mobile")},
    "none": DARTSSpace(with_none=True),
    "conditional": conditional,
    "toy": ToySpace(4),
}


@pytest.mark.parametrize("name", SPACES)
def test_variables_describe_the_architecture(name: str) -> None:
    space, rng = SPACES[name], np.random.default_rng(0)
    check_decisions(space)
    for _ in range(30):
        arch = space.sample(rng)
        variables = space.adjacency(arch)
        assert space.from_adjacency(variables) == arch
        assert all(value in space.allowed(variables[:i]) for i, value in enumerate(variables))
        drawn = described(space, decide(space, lambda before, allowed: allowed[rng.integers(len(allowed))]))
        assert drawn is not None or name == "nasbench101"  # where not all that is wrong is known beforehand
        assert drawn is None or space.contains(drawn)


def test_what_describes_nothing_is_refused() -> None:
    for name, variables in {"nasbench101": [0] * 26, "nasbench101 ": [1] * 26, "darts": [0] * 32, "conditional": [0, 1, 0, 0, 0]}.items():
        with pytest.raises(OutOfSpaceError):
            SPACES[name.strip()].from_adjacency(variables)


def test_parts_of_a_space_describe_their_own() -> None:
    space = ToySpace(3)
    part = Subset(space, [space.make("aaa"), space.make("bca")])
    assert described(part, (1, 2, 0)) == space.make("bca")
    assert described(part, (1, 1, 1)) is None
    limited = within_limits(make_space("nasbench201"), Objective.parse(["valid_accuracy"], ["parameters<=200000"]))
    assert described(limited, (2,) * 6) is None
    assert described(limited, (4,) * 6) is not None


class Bare(ToySpace):
    """Without an adjacency encoding."""

    def __init__(self) -> None:
        super().__init__(3)
        self.adjacency_sizes = ()


class OneWay(ToySpace):
    """Variables that nobody reads back."""

    from_adjacency = SearchSpace.from_adjacency


class Wrong(ToySpace):
    """Variables that are read back wrongly."""

    def from_adjacency(self, variables: Sequence[int]) -> Arch:
        return super().from_adjacency([2 - value for value in variables])


class Disordered(ToySpace):
    """An order in which a variable comes twice."""

    decision_order = (0, 1, 1)


MISTAKES = [(Bare(), "no adjacency"), (OneWay(3), "does not say"), (Wrong(3), "no inverse"), (Disordered(3), "each of 0 to 2 once")]


@pytest.mark.parametrize("name", DECIDING)
@pytest.mark.parametrize(("space", "problem"), MISTAKES)
def test_a_space_without_decisions_is_told(name: str, space: SearchSpace, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Engine(make_method(name), space)


@pytest.mark.parametrize("name", DECIDING)
@pytest.mark.parametrize("kind", ["conditional", "mobile", "sparse", "limited"])
def test_every_kind_of_space_is_searched_by_the_method_itself(name: str, kind: str) -> None:
    whole = SPACES.get(kind, SPACES["nasbench201"])
    rng = np.random.default_rng(0)
    objective = Objective.parse(["valid_accuracy"], ["parameters<=200000"] if kind == "limited" else [])
    space = Subset(whole, [whole.sample(rng) for _ in range(30)]) if kind == "sparse" else whole  # of 15,625: draws do not meet them
    search = Engine(make_method(name, {"num_initial": 3} | DECIDING[name]), space, objective=objective)
    by = []
    for i in range(12):
        suggestion = search.ask()
        assert suggestion is not None
        by.append(suggestion.origin.by)
        search.tell(suggestion.arch, suggestion.arch.id.count("3") / 50, error=None if i % 5 else "lost")
    assert search.problem is None
    assert by[3:] == ["model"] * 9


def test_a_space_that_is_known_to_be_large_is_not_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    space = make_space("nasbench101", {"sampler": "uniform"})
    monkeypatch.setattr(type(space), "enumerate", lambda self: pytest.fail("it was"))
    assert listed(space) is None
