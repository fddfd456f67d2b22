"""Some architectures of a space as a space, and what of a space a table can answer."""

import pickle
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError, TableError
from raynas.model.encodings import encode
from raynas.spaces import SearchSpace, Subset, make_space
from raynas.spaces.darts import GENOTYPES, DARTSSpace
from raynas.spaces.nasbench101 import NASBench101Space
from raynas.spaces.nasbench201 import NASBench201Space
from raynas.tables import Table, open_table, searchable
from raynas.tables.tfrecord import read_table

SPACES: dict[str, SearchSpace] = {"nasbench101": NASBench101Space(), "nasbench201": NASBench201Space(), "darts": DARTSSpace()}
seeds = st.integers(0, 2**32 - 1)


@cache
def subset(name: str, count: int) -> Subset:
    rng = np.random.default_rng(count)
    return Subset(SPACES[name], [SPACES[name].sample(rng) for _ in range(count)])


subsets = st.builds(subset, st.sampled_from(sorted(SPACES)), st.sampled_from([1, 2, 30, 300]))


@given(subsets, seeds)
@settings(deadline=None)
def test_samples_mutants_and_neighbors_are_members(space: Subset, seed: int) -> None:
    members = set(space.enumerate())
    rng = np.random.default_rng(seed)
    arch = space.sample(rng)
    stranger = space.space.sample(rng)
    for parent in (arch, stranger):
        child = space.mutate(parent, rng, rate=float(rng.random() * 3))
        assert child in members
        assert child != parent or len(members) == 1
        assert set(space.neighbors(parent)) == set(space.space.neighbors(parent)) & members
    assert arch in members
    assert space.contains(arch)
    assert space.from_config(arch.to_config()) == arch
    assert space.contains(stranger) == (stranger in members)


@given(subsets, seeds)
@settings(deadline=None)
def test_draws_follow_from_the_generator(space: Subset, seed: int) -> None:
    again: Subset = pickle.loads(pickle.dumps(space))
    assert again is not space

    def draws(space: Subset) -> list[str]:
        rng = np.random.default_rng(seed)
        archs = [space.sample(rng)]
        for _ in range(5):
            archs.append(space.mutate(archs[-1], rng))
        return [arch.id for arch in archs]

    assert draws(space) == draws(space) == draws(again)


def test_what_it_does_not_say_is_as_the_space_says_it() -> None:
    space = Subset(DARTSSpace(channels=16), [DARTSSpace().sample(np.random.default_rng(0))])
    arch = space.sample(np.random.default_rng(0))
    for name in (
        "name",
        "num_paths",
        "truncation",
        "adjacency_sizes",
        "decision_order",
        "graph_operations",
        "columns",
        "published",
        "table_epochs",
        "channels",
    ):
        assert getattr(space, name) == getattr(space.space, name)
    for name in ("paths", "cost", "adjacency", "scalars", "to_columns", "draw"):
        assert getattr(space, name)(arch) == getattr(space.space, name)(arch)
    assert (space.operation_pairs(arch) == space.space.operation_pairs(arch)).all()
    assert (space.graph(arch).adjacency == space.space.graph(arch).adjacency).all()
    np.testing.assert_array_equal(encode("path+scalars", space, [arch]), encode("path+scalars", space.space, [arch]))
    with pytest.raises(AttributeError, match="no attribute 'chanels'"):
        space.chanels  # noqa: B018


def test_members_count_once_and_others_are_refused() -> None:
    space = SPACES["nasbench201"]
    one, two, three = (
        space.from_columns(f"|{op}~0|+|none~0|none~1|+|none~0|none~1|none~2|") for op in ("none", "skip_connect", "nor_conv_1x1")
    )
    few = Subset(space, [one, two, one])
    assert few.size == 2
    assert list(few.enumerate()) == [one, two]
    with pytest.raises(OutOfSpaceError, match="is not among the 2 of the table"):
        few.from_config(three.to_config())
    assert not few.contains(Arch("nasbench201", one.id, two.spec))
    with pytest.raises(OutOfSpaceError, match="needs at least one architecture"):
        Subset(space, [])
    assert few != Subset(space, [one, two])
    assert {few: 1}[few] == 1


def test_members_are_drawn_with_the_same_probability() -> None:
    space = subset("nasbench201", 30)
    rng = np.random.default_rng(0)
    counts = Counter(space.sample(rng).id for _ in range(6000))
    assert len(counts) == space.size
    assert all(abs(count - 6000 / 30) < 70 for count in counts.values())  # 5 standard errors


class Lonely(NASBench101Space):
    """Its mutations never leave the parent."""

    def mutate(self, arch: Arch, rng: np.random.Generator, rate: float = 1.0) -> Arch:
        return arch


def test_where_mutation_leaves_the_members_the_nearest_are_taken() -> None:
    """The similarity and the ranking, against the plain way to compute them."""
    space = Subset(Lonely(), list(subset("nasbench101", 300).enumerate()))
    rng = np.random.default_rng(5)
    arch = space.sample(rng)

    def similarity(other: Arch) -> float:
        own, its = Counter(space.paths(arch)), Counter(space.paths(other))
        return (own & its).total() / (own | its).total()

    others = [other for other in space.enumerate() if other != arch]
    values = sorted((similarity(other) for other in others), reverse=True)
    drawn = [similarity(space.mutate(arch, rng)) for _ in range(2000)]
    assert min(drawn) >= values[99]
    assert np.mean(drawn) > np.mean(values[:50])
    assert {other.id for other in others if similarity(other) == values[0]} & {space.mutate(arch, rng).id for _ in range(500)}


def test_where_members_are_dense_mutation_is_that_of_the_space() -> None:
    inner = SPACES["nasbench201"]
    space, arch = Subset(inner, list(inner.enumerate() or ())), inner.sample(np.random.default_rng(0))
    for seed in range(50):
        child = inner.mutate(arch, np.random.default_rng(seed))
        if child != arch:
            assert space.mutate(arch, np.random.default_rng(seed)) == child


# Tables


def table(name: str, archs: list[Arch], unknown: dict[int, list[int]] | None = None, columns: bool = True) -> Table:
    """Two budgets and repeats; `unknown`: budget -> rows without accuracy."""
    values = np.full((len(archs), 2, 2), 0.5)
    for budget, rows in (unknown or {}).items():
        values[rows, [4, 12].index(budget)] = np.nan
    space = SPACES[name]
    texts = zip(*(space.to_columns(arch) for arch in archs), strict=True)
    extra = {column: list(text) for column, text in zip(space.columns, texts, strict=True)} if columns else {}
    about = {"dataset": "d", "source": "a test", "licence": "CC0", "sha256": None}
    ids = [arch.id for arch in archs]
    return Table.build(space=name, ids=ids, metrics={"valid_accuracy": values}, budgets=(4, 12), extra=extra, **about)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(SPACES))
def test_a_partial_table_is_searched_within_its_rows(name: str) -> None:
    archs = list(subset(name, 300).enumerate())
    space = searchable(table(name, archs), SPACES[name])
    assert isinstance(space, Subset)
    assert {arch.id for arch in space.enumerate()} == {arch.id for arch in archs}
    assert all(space.mutate(arch, np.random.default_rng(0)) in set(archs) for arch in archs)


def test_only_what_is_known_at_each_budget_counts() -> None:
    archs = list(subset("nasbench101", 30).enumerate())
    made = table("nasbench101", archs, {4: [0, 1], 12: [1, 2, 3]})
    space = SPACES["nasbench101"]
    assert set(searchable(made, space).enumerate() or ()) == set(archs[4:])
    assert set(searchable(made, space, [4]).enumerate() or ()) == set(archs[2:])
    assert set(searchable(made, space, [12], 1).enumerate() or ()) == {archs[0], *archs[4:]}
    with pytest.raises(TableError, match="no budget of 5 epochs"):
        searchable(made, space, [5])
    with pytest.raises(TableError, match="no repeat 2"):
        searchable(made, space, repeat=2)
    with pytest.raises(TableError, match="no architecture with a valid_accuracy at each budget of 4, 12 epochs, repeat mean"):
        searchable(table("nasbench101", archs, {4: list(range(len(archs)))}), space)


def test_a_complete_table_leaves_the_space_as_it_is() -> None:
    space = make_space("nasbench201")
    complete = open_table(None, "nasbench201", "cifar10")
    assert searchable(complete, space) is space
    some = searchable(complete, space, repeat=2)  # some cells have two repeats
    assert isinstance(some, Subset)
    assert some.size == np.count_nonzero(~np.isnan(complete.values("valid_accuracy", repeat=2)))


def test_a_table_that_does_not_say_what_it_holds_is_refused() -> None:
    archs = list(subset("nasbench101", 30).enumerate())
    with pytest.raises(
        TableError, match="without the column adjacency and operations it does not say which it holds; make it anew"
    ) as caught:
        searchable(table("nasbench101", archs, columns=False), SPACES["nasbench101"])
    assert "\n" not in str(caught.value)
    darts = list(subset("darts", 30).enumerate())
    with pytest.raises(TableError, match="without the column genotype"):
        searchable(table("darts", darts, columns=False), SPACES["darts"])
    ids = table("nasbench201", list(subset("nasbench201", 30).enumerate()), columns=False)
    assert searchable(ids, SPACES["nasbench201"]).size == subset("nasbench201", 30).size


def test_rows_that_contradict_themselves_are_refused() -> None:
    archs = list(subset("nasbench101", 30).enumerate())
    wrong = [Arch("nasbench101", "another id", archs[0].spec), *archs[1:]]
    with pytest.raises(TableError, match=f"describes the architecture {archs[0].id} under the id another id; convert it anew"):
        searchable(table("nasbench101", wrong), SPACES["nasbench101"])


def test_rows_outside_of_the_space_are_left_out() -> None:
    """Published cells of DARTS hold the operation `none`, which the space of a search leaves out."""
    wide = DARTSSpace(with_none=True)
    archs = [wide.from_genotype(**GENOTYPES[name]) for name in ("BANANAS", "ASHA200", "DARTS_V1", "DARTS_V2")]
    assert searchable(table("darts", archs), wide).size == 4
    assert set(searchable(table("darts", archs), DARTSSpace()).enumerate() or ()) == set(archs[2:])
    with pytest.raises(TableError, match=r"has no architecture of the space darts as it is set: .* 'none' is left out"):
        searchable(table("darts", archs[:2]), DARTSSpace())


def test_the_sample_of_nasbench101(shared_data: Path) -> None:
    sample = read_table(str(shared_data / "nasbench101_sample.tfrecord"))
    space = searchable(sample, make_space("nasbench101"))
    assert space.size == 800
    rng = np.random.default_rng(0)
    arch, seen = space.sample(rng), set()
    for _ in range(3000):
        arch = space.mutate(arch, rng)
        assert sample.query(arch.id, 4).epoch == 4
        seen.add(arch.id)
    assert len(seen) > 400  # mutation walks about the table
