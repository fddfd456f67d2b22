"""A search space of the user's own: one class, outside the package, searched like any other."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError, UnknownNameError
from raynas.spaces import SPACES, Cost, SearchSpace, make_space
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
