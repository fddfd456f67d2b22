"""AlphaX: how its tree grows, and what counts as the value of a round."""

from typing import Any

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas.errors import ConfigError
from raynas.history import History
from raynas.spaces import SearchSpace, Subset, make_space
from searchers import AlphaX, Engine
from searchers.alphax import Tree

QUICK: dict[str, Any] = {"predictor_options": {"members": 1, "epochs": 2}}


def grown(tree: Tree, known: set[str], rounds: int) -> list[tuple[int, ...]]:
    """The nodes of so many rounds."""
    rng, nodes = np.random.default_rng(0), []
    for _ in range(rounds):
        new = tree.grow(known, rng)
        assert new is not None
        node, arch = new
        known.add(arch.id)
        assert arch["word"].startswith("".join("abc"[i] for i in node))
        tree.results = {**tree.results, arch.id: arch.id.count("a") / 3}
        tree.ordered = np.sort(list(tree.results.values()))
        tree.add(node, arch.id, None)
        nodes.append(node)
    return nodes


def test_every_child_is_visited_once_before_any_grandchild() -> None:
    nodes = grown(Tree(ToySpace(3), 0.1, {}), set(), 9)
    assert set(nodes[:3]) == {(0,), (1,), (2,)}
    assert all(len(node) == 2 for node in nodes[3:6])
    assert [node[0] for node in nodes[3:6]].count(0) >= 2  # words that begin with a are the best


class Reordered(ToySpace):
    """The last letter is decided on first."""

    decision_order = (2, 0, 1)


REORDERED = Reordered(3)
PART = Subset(REORDERED, [REORDERED.make(word) for word in ("aaa", "aba", "cca", "bbc")])


@pytest.mark.parametrize("space", [REORDERED, PART], ids=["whole", "part"])
def test_decisions_come_in_the_order_of_the_space(space: SearchSpace) -> None:
    tree, known, rng = Tree(space, 0.1, {}), set[str](), np.random.default_rng(0)
    while (new := tree.grow(known, rng)) is not None:
        node, arch = new
        assert all(arch["word"][place] == "abc"[value] for place, value in zip(space.decision_order, node, strict=False))
        known.add(arch.id)
        tree.results = {**tree.results, arch.id: 0.5}
        tree.add(node, arch.id, None)
    assert len(known) == space.size


def test_which_operations_are_good_is_found_before_the_edges_of_nasbench101() -> None:
    search, shares = Engine(AlphaX(**QUICK), make_space("nasbench101"), seed=0), []
    for _ in range(60):
        suggestion = search.ask()
        assert suggestion is not None
        operations = suggestion.arch["operations"][1:-1]
        shares.append(operations.count("maxpool3x3") / max(len(operations), 1))
        search.tell(suggestion.arch, shares[-1])
    assert np.mean(shares[30:]) > np.mean(shares[:10]) + 0.25


def test_a_whole_space_is_found_and_then_no_more() -> None:
    tree, known = Tree(ToySpace(2), 2.0, {}), set[str]()
    grown(tree, known, 9)
    assert len(known) == 9
    assert tree.grow(known, np.random.default_rng(0)) is None


def test_the_value_is_the_mean_of_result_and_prediction_as_ranks() -> None:
    tree = Tree(ToySpace(2), 0.1, {"aa": 0.9, "bb": 0.5, "cc": 0.1})
    tree.add((0,), "aa", 0.2)
    assert tree.sums[0,] == tree.sums[()] == pytest.approx((2.5 + 1) / 2 / 3)  # better than two and a half of three, and than one
    tree.add((1, 1), "pending", 0.7)
    assert tree.sums[1, 1] == pytest.approx(2 / 3)
    tree.add((2,), "nothing is known", None)
    assert tree.visits == {(): 2, (0,): 1, (1,): 1, (1, 1): 1}
    assert tree._bound((0,)) == pytest.approx(tree.sums[0,] + 2 * 0.1 * (2 * np.log(2)) ** 0.5)


def test_rounds_are_remembered_and_failed_ones_forgotten() -> None:
    space, history, method = ToySpace(3), History(), AlphaX(**QUICK)
    for word in ("aaa", "bbb"):
        history.start(space.make(word))
        history.end(word, "finished", 1.0, (word.count("a") / 3,))
    proposal = method.propose(space, history, np.random.default_rng(0), 4)
    assert [node for node, _, _ in proposal.memory[:2]] == [[], []]  # from elsewhere: at the root
    assert sorted(node for node, _, _ in proposal.memory[2:5]) == [[0], [1], [2]]
    assert all(predicted is not None for _, _, predicted in proposal.memory[2:])
    history.memory = proposal.memory
    for arch in proposal.archs[:2]:
        history.start(arch)
    history.end(proposal.archs[0].id, "failed")
    remembered = [arch_id for _, arch_id, _ in method.propose(space, history, np.random.default_rng(0), 0).memory]
    assert remembered == ["aaa", "bbb", proposal.archs[1].id]  # the others were never evaluated


def test_it_finds_what_is_good() -> None:
    search = Engine(AlphaX(**QUICK), ToySpace(8, listed=False))
    found = []
    for _ in range(80):
        suggestion = search.ask()
        assert suggestion is not None
        found.append(suggestion.arch.id.count("a") / 8)
        search.tell(suggestion.arch, found[-1])
    assert np.mean(found[50:]) > np.mean(found[:10]) + 0.15


def test_wrong_settings_are_told() -> None:
    for options in ({"exploration": -1.0}, {"rollouts": 0}):
        with pytest.raises(ConfigError, match="exploration must not be negative"):
            AlphaX(**options)
