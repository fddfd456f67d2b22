"""Zero-cost proxies: what is computed of a network, what a model is told of it, and the searches that ask for it."""

import os
import pickle
from collections.abc import Sequence
from math import inf, log, log1p, nan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ray.tune import Trainable
from rich.console import Console
from test_run_search import rows, search
from torch import nn
from toy_space import ToySpace

from raynas import storage
from raynas.arch import Arch
from raynas.config import RunConfig
from raynas.errors import ConfigError
from raynas.history import Observation
from raynas.model.proxies import Proxies
from raynas.model.ranks import spearman
from raynas.outcome import METRICS, Objective
from raynas.registry import resolve
from raynas.run.proxies import proxies_of
from raynas.spaces import make_space
from searchers import Bananas, Engine, make_method
from searchers.surrogate import _SIFTED
from trainables import TRAINABLES
from trainables.learning.data import load
from trainables.learning.proxies import NAMES, AtInitialisation, of_batch, synflow
from trainables.learning.recipes import make_recipe

NB201 = make_space("nasbench201")
SMALL = {"predictor_options": {"members": 4, "width": 32}}


@pytest.fixture(scope="module")
def digits() -> AtInitialisation:
    torch.set_num_threads(1)
    recipe = make_recipe("quick", NB201)
    return AtInitialisation.of(NB201, load("digits", 0, recipe.validation), recipe, 0)


# -- what is computed ----------------------------------------------------------------------------------------------------


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(12, 5, bias=False),
        nn.ReLU(),
        nn.Linear(5, 4),
    )


def test_grad_norm_and_nwot_are_what_differences_and_loops_say(network: nn.Module) -> None:
    images, labels = torch.randn(6, 2, 3, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    norm, agreement = of_batch(network, images, labels)

    network.double()
    expected = 0.0
    for layer in (network[0], network[4], network[6]):
        flat, squares = layer.weight.data.view(-1), 0.0
        for i in range(len(flat)):
            losses = []
            for step in (1e-5, -1e-5):
                flat[i] += step
                losses.append(nn.functional.cross_entropy(network(images.double()), labels).item())
                flat[i] -= step
            squares += ((losses[0] - losses[1]) / 2e-5) ** 2
        expected += squares**0.5
    assert norm == pytest.approx(expected, rel=1e-3)

    units = torch.cat([network[:3](images.double()).flatten(1), network[:6](images.double())], dim=1) > 0  # (n, u)
    kernel = [[sum(bool(a == b) for a, b in zip(one, other, strict=True)) for other in units] for one in units]
    assert agreement == pytest.approx(log(abs(np.linalg.det(np.array(kernel, dtype=float)))), rel=1e-6)


def test_a_network_without_rectified_units_has_no_nwot() -> None:
    norm, agreement = of_batch(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 0]))
    assert norm > 0
    assert np.isnan(agreement)


def test_synflow_counts_what_flows_through_each_layer_without_batch_norms() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 3, bias=False)
    )
    first, second = (network[i].weight.detach().double().abs() for i in (1, 4))
    flow = (second @ first @ torch.ones(4, dtype=torch.float64)).sum().item()
    assert synflow(network, torch.zeros(1, 1, 2, 2)) == pytest.approx(log1p(2 * flow))  # conserved: the same in both layers


@pytest.mark.parametrize("name", ["darts", "nasbench101", "mobile"])
def test_networks_of_all_spaces_have_all_of_them(name: str, digits: AtInitialisation) -> None:
    space = make_space(name)
    options = make_recipe("quick", space).network_options(name)
    measure = AtInitialisation(space, digits.images[:8], digits.labels[:8], 10, options, 0)
    arch = space.sample(np.random.default_rng(0))
    assert np.isfinite(measure(arch)).all()
    assert pickle.loads(pickle.dumps(measure))(arch) == measure(arch)


def test_they_rank_cells_as_the_published_ones_do(digits: AtInitialisation, shared_data: Path) -> None:
    table = pq.read_table(shared_data / "nasbench201_zero_cost.parquet").slice(0, 60)
    ours = np.array([digits(NB201.from_text(text)) for text in table["arch"].to_pylist()])
    alike = [spearman(column, table[name].to_numpy()) or 0.0 for column, name in zip(ours.T, NAMES, strict=True)]
    assert np.greater(alike, [0.4, 0.95, 0.9]).all(), alike


class Fragile(ToySpace):
    """Words, of which those that begin with `b` have no network."""

    @property
    def network(self) -> object:  # type: ignore[override]
        def build(arch: Arch, classes: int, image_size: int, image_channels: int) -> nn.Module:
            if arch["word"].startswith("b"):
                raise RuntimeError("no b")
            return nn.Sequential(nn.Flatten(), nn.Linear(image_channels * image_size**2, classes))

        return build


def test_a_network_that_fails_has_none(digits: AtInitialisation) -> None:
    space = Fragile()
    measure = AtInitialisation(space, digits.images, digits.labels, 10, {}, 0)
    assert np.isfinite(measure(space.make("ab"))).tolist() == [True, True, False]
    assert np.isnan(measure(space.make("ba"))).all()
    with pytest.raises(ConfigError, match="for ba raised RuntimeError"):
        measure.computed(space.make("ba"))


# -- what a model is told ------------------------------------------------------------------------------------------------


def test_a_model_is_told_normal_quantiles_among_random_architectures() -> None:
    space, asked = ToySpace(4), list[str]()

    def measure(arch: Arch) -> Sequence[float]:
        asked.append(arch.id)
        return arch["word"].count("a"), nan if arch["word"] == "bbbb" else ord(arch["word"][0]), 1.0

    proxies = Proxies(measure, among=81)
    told = proxies(space, [space.make(word) for word in ("bbbb", "aaaa", "abcb")])
    assert sorted(asked) == sorted(arch.id for arch in space.enumerate() or ())  # each once
    # 16, 32, 24, 8 and 1 of 81 words have so many letters a; of 80, 26 begin with b.
    normal = torch.distributions.Normal(0.0, 1.0)
    np.testing.assert_allclose(told[:, 0], normal.icdf(torch.tensor([8.0, 80.5, 32.0]) / 81), atol=1e-5)
    np.testing.assert_allclose(told[:, 1], [0, *normal.icdf(torch.tensor([13.5, 13.5]) / 80)], atol=1e-5)
    assert (told[:, 2] == 0).all()
    assert Proxies(lambda arch: (nan,))(space, [space.make("aaaa")]).tolist() == [[0.0]]
    lowest = Proxies(lambda arch: (-inf if arch["word"] == "bbbb" else arch["word"].count("a"),))
    assert lowest(space, [space.make("bbbb")]) == lowest(space, [space.make("bbbc")]) < 0


def test_a_search_that_is_told_finds_sooner_and_measures_few() -> None:
    space, rng = ToySpace(6), np.random.default_rng(0)
    worth = {arch.id: float(value) for arch, value in zip(space.enumerate() or (), rng.random(3**6), strict=True)}
    measured = list[str]()

    def measure(arch: Arch) -> Sequence[float]:
        measured.append(arch.id)
        return (worth[arch.id],)

    def best(proxies: Proxies | None) -> float:
        engine = Engine(Bananas(proxies=proxies, **SMALL), space)
        for _ in range(40):
            suggestion = engine.ask()
            assert suggestion is not None
            engine.tell(suggestion.arch, worth[suggestion.arch.id])
        assert engine.problem is None
        fits = len(engine.refits)
        assert len(measured) <= 20 + 40 + _SIFTED * fits
        return max(o.value for o in engine.history.observed.values())

    assert best(Proxies(measure, among=20)) > best(None)


def test_they_go_with_priors_and_with_trials_that_were_stopped() -> None:
    space = ToySpace(4)
    engine = Engine(Bananas(proxies=Proxies(lambda arch: (arch["word"].count("a"),), 20), **SMALL), space, max_budget=4)
    archs = list(space.enumerate() or ())
    engine.tell_prior([Observation(arch, "finished", ((4.0, arch["word"].count("b") / 4),)) for arch in archs[:20]])
    engine.tell_many(
        [Observation(arch, "stopped" if i % 2 else "finished", ((2.0 + 2 * (i % 2 == 0), i / 60),)) for i, arch in enumerate(archs[20:50])]
    )
    suggestion = engine.ask()
    assert suggestion is not None
    assert suggestion.origin.by == "model"
    assert engine.problem is None


def test_a_predictor_that_reads_no_vectors_takes_none() -> None:
    with pytest.raises(ConfigError, match="'graph' does not"):
        make_method("bananas", {"predictor": "graph", "proxies": Proxies(lambda arch: (0.0,))})


# -- in a run ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_with_proxies_goes_on_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    training = ["--space", "nasbench101", "--trainable", "train", "--dataset", "digits", "--set", "recipe.base=quick", "--max-epochs", 1]
    options = ["--set", "searcher_options.num_initial=3", "--set", "searcher_options.fitting=apart"]  # its fits are waited for
    begun = search(tmp_path, *training, *options, "--proxies", "--trials", 4, "--out", "run")
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert "s or more for each network" in begun.stdout
    assert "failed to propose" not in begun.stderr
    assert storage.read_json(str(tmp_path / "run"), "config.json")["config"]["proxies"] is True
    more = search(tmp_path, "--resume", "run", "--trials", 5)
    assert more.returncode == 0, more.stdout + more.stderr
    assert [row["proposed_by"] for row in rows(tmp_path / "run")] == ["initial"] * 3 + ["model"] * 2


@pytest.mark.parametrize(
    ("config", "objective", "words"),
    [
        (RunConfig(proxies=True), "valid_accuracy", "not of trainable 'lookup'; add --trainable train"),
        (RunConfig(proxies=True, trainable="train", searcher="evolution"), "valid_accuracy", "searcher 'evolution' has not; use bananas"),
        (RunConfig(proxies=True, trainable="train", searcher="darts"), "valid_accuracy", "searcher 'darts' has not; use bananas"),
        (RunConfig(proxies=True, trainable="train"), "-parameters", "one objective"),
        (RunConfig(searcher_options={"proxies": True}), "valid_accuracy", "give --proxies"),
    ],
)
def test_what_has_no_use_for_them_is_refused(config: RunConfig, objective: str, words: str) -> None:
    wanted = Objective.parse(["valid_accuracy", objective] if objective != "valid_accuracy" else [], [], METRICS)
    with pytest.raises(ConfigError, match=words):
        proxies_of(config, resolve(TRAINABLES, config.trainable, "trainable"), {}, NB201, wanted, Console(quiet=True))


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda arch: 1.0, "must be some floats of an architecture, not 1.0"),
        (lambda arch: arch["none"], "proxies of trainable .* fail: KeyError"),
    ],
)
def test_proxies_of_ones_own_are_tried_before_the_first_trial(measure: Any, words: str) -> None:
    class Own(Trainable):  # type: ignore[misc]  # ray has no types
        @classmethod
        def proxies(cls, config: dict[str, Any]) -> Any:
            return measure

    with pytest.raises(ConfigError, match=words):
        proxies_of(RunConfig(proxies=True), Own, {}, NB201, Objective.parse([], [], METRICS), Console(quiet=True))


def test_without_them_nothing_is_asked_of_the_searcher() -> None:
    config = RunConfig(searcher="nowhere:Own")  # what it is, others find out
    assert proxies_of(config, None, {}, NB201, Objective.parse([], [], METRICS), Console(quiet=True)) == {}
