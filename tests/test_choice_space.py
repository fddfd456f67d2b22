"""A space of named choices: what its author writes, and all that comes of it."""

import copy
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nasbench_files import run
from torch import nn

from raynas import Categorical, ChoiceSpace, Optional, Ordered, Repeat, Whole, compare
from raynas.arch import Arch
from raynas.drawing import as_text, picture
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.model.encodings import ENCODINGS, encode
from raynas.run.session import check_space
from raynas.run.settings import name_of
from raynas.spaces import SPACES, known_costs, make_space
from raynas.tables import open_table, searchable
from searchers import Engine, make_method
from trainables.learning.networks import make_network

CHOICES: Mapping[str, Any] = {
    "norm": ["batch", "group"],
    "groups": Ordered(2, 4, when={"norm": "group"}),
    "stages": Repeat(1, 3, {"kernel": Ordered(3, 5), "attention": Optional({"heads": [1, 2]})}),
    "head": {"hidden": Whole(8, 24, step=8), "tanh": [False, True]},
    "late": Categorical(0.5, 2.0, when={"stages": [2, 3], "norm": "batch"}),
}


def build(choices: dict[str, Any], classes: int, image_size: int, channels: int, width: int = 8) -> nn.Module:
    """A perceptron, of which only some choices can be made."""
    if choices.get("late") == 2:
        raise ValueError("too\nlate")
    hidden = choices["head"]["hidden"] * len(choices["stages"])
    convolution = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return nn.Sequential(convolution, nn.Flatten(), nn.Linear(width * image_size**2, hidden), nn.Linear(hidden, classes))


space = ChoiceSpace("mine", CHOICES, build, classes=3, image_size=8, channels=1)
ALL = list(space.enumerate() or ())
GROUP = {"norm": "group", "groups": 2, "stages": [{"kernel": 3, "attention": {"heads": 2}}], "head": {"hidden": 8, "tanh": False}}
BATCH = {**{k: v for k, v in GROUP.items() if k != "groups"}, "norm": "batch"}


def archs() -> st.SearchStrategy[Arch]:
    return st.sampled_from(ALL)


def test_every_way_to_choose_is_one_architecture() -> None:
    blocks = [6**count for count in (1, 2, 3)]
    assert space.size == len(ALL) == len(set(ALL)) == (2 * sum(blocks) + blocks[0] + 2 * (blocks[1] + blocks[2])) * 3 * 2
    drawn = [space.sample(np.random.default_rng(seed)) for seed in range(300)]
    assert set(drawn) <= set(ALL)
    assert {len(arch["choices"]["stages"]) for arch in drawn} == {1, 2, 3}


def test_choices_are_plain_python_and_ids_are_read() -> None:
    arch = space.make(**GROUP)
    assert arch.id == "group,2,[(3,(2))],(8,false)"
    assert arch.to_config() == {"space": "mine", "id": arch.id, "choices": GROUP}
    assert space.make(**{**BATCH, "stages": 2 * [{"kernel": 3, "attention": None}], "late": 2}).id == "batch,[(3,no)(3,no)],(8,false),2"
    assert space.make(**{**GROUP, "groups": 2.0}) == arch
    given = arch.to_config()
    given["choices"]["stages"].clear()
    assert space.contains(arch)


@settings(max_examples=50, deadline=None)
@given(archs(), st.integers(0, 2**32), st.sampled_from([0.5, 1.0, 2.0, 100.0]))
def test_what_comes_of_it_belongs_to_the_space(arch: Arch, seed: int, rate: float) -> None:
    child = space.mutate(arch, np.random.default_rng(seed), rate)
    assert child != arch
    near = space.neighbors(arch)
    for other in (arch, child, *near):
        assert space.contains(other)
        assert Arch.from_config(other.to_config()) == other == space.from_config(other.to_config())
    assert len({arch, *near}) == len(near) + 1
    paths, graph = space.paths(arch), space.graph(arch)
    assert list(paths) == sorted(set(paths))
    assert max(paths) < space.num_paths
    assert graph.operations.tolist() == [0, *(path + 1 for path in paths), space.num_paths + 1]
    assert all(0 <= value < size for value, size in zip(space.adjacency(arch), space.adjacency_sizes, strict=True))
    assert min(space.scalars(arch)) >= 0
    assert max(space.scalars(arch)) <= 1


def test_a_rate_is_the_number_of_changes() -> None:
    wide = ChoiceSpace("wide", {f"c{i}": Ordered(*range(9)) for i in range(20)}, build)
    rng, arch = np.random.default_rng(0), wide.make(**{f"c{i}": 4 for i in range(20)})
    for rate in (1.0, 3.0):
        children = [np.array(list(wide.mutate(arch, rng, rate)["choices"].values())) for _ in range(400)]
        assert np.mean([(child != 4).sum() for child in children]) == pytest.approx(rate, rel=0.1)
    assert np.mean([np.abs(child - 4).max() == 1 for child in children]) > 0.3  # next values mostly
    assert {abs(value - 4) for other in wide.neighbors(arch) for value in other["choices"].values()} == {0, 1}


def test_encodings_tell_architectures_apart() -> None:
    for name in ENCODINGS.keys() - {"operation_pairs"}:
        encoded = encode(name, space, ALL[::7])
        assert np.isfinite(encoded).all()
        if "categorical" not in name:
            assert len(np.unique(encoded, axis=0)) == len(encoded), name


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (3, "choices must be a mapping of choices, not 3"),
        ({**GROUP, "nrom": 1}, "unknown choice 'nrom'; did you mean 'norm'"),
        ({**GROUP, "norm": "layer"}, "norm cannot be 'layer'; allowed: batch, group"),
        ({**GROUP, "groups": True}, "groups cannot be True; allowed: 2, 4"),
        ({**BATCH, "groups": 2}, "the choice groups is given, but exists only where norm is group"),
        ({k: v for k, v in GROUP.items() if k != "head"}, "the choice head is missing; allowed: a mapping of choices"),
        ({**GROUP, "head": {"hidden": 9, "tanh": False}}, r"head\.hidden cannot be 9; allowed: 8, 16, 24"),
        ({**GROUP, "head": None}, "head must be a mapping of choices, not None"),
        ({**GROUP, "stages": []}, r"stages cannot be \[\]; allowed: a list of 1 to 3 blocks"),
        ({**GROUP, "stages": "abc"}, "stages cannot be 'abc'"),
        ({**GROUP, "stages": [{"kernel": 3}]}, r"stages\.0\.attention is missing; allowed: a mapping of choices, or null"),
        ({**GROUP, "stages": [{"kernel": 3, "attention": {"head": 1}}]}, r"did you mean 'stages\.0\.attention\.heads'"),
        ({**GROUP, "late": 0.5}, "late is given, but exists only where stages is 2 or 3 and norm is batch"),
    ],
)
def test_what_is_no_architecture(choices: Any, message: str) -> None:
    with pytest.raises(OutOfSpaceError, match=message) as caught:
        space.from_config({"choices": choices})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({}, "needs at least one choice"),
        ([], "the choices of a space must be a mapping"),
        ({"a.b": [1]}, "the name of a choice must be letters, digits and _"),
        ({"a": 3}, "the choice a must be a list of values, Categorical"),
        ({"a": []}, "the choice a needs 1 to 1,000 values, not 0"),
        ({"a": Whole(0, 10**6)}, "not 1,000,001"),
        ({"a": [1, 1.0]}, "the choice a has the value 1 twice"),
        ({"a": [float("nan")]}, "must be finite numbers, texts or booleans, not nan"),
        ({"a": Ordered([1, 2])}, r"must be finite numbers, texts or booleans, not \[1, 2\]"),
        ({"a": Whole(3, 1)}, "low <= high"),
        ({"a": Whole(1, 2.5)}, "must be whole numbers"),  # type: ignore[arg-type]
        ({"a": Repeat(-1, 2, {"b": [1]})}, "no negative number of repeats"),
        ({"a": Optional({"b": 3})}, r"the choice a\.b must be"),
        ({"a": Ordered(1, when={"b": 1}), "b": [1]}, "names 'b', but must name a choice before it, of: none"),
        ({"b": [1], "a": Ordered(1, when={"b": 2})}, "needs b = 2, but its values are 1"),
        ({"b": [1], "a": Ordered(1, when={"b": True})}, "needs b = True"),
        ({"b": [1], "a": Ordered(1, when="b")}, "must be a mapping, as in when="),
    ],
)
def test_what_are_no_choices(choices: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ChoiceSpace("wrong", choices, build)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "a:b"}, "the name of a space must be"),
        ({"build": "build"}, "must be a function of"),
        ({"build": lambda choices: None}, r"must be a function of \(choices, classes, image_size, channels\): too many positional"),
        ({"classes": 0}, "must be positive whole numbers"),
    ],
)
def test_what_is_no_space(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ChoiceSpace(**{"name": "wrong", "choices": CHOICES, "build": build, **changed})


def test_spaces_are_values() -> None:
    for twin in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space), ChoiceSpace("mine", CHOICES, build, 3, 8, 1)):
        assert twin == space
        assert hash(twin) == hash(space)
        assert twin.cost(ALL[0]) == space.cost(ALL[0])
    assert space != ChoiceSpace("mine", CHOICES, build)


def test_large_spaces_are_counted_but_not_listed() -> None:
    large = ChoiceSpace("large", {"blocks": Repeat(1, 20, {"kernel": [3, 5, 7]})}, build)
    assert large.size == sum(3**count for count in range(1, 21))
    assert large.enumerate() is None
    asked = {f"c{i}": [False, True] for i in range(40)}
    tangled = ChoiceSpace("tangled", {**asked, "last": Ordered(1, 2, when=dict.fromkeys(asked, True))}, build)
    assert tangled.size is None
    assert tangled.contains(tangled.sample(np.random.default_rng(0)))


# -- the network


def test_the_cost_is_that_of_the_network_it_builds() -> None:
    arch = space.make(**GROUP)
    network = make_network(space, arch, 3, 8, 1)
    weights = sum(w.numel() for w in network.parameters())
    assert space.cost(arch) == (weights, 9 * 8 * 64 + 2 * 8 * 64 + 8 * 64 * 8 + 8 * 3)
    assert make_network(space, arch, 3, 8, 1, width=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    with pytest.raises(ConfigError, match="option width of the network of space 'mine' cannot be 'wide'"):
        make_network(space, arch, 3, 8, 1, width="wide")


def needs_values(choices: Any, classes: int, image_size: int, channels: int) -> nn.Module:
    """What the meta device cannot build."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, int(torch.ones(classes).sum().item())))


def test_a_network_that_needs_values_is_counted_too() -> None:
    before = torch.get_rng_state()
    assert ChoiceSpace("values", {"a": [1]}, needs_values).cost(Arch.make("values", "1", choices={"a": 1})) == (30730, 30720)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda c, k, s, n: nn.Linear(1, 1, bias=c["b"]), "the network of space 'x' for 1 raised KeyError in line .*'b'"),
        (lambda c, k, s, n: None, "the network of space 'x' for 1 must be a module of torch with weights, but .* returned NoneType"),
        (
            lambda c, k, s, n: nn.Sequential(nn.Flatten(), nn.Linear(3072, k + 1)),
            r"\(n, 3, 32, 32\) into \(n, 10\), but one became \(1, 11\)",
        ),
        (lambda c, k, s, n: nn.Linear(5, k), "raised RuntimeError"),
    ],
)
def test_mistakes_of_build_are_one_line(function: Any, message: str) -> None:
    wrong = ChoiceSpace("x", {"a": [1]}, function)
    with pytest.raises(ConfigError, match=message) as caught:
        check_space(wrong, "x")
    assert "\n" not in str(caught.value)


def test_a_choice_without_network_only_fails_itself() -> None:
    late = space.make(**{**BATCH, "stages": 2 * GROUP["stages"], "late": 2.0})
    with pytest.raises(ConfigError, match=r"raised ValueError in line .* too late"):
        space.cost(late)
    assert known_costs(space, late) == {}


# -- as users name and see it


def test_an_object_at_the_top_of_a_module_is_a_space() -> None:
    assert make_space(f"{__name__}:space") is space
    assert name_of("space", space, SPACES) == f"{__name__}:space"
    with pytest.raises(ConfigError, match="is made already, so it takes no options; leave out classes"):
        make_space(f"{__name__}:space", {"classes": 3})
    with pytest.raises(ConfigError, match="the space 'mine' has no name at the top of a module"):
        name_of("space", copy.copy(space), SPACES)


def test_pictures_and_words() -> None:
    arch = space.make(**GROUP)
    labels = [node.label for node in space.draw(arch)[0].nodes]
    assert labels == ["input", "norm group", "groups 2", "stages[0]:\nkernel 3, attention:\nheads 2", "head:\nhidden 8, no tanh", "output"]
    assert as_text(space, arch).splitlines()[2] == "  stages[0]: kernel 3, attention: heads 2"
    for graphviz in (True, False):
        assert b"heads 2" in picture(space, arch, graphviz=graphviz)


# -- searched

STAGE = {"width": Ordered(8, 16, 24, 32), "kernel": Ordered(3, 5, 7), "squeeze": [False, True]}
LARGE = ChoiceSpace("searched", {"act": ["relu", "silu", "gelu"], "stages": Repeat(2, 5, STAGE)}, build)


def quality(arch: Arch) -> float:
    """At most 0.9: four stages, wide ones last, the kernel that goes with the width, one activation that goes with squeezing."""
    choices = arch["choices"]
    loss = 0.05 * abs(len(choices["stages"]) - 4)
    for i, stage in enumerate(choices["stages"]):
        loss += 0.002 * abs(stage["width"] - (8, 16, 24, 32, 32)[i]) + 0.01 * abs(stage["kernel"] - (3 if stage["width"] < 24 else 5))
        loss += 0.02 * (stage["squeeze"] != (choices["act"] == "silu"))
    return 0.9 - loss - 0.02 * (choices["act"] == "gelu")


def best_of(method: str, seed: int, queries: int = 80) -> float:
    engine = Engine(make_method(method), LARGE, seed=seed, fitting="inline")
    for _ in range(queries):
        suggestion = engine.ask()
        assert suggestion is not None
        engine.tell(suggestion.arch, {"valid_accuracy": quality(suggestion.arch)})
    best = engine.history.best()
    assert best is not None
    return best.value


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bananas", "bananas-paper", "evolution"])
def test_methods_beat_random_search(method: str) -> None:
    found, drawn = ([best_of(name, seed) for seed in range(3)] for name in (method, "random"))
    assert np.mean(found) > np.mean(drawn) + (0.02 if method == "bananas" else 0)
    if method == "bananas":
        assert min(found) > max(drawn)


def test_a_table_of_choices_is_searched_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [arch for arch in ALL[::99] if known_costs(space, arch)]
    texts = [json.dumps(arch.to_config()["choices"]) for arch in rows]
    pacsv.write_csv(pa.table({"choices": texts, "acc": np.linspace(0.1, 0.9, len(rows))}), tmp_path / "own.csv")
    table, named = str(tmp_path / "own.parquet"), ("--space", f"{__name__}:space")
    assert run(capsys, tmp_path / "own.csv", table, "--valid", "acc", *named, "--epochs", 3)[0] == 0
    opened = open_table(table, space, "cifar10")
    assert set(searchable(opened, space).enumerate() or ()) == set(rows)
    assert [opened.query(arch.id).valid_accuracy for arch in rows] == pytest.approx(np.linspace(0.1, 0.9, len(rows)))
    arguments = [*named, "--table", table, "--searchers", "random,evolution", "--seeds", "1", "--trials", str(len(rows))]
    assert compare.main([*arguments, "--out", str(tmp_path / "compared")]) == 0
    assert "10.000" in capsys.readouterr().out  # the error of the best
