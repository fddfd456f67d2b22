"""The predictors on graphs: the network, BONAS' regression, and committees. n: observations, m: candidates, k: members."""

from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import spearmanr
from test_graphs import relabelled
from toy_space import ToySpace

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError, RaynasError, ShapeError, UnknownNameError
from raynas.model.predictors import EnsemblePrediction, GaussianPrediction, make_predictor
from raynas.model.predictors.bonas import FittedGraphRegression, GraphRegression, _basis
from raynas.model.predictors.committee import Committee, MixturePrediction
from raynas.model.predictors.graph import GraphEnsemble, Layer, Loss, _Network
from raynas.spaces import SearchSpace, make_space
from searchers import Engine, make_method

Floats = NDArray[np.float64]

NB101, NB201 = make_space("nasbench101"), make_space("nasbench201")
TINY: dict[str, Any] = {"members": 2, "layers": 2, "width": 8, "hidden": 8, "epochs": 5}
SMALL: dict[str, Any] = {"members": 2, "layers": 2, "width": 24, "hidden": 24, "epochs": 60, "learning_rate": 0.01}
PREDICTORS: dict[str, dict[str, Any]] = {
    "graph": TINY,
    "bonas": {"network": TINY | {"members": 1}},
    "committee": {"members": [{"predictor": "graph", "options": TINY}, {"predictor": "gp", "encoding": "graph_counts"}]},
}
each_predictor = pytest.mark.parametrize("name", PREDICTORS)
each_layer = pytest.mark.parametrize("layer", get_args(Layer))


def some(space: SearchSpace, count: int, seed: int = 0) -> list[Arch]:
    rng = np.random.default_rng(seed)
    return list({(arch := space.sample(rng)).id: arch for _ in range(3 * count)}.values())[:count]


def values(archs: list[Arch]) -> Floats:
    """(n,) a simple function of cells of NAS-Bench-201, not of order 1."""
    return np.array([80 + arch.id.count("nor_conv_3x3") + arch.id.count("nor_conv_1x1") / 2 - arch.id.count("none") for arch in archs])


ARCHS = some(NB201, 200)
KNOWN, UNSEEN = ARCHS[:80], ARCHS[80:]
Y = values(KNOWN)


def moments(prediction: Any) -> Floats:
    """(2, m) mean and deviation."""
    return np.stack([prediction.mean, prediction.std])


# -- every predictor on graphs -------------------------------------------------------------------------------------------


@each_predictor
def test_a_fit_is_a_function_of_data_and_seed(name: str) -> None:
    predictor, y = make_predictor(name, PREDICTORS[name]), Y.copy()
    state, threads = (torch.random.get_rng_state(), np.random.get_state()[1].copy()), torch.get_num_threads()  # type: ignore[index]
    fitted = predictor.fit(NB201, KNOWN, y, 3)
    first = moments(fitted.predict(UNSEEN))
    np.testing.assert_array_equal(first, moments(predictor.fit(NB201, KNOWN, y, 3).predict(UNSEEN)))
    np.testing.assert_array_equal(first, moments(fitted.predict(UNSEEN)))
    assert np.abs(first - moments(predictor.fit(NB201, KNOWN, y, 4).predict(UNSEEN))).max() > 1e-6
    assert first.shape == (2, len(UNSEEN))
    np.testing.assert_array_equal(y, Y)
    assert torch.equal(state[0], torch.random.get_rng_state())  # nothing global is drawn from
    np.testing.assert_array_equal(state[1], np.random.get_state()[1])  # type: ignore[index]
    assert torch.get_num_threads() == threads


@each_predictor
def test_isomorphic_cells_and_other_candidates_do_not_matter(name: str) -> None:
    archs, rng = some(NB101, 60), np.random.default_rng(0)
    fitted = make_predictor(name, PREDICTORS[name]).fit(NB101, archs[:30], rng.normal(size=30), 0)
    found, others = moments(fitted.predict(archs)), moments(fitted.predict([relabelled(arch, rng) for arch in archs]))
    np.testing.assert_allclose(others, found, atol=1e-4)
    small = min(archs, key=lambda arch: len(arch["operations"]))
    np.testing.assert_allclose(moments(fitted.predict([small]))[:, 0], found[:, archs.index(small)], atol=1e-4)


@each_predictor
def test_an_affine_change_of_the_targets_changes_predictions_alike(name: str) -> None:
    predictor = make_predictor(name, PREDICTORS[name])
    plain, changed = (predictor.fit(NB201, KNOWN, y, 0).predict(UNSEEN) for y in (Y, 0.004 * Y + 0.9))
    np.testing.assert_allclose((changed.mean - 0.9) / 0.004, plain.mean, atol=2e-2)
    np.testing.assert_allclose(changed.std / 0.004, plain.std, atol=2e-2)


@each_predictor
@pytest.mark.parametrize("count", [1, 2, 20])
def test_few_observations_and_constant_ones(name: str, count: int) -> None:
    prediction = make_predictor(name, PREDICTORS[name]).fit(NB201, KNOWN[:count], np.full(count, 0.7), 0).predict(KNOWN)
    assert np.isfinite(moments(prediction)).all()
    np.testing.assert_allclose(prediction.mean, 0.7, atol=1e-6 if name == "bonas" else 0.4)  # which begins in the middle


@each_predictor
def test_observations_that_are_none_are_refused(name: str) -> None:
    predictor = make_predictor(name, PREDICTORS[name])
    for archs, y in [(KNOWN, Y[:-1]), (KNOWN, Y[:, None]), ([], Y[:0]), (KNOWN, np.where(np.arange(80) == 4, np.nan, Y))]:
        with pytest.raises(ShapeError, match=r"targets must be finite numbers \(n,\)"):
            predictor.fit(NB201, archs, y, 0)


# -- the network -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *({"loss": loss} for loss in get_args(Loss)),
        *({"layer": layer} for layer in get_args(Layer)),
        {"positions": False},
        {"batch_size": 16},
    ],
    ids=lambda options: "-".join(map(str, *options.items())),
)
def test_it_learns_a_simple_function(options: dict[str, Any]) -> None:
    prediction = GraphEnsemble(**SMALL | options).fit(NB201, KNOWN, Y, 0).predict(UNSEEN)
    assert spearmanr(prediction.mean, values(UNSEEN)).statistic > 0.8
    if options.get("loss") != "weighted":  # which does not care how bad the worst are
        assert np.abs(prediction.mean - values(UNSEEN)).mean() < 0.6 * Y.std()  # on the scale of the targets


@each_layer
@pytest.mark.parametrize("side", ["predecessors", "successors"])
def test_both_directions_of_edges_matter(layer: Layer, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cells in which what leads to each vertex is the same, but not what follows; and the same turned round."""
    cells = []
    for edges in ([(1, 3), (1, 4), (2, 5)], [(1, 3), (1, 5), (2, 4)]):
        matrix = np.zeros((6, 6), dtype=int)
        for v, w in [(0, 1), (0, 2), *edges, (3, 5), (4, 5)]:
            matrix[v, w] = 1
        operations = ["input", *["conv3x3-bn-relu"] * 2, "conv1x1-bn-relu", "maxpool3x3", "output"]
        if side == "successors":
            matrix, operations = matrix.T[::-1, ::-1], ["input", *operations[-2:0:-1], "output"]
        cells.append(NB101.make(matrix, operations))  # type: ignore[attr-defined]
    settings, archs = GraphEnsemble(**SMALL | {"layer": layer, "positions": False, "dropout": 0.0}), [*some(NB101, 10), *cells]

    def apart() -> float:
        """How far apart a network sees the two, which learned 0 and 10 of them."""
        first, second = settings.fit(NB101, archs, np.array([5.0] * 10 + [0.0, 10.0]), 0).predict(cells).mean
        return float(second - first)

    assert apart() > 1
    flow, half = _Network._flow, torch.tril if side == "predecessors" else torch.triu
    monkeypatch.setattr(_Network, "_flow", lambda self, edges: flow(self, half(edges)))
    assert abs(apart()) < 1e-3


def test_deviations_grow_where_noise_is_larger() -> None:
    archs, rng = some(NB201, 400), np.random.default_rng(0)
    noisy = np.array(["none" in arch.id for arch in archs])
    y = values(archs) + rng.normal(size=400) * np.where(noisy, 4.0, 0.2)
    prediction = GraphEnsemble(**SMALL | {"loss": "nll"}).fit(NB201, archs[:300], y[:300], 0).predict(archs[300:])
    assert isinstance(prediction, GaussianPrediction)
    assert prediction.std[noisy[300:]].mean() > 2 * prediction.std[~noisy[300:]].mean()
    np.testing.assert_allclose(prediction.covariance(), np.diag(prediction.std**2))


@pytest.mark.parametrize("loss", get_args(Loss))
def test_more_observations_than_a_batch_and_more_candidates_than_fit_at_once(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    archs = some(NB201, 620)
    fitted = GraphEnsemble(**SMALL | {"loss": loss, "epochs": 40}).fit(NB201, archs, values(archs), 0)
    whole = fitted.predict(UNSEEN)
    assert spearmanr(whole.mean, values(UNSEEN)).statistic > 0.8
    monkeypatch.setattr("raynas.model.predictors.graph._ROWS", 7)
    np.testing.assert_allclose(moments(fitted.predict(UNSEEN)), moments(whole), atol=1e-4)
    assert fitted.hidden(UNSEEN).shape == (2, 120, 24)


def test_good_ones_have_more_weight_than_the_worst_of_all_and_not_of_their_batch() -> None:
    prediction = GraphEnsemble(**SMALL | {"loss": "weighted", "batch_size": 1, "epochs": 10}).fit(NB201, KNOWN, Y, 0).predict(UNSEEN)
    assert spearmanr(prediction.mean, values(UNSEEN)).statistic > 0.5  # alone in its batch each would be the worst, and of no weight


@pytest.mark.parametrize("epochs", range(1, 12))
def test_any_number_of_epochs_will_do(epochs: int) -> None:
    prediction = GraphEnsemble(**TINY | {"epochs": epochs}).fit(NB201, KNOWN[:5], Y[:5], 0).predict(UNSEEN[:3])
    assert np.isfinite(prediction.mean).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mae"}, "loss must be one of mse, rank, nll, weighted, not 'mae'"),
        ({"layer": "gat"}, "layer must be one of directed, gcn, gin, not 'gat'"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"batch_size": 1, "loss": "rank"}, "batch_size must be at least 2 with the loss rank"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"weight_decay": -0.1}, "weight_decay not negative"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GraphEnsemble(**options)


@pytest.mark.parametrize(
    ("searcher", "options"),
    [
        *((name, {}) for name in ("gcn", "bonas", "npenas", "npenas-np")),
        *(("bananas", {"predictor": name}) for name in PREDICTORS),
        ("bananas", {"encoding": "graph_counts"}),
        ("weaknas", {"predictor": "graph"}),
        ("alphax", {"predictor": "graph"}),
    ],
)
def test_a_space_without_graphs_is_refused_before_a_search_begins(searcher: str, options: dict[str, Any]) -> None:
    class Graphless(ToySpace):
        graph = SearchSpace.graph

    with pytest.raises(OutOfSpaceError, match="does not say how its architectures are graphs") as refused:
        Engine(make_method(searcher, options), Graphless(2))
    assert "\n" not in str(refused.value)


# -- BONAS' regression -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [(1.0, 10.0), (0.02, 0.3)], ids=["sure", "unsure"])
def test_moments_of_the_sigmoid_of_a_normal_against_sampling(precision: tuple[float, float]) -> None:
    fitted = GraphRegression({"width": 16, "hidden": 16, "epochs": 30}, *precision).fit(NB201, KNOWN[:15], Y[:15], 0)
    assert isinstance(fitted, FittedGraphRegression)
    prediction, logits = fitted.predict(UNSEEN), fitted.regression.predict(_basis(fitted.network, UNSEEN))
    drawn = expit(np.random.default_rng(0).normal(logits.mean, logits.std, size=(20_000, len(UNSEEN))))
    np.testing.assert_allclose(prediction.mean, fitted.low + fitted.width * drawn.mean(axis=0), atol=0.02 * fitted.width)
    beyond = prediction.std / fitted.width - drawn.std(axis=0)
    assert -0.01 < beyond.min() <= beyond.max() < 0.17  # what the approximation of the square adds
    assert logits.std.max() > (1.0 if precision[0] < 1 else 0.1)


def test_bonas_predicts_within_reach_of_the_targets_and_ranks() -> None:
    prediction = make_predictor("bonas", {"network": {"epochs": 60}}).fit(NB201, KNOWN, Y, 0).predict(UNSEEN)
    assert spearmanr(prediction.mean, values(UNSEEN)).statistic > 0.8
    reach = 0.06 * np.ptp(Y)
    assert Y.min() - reach < prediction.mean.min() < prediction.mean.max() < Y.max() + reach
    assert prediction.std.min() >= 0


def test_what_differs_from_the_published_network_is_given_as_in_a_file() -> None:
    options = yaml.safe_load("{network: {layer: gin, hidden: 5, epochs: 2}, beta: 3}")
    fitted = make_predictor("bonas", options).fit(NB201, KNOWN, Y, 0)
    assert isinstance(fitted, FittedGraphRegression)
    settings = fitted.network.network.settings
    assert (settings.layer, settings.hidden, settings.width, settings.loss) == ("gin", 5, 64, "weighted")
    assert fitted.regression.mean.shape == (6,)


# -- committees --------------------------------------------------------------------------------------------------------------


def mixture() -> MixturePrediction:
    deviations = np.array([0.5, 0.1, 2.0])
    sure = GaussianPrediction(np.array([0.0, 1.0, 5.0]), deviations, lambda: np.diag(deviations**2))
    return MixturePrediction([sure, EnsemblePrediction(np.array([[1.0, 1.0, 2.0], [3.0, 1.0, 4.0]]))])


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_mixture_against_sampling_its_parts(factor: float) -> None:
    prediction, rng = mixture().widened(factor**0.5).widened(factor**0.5), np.random.default_rng(0)
    drawn = np.concatenate([part.sample(50_000, rng) for part in mixture().parts])
    np.testing.assert_allclose(prediction.mean, mixture().mean)
    np.testing.assert_allclose(prediction.mean, drawn.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(prediction.std, factor * drawn.std(axis=0), rtol=0.02)
    sampled = prediction.sample(100_001, rng)
    assert sampled.shape == (100_001, 3)
    np.testing.assert_allclose(np.cov(sampled.T), factor**2 * np.cov(drawn.T), atol=0.03 * factor**2)
    np.testing.assert_allclose(sampled[:1000].mean(axis=0), drawn.mean(axis=0), atol=0.3 * factor)  # mixed, not part by part


def test_a_committee_says_what_its_members_say() -> None:
    members = [
        *PREDICTORS["committee"]["members"],
        {"predictor": "committee", "options": {"members": [{"predictor": "graph", "options": TINY}]}},
    ]
    found = Committee(members).fit(NB201, KNOWN, Y, 5).predict(UNSEEN)
    parts = [
        make_predictor(each["predictor"], each.get("options"), each.get("encoding", "path")).fit(NB201, KNOWN, Y, 5 + i).predict(UNSEEN)
        for i, each in enumerate(members)
    ]
    np.testing.assert_allclose(found.mean, np.mean([part.mean for part in parts], axis=0))
    np.testing.assert_allclose(found.std, MixturePrediction(parts).std)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("committee", {"members": []}, ConfigError, "a committee needs members, such as"),
        ("committee", {"members": {"predictor": "gp"}}, ConfigError, "option members of predictor 'committee' cannot be"),
        ("committee", {"members": ["gp"]}, ConfigError, "option members of predictor 'committee' cannot be"),
        ("committee", {"members": [{}]}, ConfigError, "missing 1 required positional argument: 'predictor'"),
        ("committee", {"members": [{"predictor": "grph"}]}, UnknownNameError, "did you mean 'graph'"),
        ("committee", {"members": [{"predictor": 5}]}, ConfigError, "option predictor of member of 'committee' cannot be 5"),
        ("committee", {"members": [{"predictor": "gp", "encodings": "path"}]}, UnknownNameError, "did you mean 'encoding'"),
        (
            "committee",
            {"members": [{"predictor": "graph", "options": 3}]},
            ConfigError,
            "options of member of 'committee' cannot be 3",
        ),
        ("committee", {"members": [{"predictor": "graph", "options": {"width": 0}}]}, ConfigError, "width must be at least 1"),
        ("bonas", {"network": {"layres": 2}}, UnknownNameError, "did you mean 'layers'"),
        ("bonas", {"network": {"width": "wide"}}, ConfigError, "option width of predictor 'graph' cannot be 'wide'"),
        ("bonas", {"network": [1]}, ConfigError, "option network of predictor 'bonas' cannot be"),
        ("bonas", {"beta": 0.0}, ConfigError, "alpha and beta must be positive"),
    ],
)
def test_wrong_parts_are_refused_in_one_line(name: str, options: dict[str, Any], error: type[RaynasError], message: str) -> None:
    with pytest.raises(error, match=message) as refused:
        make_predictor(name, options)
    assert "\n" not in str(refused.value)


def test_an_encoding_that_there_is_not_is_told_before_a_search_begins() -> None:
    options = {"predictor": "committee", "predictor_options": {"members": [{"predictor": "gp", "encoding": "graph_count"}]}}
    with pytest.raises(UnknownNameError, match="did you mean 'graph_counts'"):
        Engine(make_method("bananas", options), NB201)
