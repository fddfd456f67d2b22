"""Names of spaces, searchers, encodings, ..., and the options that they take."""

import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest

from raynas.errors import ConfigError, RaynasError, UnknownNameError
from raynas.model.encodings import ENCODINGS
from raynas.model.predictors import PREDICTORS, make_predictor
from raynas.registry import check_options, keywords, make, resolve, unknown
from raynas.spaces import SPACES, make_space
from searchers import SEARCHERS
from trainables import TRAINABLES


class Base:
    def __init__(self, space: str, *, seed: int = 0, rates: tuple[float, ...] = (), mode: str | None = None) -> None:
        self.options = (space, seed, rates, mode)


class Passing(Base):
    def __init__(self, *args: Any, pool: int = 10, **options: Any) -> None:
        super().__init__(*args, **options)
        self.pool = pool


class Closed(Base):
    def __init__(self, depth: int) -> None:
        super().__init__("toy")
        self.depth = depth


class Plain:
    """Takes nothing."""


def function(space: str, depth: int = 3) -> None:
    """Takes two."""


def test_an_entry_may_be_an_object_or_a_place() -> None:
    registry = {"here": Base, "there": "raynas.arch:Arch"}
    assert resolve(registry, "here", "thing") is Base
    assert resolve(registry, "there", "thing").__name__ == "Arch"
    assert resolve(registry, "raynas.history:History", "thing").__name__ == "History"


def test_a_class_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_users_module.py").write_text("class Mine:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve({}, "a_users_module:Mine", "thing") is sys.modules["a_users_module"].Mine


def test_every_entry_resolves() -> None:
    for kind, registry in {"space": SPACES, "searcher": SEARCHERS, "predictor": PREDICTORS, "trainable": TRAINABLES}.items():
        for name in registry:
            assert callable(resolve(registry, name, kind))
    assert all(callable(encoder) for encoder in ENCODINGS.values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("banana", "unknown thing 'banana'; did you mean 'bananas'? Known: bananas, random"),
        ("xyz", "unknown thing 'xyz'. Known: bananas, random"),
        ("no_such_module:X", "thing 'no_such_module:X' cannot be imported: No module named 'no_such_module'"),
        ("raynas.arch:Nothing", "has no attribute 'Nothing'"),
        ("raynas.arch:", "cannot be imported"),
        (":X", "cannot be imported"),
        (".arch:X", "cannot be imported"),
    ],
)
def test_unknown_names_are_told_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        resolve({"bananas": Base, "random": Base}, name, "thing")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", "thing 'a_broken_module:X' cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(:", "thing 'a_broken_module:X' cannot be imported: SyntaxError: invalid syntax (a_broken_module.py, line 1)"),
        ("import no_such_module", "thing 'a_broken_module:X' cannot be imported: No module named 'no_such_module'"),
        ("raise SystemExit(3)", "thing 'a_broken_module:X' cannot be imported: SystemExit: 3"),
        ("raise OSError('one\\ntwo')", "thing 'a_broken_module:X' cannot be imported: OSError: one two"),
    ],
)
def test_a_module_that_raises_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str) -> None:
    (tmp_path / "a_broken_module.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError) as caught:
        resolve({}, "a_broken_module:X", "thing")
    assert str(caught.value) == message


class Unfinished(ABC):
    @abstractmethod
    def one(self) -> None: ...

    @abstractmethod
    def another(self) -> None: ...


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (Unfinished, "thing 'x' is unfinished: it must define another, one"),
        (Closed, "thing 'x' cannot be made with the options {}: TypeError: .*missing 1 required positional argument: 'depth'"),
        (3, "thing 'x' is of type int, but must be a class or a function"),
    ],
)
def test_what_nothing_can_be_made_of(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make({"x": entry}, "x", {}, "thing")
    assert "\n" not in str(caught.value)


def test_an_empty_registry() -> None:
    assert str(unknown("thing", "x", [])) == "unknown thing 'x'. Known: none"


@pytest.mark.parametrize(
    ("target", "names"),
    [
        (Base, {"space", "seed", "rates", "mode"}),
        (Passing, {"pool", "space", "seed", "rates", "mode"}),  # **options reaches the base
        (Closed, {"depth"}),  # nothing reaches the base
        (Plain, set()),
        (function, {"space", "depth"}),
    ],
)
def test_keywords(target: Any, names: set[str]) -> None:
    assert set(keywords(target)) == names


def test_values_have_the_declared_types() -> None:
    assert check_options(Passing, {"seed": 1, "rates": [1, 2.0], "mode": None}, "thing") == {"seed": 1, "rates": (1.0, 2.0), "mode": None}
    for option, value in (("seed", "many"), ("rates", 3), ("mode", 1), ("pool", 2.5)):
        with pytest.raises(ConfigError, match=f"option {option} of searcher 'x' cannot be {value!r}: ") as caught:
            check_options(Passing, {option: value}, "searcher 'x'")
        assert "\n" not in str(caught.value)


def test_types_that_cannot_be_found_are_not_checked() -> None:
    class Hidden:
        def __init__(self, depth: "OnlyForTypeCheckers") -> None:  # type: ignore[name-defined]  # noqa: F821
            self.depth = depth

    assert check_options(Hidden, {"depth": "any"}, "thing") == {"depth": "any"}


def test_options_that_are_not_taken_are_told() -> None:
    with pytest.raises(UnknownNameError, match="unknown option of searcher 'x' 'pol'; did you mean 'pool'"):
        check_options(Passing, {"seed": 1, "pol": 3}, "searcher 'x'")
    with pytest.raises(UnknownNameError, match="Known: depth"):
        check_options(Closed, {"seed": 1}, "thing")
    check_options(Passing, {"seed": 1, "pool": 3}, "thing")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda options: make_space("darts", options), {"chanels": 16}),
        (lambda options: make_space("nasbench101", options), {"sampler": "unifrom"}),
        (lambda options: make_predictor("mlp", options), {"layer": 3}),
        (lambda options: make_predictor("mlp", options), {"loss": "mape"}),
        (lambda options: make_predictor("mlp", options), {"width": 0}),
        (lambda options: make_predictor("mlp", options), {"epochs": "many"}),
    ],
)
def test_wrong_options_of_what_is_registered(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(RaynasError, match=next(iter(options))) as caught:
        make(options)
    assert isinstance(caught.value, (UnknownNameError, ConfigError))
    assert "\n" not in str(caught.value)


def test_right_options_of_what_is_registered() -> None:
    assert make_space("darts", {"channels": 16}).__dict__["channels"] == 16
    assert make(PREDICTORS, "mlp", {"width": 8, "betas": [0.9, 0.99]}, "predictor").betas == (0.9, 0.99)  # as YAML has it
