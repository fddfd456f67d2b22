"""A search space of the user's own: one class, outside the package, searched like any other."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from nasbench_files import refused, run

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError, TableError, UnknownNameError
from raynas.model.encodings import encode
from raynas.spaces import SPACES, Cost, SearchSpace, Subset, make_space
from raynas.tables import open_table, searchable
from searchers import BananasSearch

KINDS = ("conv", "pool", "skip")


class ChainSpace(SearchSpace):
    """A chain of `depth` layers, each of one of three kinds. It is not listed: `enumerate` is left as it is."""

    name = "chain"
    num_paths = 3 * 8

    def __init__(self, depth: int = 8) -> None:
        self.depth = depth

    def make(self, layers: list[str]) -> Arch:
        return Arch.make(self.name, "-".join(layers), layers=layers)

    def from_config(self, config: Mapping[str, Any]) -> Arch:
        layers = config.get("layers")
        if not isinstance(layers, (list, tuple)) or len(layers) != self.depth or not set(layers) <= set(KINDS):
            raise OutOfSpaceError(f"a chain has {self.depth} layers of the kinds {', '.join(KINDS)}; got {layers!r}")
        return self.make(list(layers))

    def sample(self, rng: np.random.Generator) -> Arch:
        return self.make(rng.choice(KINDS, size=self.depth).tolist())

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        changed = rng.random(self.depth) < rate / self.depth
        return self.make(np.where(changed, rng.choice(KINDS, size=self.depth), arch["layers"]).tolist())

    def neighbors(self, arch: Arch) -> list[Arch]:
        layers = list(arch["layers"])
        return [self.make([*layers[:i], kind, *layers[i + 1 :]]) for i in range(self.depth) for kind in KINDS if kind != layers[i]]

    def paths(self, arch: Arch) -> tuple[int, ...]:
        return tuple(3 * i + KINDS.index(kind) for i, kind in enumerate(arch["layers"]))

    def cost(self, arch: Arch) -> Cost:
        convolutions = arch["layers"].count("conv")
        return Cost(100_000 * convolutions, 10_000_000 * convolutions)


BEST = ("conv", "conv", "pool", "conv", "skip", "conv", "pool", "skip")


def accuracy(arch: Mapping[str, Any]) -> float:
    """0.9 for BEST, less for each layer that differs, most for the first."""
    return 0.9 - sum(0.02 * (8 - i) for i, (kind, best) in enumerate(zip(arch["layers"], BEST, strict=True)) if kind != best)


def search(searcher: BananasSearch, trials: int) -> list[float]:
    values = []
    for i in range(trials):
        config = searcher.suggest(trial_id=f"t{i}")
        assert isinstance(config, dict)
        values.append(accuracy(config["arch"]))
        searcher.on_trial_complete(trial_id=f"t{i}", result={"valid_accuracy": values[-1], "epoch": 1})
    return values


def test_bananas_finds_the_optimum_of_a_registered_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "chain", ChainSpace)
    assert isinstance(make_space("chain", {"depth": 5}), ChainSpace)
    values = search(BananasSearch("chain", seed=1, fitting="inline", pool=300), 70)  # of 6,561
    assert max(values) == pytest.approx(0.9)
    assert max(values[:10]) < 0.9
    archs = [ChainSpace().sample(np.random.default_rng(seed)) for seed in range(70)]
    assert max(accuracy(arch.to_config()) for arch in archs) < 0.9  # random search does not find it


def test_a_class_is_named_by_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chains_of_mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom {__name__} import ChainSpace\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    searcher = BananasSearch("chains_of_mine:ChainSpace", num_initial=4, fitting="inline", pool=30)
    assert type(searcher.space) is sys.modules["chains_of_mine"].ChainSpace
    assert len(set(search(searcher, 12))) > 1
    with pytest.raises(UnknownNameError, match="did you mean 'depth'"):
        make_space("chains_of_mine:ChainSpace", {"dept": 3})
    with pytest.raises(UnknownNameError, match="cannot be imported"):
        make_space("chains_of_mine:Chain")


def test_what_a_space_need_not_define() -> None:
    space = ChainSpace(3)
    arch = space.make(["conv", "pool", "conv"])
    assert space.enumerate() is None
    assert space.path_lengths().tolist() == [0] * 24
    assert space.scalars(arch) == pytest.approx((np.log10(200_001) - 6, np.log10(20_000_001) - 8))
    assert space.contains(arch)
    assert not space.contains(ChainSpace(2).make(["conv", "pool"]))
    with pytest.raises(OutOfSpaceError, match="a chain has 3 layers"):
        space.from_config({"layers": ["conv"]})
    with pytest.raises(OutOfSpaceError, match="space 'chain' defines no adjacency encoding"):
        BananasSearch(space, encoding="adjacency")


# A space that is a dataclass


@dataclass
class Plain(ChainSpace):
    name: ClassVar[str] = "plain"
    depth: int = 8


@dataclass(frozen=True)
class Frozen(ChainSpace):
    depth: int = 8
    widths: list[int] = field(default_factory=lambda: [16, 32])  # which its own hash would stumble over


@dataclass(unsafe_hash=True, slots=True)
class Hashed(ChainSpace):
    depth: int = 8


@pytest.mark.parametrize("kind", [Plain, Frozen, Hashed])
def test_a_space_may_be_a_dataclass(kind: type[ChainSpace]) -> None:
    space = make_space(f"{__name__}:{kind.__name__}", {"depth": 4})
    assert space == kind(4) != kind(5)
    assert len({space, kind(4), kind(5), pickle.loads(pickle.dumps(space))}) == 2
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(5)]
    assert encode("path+scalars", space, archs).shape == (5, 24 + 2)  # encodings remember spaces
    assert len(set(search(BananasSearch(kind(8), num_initial=4, fitting="inline", pool=30), 8))) > 1
    assert Subset(space, archs).mutate(archs[0], np.random.default_rng(0)) in archs


# Tables of a space of one's own


def write_chains(folder: Path, archs: list[Arch], column: str = "arch") -> list[float]:
    values = [accuracy(arch.to_config()) for arch in archs]
    pacsv.write_csv(pa.table({column: [json.dumps(arch.to_config()) for arch in archs], "acc": values}), folder / "own.csv")
    return values


def test_a_table_of_ones_own_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space, name = ChainSpace(), f"{__name__}:ChainSpace"
    archs = list(dict.fromkeys(space.sample(np.random.default_rng(seed)) for seed in range(40)))
    values, target = write_chains(tmp_path, archs), tmp_path / "t.parquet"
    code, printed, _ = run(capsys, tmp_path / "own.csv", target, "--valid", "acc", "--space", name, "--epochs", 7)
    assert code == 0
    assert f"{len(archs)} architectures of chain on cifar10, epochs 7" in printed
    for asked in (name, space, "chain"):
        assert open_table(str(target), asked, "cifar10").space == "chain"
    table = open_table(str(target), name, "cifar10")
    assert [table.query(arch.id).valid_accuracy for arch in archs] == pytest.approx(values)
    assert space.from_config(json.loads(table.extra_at(0, "arch"))).id == table.ids[0]
    assert set(searchable(table, space).enumerate() or ()) == set(archs)
    searcher = BananasSearch(searchable(table, space), num_initial=5, fitting="inline", pool=30)
    assert {accuracy(arch.to_config()) for arch in archs} >= set(search(searcher, 20))
    with pytest.raises(TableError, match="no table of chain comes with raynas"):
        open_table(None, name, "cifar10")
    with pytest.raises(TableError, match="of the space chain, but the space asked for is plain"):
        open_table(str(target), f"{__name__}:Plain", "cifar10")


def test_a_table_of_a_space_with_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = ChainSpace(3)
    texts = [json.dumps({"layers": layers}) for layers in (["conv", "pool", "skip"], ["pool"] * 3)]
    pacsv.write_csv(pa.table({"arch": texts, "acc": [0.5, 0.6]}), tmp_path / "own.csv")
    command = (tmp_path / "own.csv", tmp_path / "t.parquet", "--valid", "acc", "--space", f"{__name__}:ChainSpace")
    assert "row 1 of" in refused(capsys, *command, "--epochs", 1)
    assert "--epochs N is missing: how long were the architectures of chain trained?" in refused(
        capsys, *command, "--set", "space_options.depth=3"
    )
    assert "takes space_options.KEY=VALUE" in refused(capsys, *command, "--set", "depth=3")
    assert "unknown option of space" in refused(capsys, *command, "--set", "space_options.dept=3")
    assert run(capsys, *command, "--epochs", 1, "--set", "space_options.depth=3")[0] == 0
    assert searchable(open_table(str(tmp_path / "t.parquet"), space, "cifar10"), space).size == 2


def test_columns_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.csv").write_text("layers,acc\nconv-pool,0.5\npool-pool,0.6\nconv-skip,\n")
    name = f"{__name__}:Columned"
    assert run(capsys, tmp_path / "own.csv", tmp_path / "t.parquet", "--valid", "acc", "--space", name)[0] == 0
    table, space = open_table(str(tmp_path / "t.parquet"), name, "cifar10"), Columned()
    assert table.budgets == (5,)
    assert "layers" not in table.names  # it says what the id says
    assert {arch.id for arch in searchable(table, space).enumerate() or ()} == {"conv-pool", "pool-pool"}
    command = (tmp_path / "own.csv", tmp_path / "t.parquet", "--valid", "acc", "--space", f"{__name__}:ChainSpace", "--epochs", 1)
    assert "for the space chain" in (problem := refused(capsys, *command))
    assert "lacks the column arch; its columns are layers, acc" in problem


class Columned(ChainSpace):
    columns = ("layers",)
    table_epochs = 5

    def __init__(self) -> None:
        super().__init__(2)

    def from_columns(self, *texts: str) -> Arch:
        return self.from_config({"layers": texts[0].split("-")})

    def to_columns(self, arch: Arch) -> tuple[str, ...]:
        return (arch.id,)


# What is no space


UNFINISHED = """
from raynas.spaces import SearchSpace
from raynas.arch import Arch

class Half(SearchSpace):
    name = "half"
    num_paths = 3
    def sample(self, rng): ...
    def mutate(self, arch, rng, rate=1.0): ...
    def neighbors(self, arch): ...
    def from_config(self, config): ...

class Nameless(Half):
    def paths(self, arch): ...
    def cost(self, arch): ...

class Anonymous(SearchSpace):
    sample = mutate = neighbors = from_config = paths = cost = None

class Needy(Nameless):
    def __init__(self, depth): ...

class Picky(Nameless):
    def __init__(self, depth: int = 3):
        if depth != 4:
            raise ValueError("depth must be 4,\\nor so")

class Other:
    pass

def function():
    return 3

value = Nameless()
"""


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("Half", {}, ConfigError, "space 'unfinished_spaces:Half' is unfinished: it must define cost, paths"),
        ("Anonymous", {}, ConfigError, "lacks name and num_paths"),
        ("Needy", {}, ConfigError, "cannot be made with the options {}: TypeError: .*missing 1 required positional argument: 'depth'"),
        ("Picky", {"depth": 5}, ConfigError, "cannot be made with the options {'depth': 5}: ValueError: depth must be 4, or so"),
        ("Other", {}, ConfigError, "unfinished_spaces:Other is no search space; one is a class that inherits from raynas.SearchSpace"),
        ("function", {}, ConfigError, "unfinished_spaces:function makes an object of type int, no search space"),
        ("value", {"depth": 3}, ConfigError, "unfinished_spaces:value is made already, so it takes no options; leave out depth"),
        ("np", {}, UnknownNameError, "has no attribute 'np'"),
    ],
)
def test_what_is_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    (tmp_path / "unfinished_spaces.py").write_text(UNFINISHED)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=message) as caught:
        make_space(f"unfinished_spaces:{name}", options)
    assert "\n" not in str(caught.value)


def test_a_script_finds_the_spaces_beside_it_and_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "chain_here.py").write_text(f"from {__name__} import ChainSpace\n")
    script = tmp_path / "script.py"
    script.write_text("from raynas.spaces import make_space\nprint(make_space('chain_here:ChainSpace').name)\n")
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path / "here",
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "chain\n"
