"""The ensemble of networks, its targets, and ranks. k: members, n: observations, m: candidates, d: features."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from raynas.errors import ConfigError, ShapeError, UnknownNameError
from raynas.model.acquisition import ACQUISITIONS
from raynas.model.candidates import random_archs
from raynas.model.encodings import encode, feature_weights
from raynas.model.predictors import PREDICTORS, EnsemblePrediction, VectorModel, make_predictor
from raynas.model.predictors.bohamiann import Bohamiann
from raynas.model.predictors.mlp import MLPEnsemble
from raynas.model.ranks import mean_ranks, spearman
from raynas.model.targets import TARGETS, error_percent, log_error, rank_gauss
from raynas.registry import make
from raynas.spaces import make_space

Floats = NDArray[np.float64]

VECTORS = [name for name in PREDICTORS if isinstance(make(PREDICTORS, name, {}, "predictor"), VectorModel)]
WITHOUT_CHANCE = {"gp"}  # predictors that draw nothing
QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"epochs": 10, "width": 16},
    "dngo": {"epochs": 10, "width": 16},
    "bohamiann": {"chains": 4, "width": 16, "steps": 300, "burn_in": 200, "keep_every": 25},
}  # settings that make a fit quick, by predictor

X = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
Y = X[:, 0] - 2.0 * X[:, 1] + np.random.default_rng(1).normal(size=30) * 0.1
CANDIDATES = np.random.default_rng(2).normal(size=(12, 5)).astype(np.float32)


@pytest.fixture(params=VECTORS)
def predictor(request: pytest.FixtureRequest) -> Any:
    """Every predictor that sees vectors, made quick."""
    model: VectorModel = make(PREDICTORS, request.param, QUICK.get(request.param), "predictor")
    return model


# -- every predictor -----------------------------------------------------------------------------------------------------


def moments(prediction: Any) -> Floats:
    """(2, m) mean and deviation."""
    return np.stack([prediction.mean, prediction.std])


def test_a_fit_is_a_function_of_data_and_seed(predictor: Any, request: pytest.FixtureRequest) -> None:
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = predictor.fit(X, Y, 3).predict(CANDIDATES)
    again = predictor.fit(X.copy(), Y.copy(), 3).predict(CANDIDATES.copy())
    other = predictor.fit(X, Y, 4).predict(CANDIDATES)
    np.testing.assert_array_equal(moments(first), moments(again))
    assert (np.abs(moments(first) - moments(other)).max() > 1e-6) == (request.node.callspec.params["predictor"] not in WITHOUT_CHANCE)
    assert moments(first).shape[1:] == (12,)
    assert torch.equal(state[0], torch.random.get_rng_state())  # nothing global is drawn from
    np.testing.assert_array_equal(state[1], np.random.get_state()[1])  # type: ignore[index]


def test_arguments_are_not_changed(predictor: Any) -> None:
    x, y, candidates = X.copy(), Y.copy(), CANDIDATES.copy()
    fitted = predictor.fit(x, y, 0)
    first = moments(fitted.predict(candidates))
    np.testing.assert_array_equal(moments(fitted.predict(candidates)), first)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)
    np.testing.assert_array_equal(candidates, CANDIDATES)


def test_an_affine_change_of_the_targets_changes_predictions_alike(predictor: Any) -> None:
    plain = predictor.fit(X, Y, 0).predict(CANDIDATES)
    changed = predictor.fit(X, 0.004 * Y + 0.9, 0).predict(CANDIDATES)
    np.testing.assert_allclose((changed.mean - 0.9) / 0.004, plain.mean, atol=5e-3)
    np.testing.assert_allclose(changed.std / 0.004, plain.std, atol=5e-3)


def test_a_change_of_units_of_the_inputs_changes_nothing(predictor: Any) -> None:
    scale, shift = np.array([1, 8, 0.25, 2, 16], dtype=np.float32), np.float32(3)
    plain = moments(predictor.fit(X, Y, 0).predict(CANDIDATES))
    changed = moments(predictor.fit(X * scale + shift, Y, 0).predict(CANDIDATES * scale + shift))
    if isinstance(predictor, Bohamiann):  # chains part from each other by rounding, and so draw other samples of the same
        assert np.corrcoef(changed[0], plain[0])[0, 1] > 0.9
    else:
        np.testing.assert_allclose(changed, plain, atol=5e-3)


def test_equal_weights_change_nothing_and_a_small_weight_makes_a_feature_count_less(predictor: Any) -> None:
    plain = predictor.fit(X, Y, 0).predict(CANDIDATES).mean
    np.testing.assert_allclose(predictor.fit(X, Y, 0, np.ones(5)).predict(CANDIDATES).mean, plain, rtol=1e-12)

    moved = CANDIDATES.copy()
    moved[:, 1] += 1
    fitted = predictor.fit(X, Y, 0, np.array([1, 1e-6, 1, 1, 1]))
    np.testing.assert_allclose(fitted.predict(moved).mean, fitted.predict(CANDIDATES).mean, atol=1e-2)
    assert np.abs(predictor.fit(X, Y, 0).predict(moved).mean - plain).mean() > 0.03
    with pytest.raises(ShapeError, match=r"weights must be \(d,\), here \(5,\)"):
        predictor.fit(X, Y, 0, np.ones(4))


def test_one_observation(predictor: Any) -> None:
    prediction = predictor.fit(X[:1], Y[:1], 0).predict(CANDIDATES)
    assert np.isfinite(moments(prediction)).all()
    np.testing.assert_allclose(predictor.fit(X[:1], Y[:1], 0).predict(X[:1]).mean, Y[:1], atol=0.5)


def test_constant_targets_and_inputs(predictor: Any) -> None:
    constant = predictor.fit(X, np.full(30, 0.7), 0).predict(X)
    np.testing.assert_allclose(constant.mean, 0.7, atol=0.3)
    frozen = predictor.fit(np.ones((4, 3), dtype=np.float32), np.array([1.0, 2.0, 3.0, 4.0]), 0).predict(np.ones((2, 3), dtype=np.float32))
    assert np.isfinite(moments(frozen)).all()
    np.testing.assert_array_equal(moments(frozen)[:, 0], moments(frozen)[:, 1])


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [
        (X, Y[:-1]),
        (X, Y[:, None]),
        (X[0], Y[:5]),
        (X[:0], Y[:0]),
        (np.where(np.arange(30)[:, None] == 4, np.float32(np.nan), X), Y),
        (X, np.where(np.arange(30) == 4, np.nan, Y)),
        (X, np.where(np.arange(30) == 4, -np.inf, Y)),
    ],
)
def test_observations_of_the_wrong_shape_or_without_a_value_are_refused(predictor: Any, inputs: Any, targets: Any) -> None:
    with pytest.raises(ShapeError, match=r"\(n, d\)|finite"):
        predictor.fit(inputs, targets, 0)


@pytest.mark.parametrize("candidates", [CANDIDATES[:, :4], CANDIDATES[:, :1], CANDIDATES[0], CANDIDATES[None]])
def test_candidates_of_the_wrong_shape_are_refused(predictor: Any, candidates: Any) -> None:
    fitted = predictor.fit(X, Y, 0)
    with pytest.raises(ShapeError, match=r"5 features, so inputs must be \(m, 5\), not \("):
        fitted.predict(candidates)


@pytest.mark.parametrize("name", VECTORS)
def test_it_learns_a_simple_function(name: str) -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(2, size=(260, 10)).astype(np.float32)
    values = bits @ np.arange(1.0, 11.0) + 4 * bits[:, 0] * bits[:, 1]
    prediction = make(PREDICTORS, name, {}, "predictor").fit(bits[:60], values[:60], 0).predict(bits[60:])
    correlation = spearman(prediction.mean, values[60:])
    assert correlation is not None
    assert correlation > 0.9
    assert prediction.std.mean() < values.std()


def test_mean_and_deviation_of_a_prediction() -> None:
    prediction = EnsemblePrediction(np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]]))
    assert prediction.mean.tolist() == [2.0, 2.0, 5.0]
    assert prediction.std.tolist() == [1.0, 0.0, 2.0]  # divisor k
    for members in (np.zeros(3), np.zeros((0, 3)), np.zeros((1, 2, 3))):
        with pytest.raises(ShapeError, match="shape"):
            EnsemblePrediction(members)


# -- the batched ensemble beside one network after the other ---------------------------------------------------------------


def slow_fit(settings: MLPEnsemble, x: Floats, y: Floats, seed: int, candidates: Floats) -> Floats:
    """(k, m) predictions of members that are trained one by one by torch's own differentiation and AdamW."""
    generator = torch.Generator().manual_seed(seed)
    _, views = settings._initial(x.shape[1], generator)  # the same initial weights
    weights, biases = views[: settings.layers + 1], views[settings.layers + 1 :]
    n, k = len(y), settings.members
    batch, steps = settings._steps(n)
    per_epoch = math.ceil(n / batch)
    orders = [
        torch.rand(k, n, generator=generator).argsort(1) if batch < n else torch.arange(n).expand(k, n)
        for _ in range(math.ceil(steps / per_epoch))
    ]
    members = []
    for member in range(k):
        network = torch.nn.Sequential()
        for layer, (a, b) in enumerate(pairwise([x.shape[1], *[settings.width] * settings.layers, 1])):
            network.append(torch.nn.Linear(a, b)).append(torch.nn.ReLU())
            network[-2].weight.data = weights[layer][member].T.clone()
            network[-2].bias.data = biases[layer][member, 0].clone()
        network = network[:-1]  # the output is linear
        optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay)
        loss_function = torch.nn.L1Loss() if settings.loss == "mae" else torch.nn.MSELoss()
        for step in range(steps):
            part = orders[step // per_epoch][member][step % per_epoch * batch :][:batch].numpy()
            cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = settings.learning_rate * (cosine if settings.schedule == "cosine" else 1)
            optimizer.zero_grad()
            inputs, targets = torch.tensor(x[part], dtype=torch.float32), torch.tensor(y[part], dtype=torch.float32)
            loss_function(network(inputs)[:, 0], targets).backward()
            optimizer.step()
        with torch.no_grad():
            members.append(network(torch.tensor(candidates, dtype=torch.float32))[:, 0].numpy())
    return np.array(members, dtype=np.float64)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "mae"},
        {"loss": "mse"},
        {"loss": "mae", "batch_size": 8},  # the last batch of an epoch is smaller
        {"loss": "mse", "batch_size": 10, "schedule": "constant"},
        {
            "loss": "mae",
            "batch_size": 100,
            "weight_decay": 0.0,
            "betas": (0.9, 0.99),
            "glorot": True,
            "layers": 10,
            "width": 20,
        },  # the paper's
        {"loss": "mse", "layers": 1, "members": 1},
    ],
)
def test_the_ensemble_equals_members_trained_one_by_one(options: dict[str, Any]) -> None:
    ensemble = MLPEnsemble(**{"members": 3, "layers": 2, "width": 8, "epochs": 5, "standardize": False} | options)
    fast = ensemble.fit(X, Y, 11).predict(CANDIDATES).members
    slow = slow_fit(ensemble, X.astype(np.float64), Y, 11, CANDIDATES.astype(np.float64))
    np.testing.assert_allclose(fast, slow, atol=2e-4, rtol=1e-4)
    assert fast.shape == (ensemble.members, 12)
    assert ensemble.members == 1 or fast.std(axis=0).min() > 0  # no two networks are the same


def test_a_fit_to_many_observations_does_not_grow_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MLPEnsemble(epochs=60)
    assert [settings._steps(n) for n in (1, 10, 1000)] == [(1, 60), (10, 60), (1000, 60)]  # all of them in each step
    assert [settings._steps(n) for n in (1001, 4000, 10_000)] == [(501, 61), (1000, 120), (1000, 190)]
    assert MLPEnsemble(epochs=2, batch_size=32)._steps(10_000) == (32, 2 * 313)
    monkeypatch.setattr("raynas.model.predictors.mlp._LARGEST", 16)
    ensemble = MLPEnsemble(members=3, layers=2, width=8, epochs=5, standardize=False)
    assert ensemble._steps(len(Y))[0] < len(Y)
    fast = ensemble.fit(X, Y, 11).predict(CANDIDATES).members
    np.testing.assert_allclose(fast, slow_fit(ensemble, X, Y, 11, CANDIDATES), atol=2e-4, rtol=1e-4)


def test_standardising_is_done_on_the_observations() -> None:
    settings: dict[str, Any] = {"members": 2, "layers": 2, "width": 8, "epochs": 5}
    inputs, targets = 3 * X + 1, 10 * Y - 4
    fast = MLPEnsemble(**settings).fit(inputs, targets, 1).predict(CANDIDATES).members
    shift, scale = inputs.mean(axis=0, dtype=np.float64), inputs.std(axis=0, dtype=np.float64)
    center, spread = targets.mean(), targets.std()
    slow = slow_fit(MLPEnsemble(**settings), (inputs - shift) / scale, (targets - center) / spread, 1, (CANDIDATES - shift) / scale)
    np.testing.assert_allclose(fast, center + spread * slow, atol=2e-3)


def test_the_number_of_threads_is_left_as_it_was() -> None:
    before = torch.get_num_threads()
    MLPEnsemble(epochs=1).fit(X, Y, 0).predict(CANDIDATES)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("options", [{"loss": "mape"}, {"schedule": "linear"}, {"members": 0}, {"batch_size": 0}, {"epochs": -1}])
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(ConfigError, match=f"the predictor's {name} must be"):
        MLPEnsemble(**options)


def test_an_unknown_predictor() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'mlp'"):
        make_predictor("mpl")


# -- predictors see architectures, predictions are distributions ---------------------------------------------------------


@pytest.mark.parametrize("name", VECTORS)
def test_a_model_on_vectors_sees_architectures_by_their_encoding(name: str) -> None:
    space, rng = make_space("nasbench201"), np.random.default_rng(0)
    archs, encoding = random_archs(space, (), rng, 40), "path+scalars"
    targets = np.array([arch.id.count("nor_conv") for arch in archs], dtype=np.float64)
    fitted = make_predictor(name, QUICK.get(name), encoding).fit(space, archs[:30], targets[:30], 1)
    vectors, weights = encode(encoding, space, archs), feature_weights(encoding, space)
    plain = make(PREDICTORS, name, QUICK.get(name), "predictor").fit(vectors[:30], targets[:30], 1, weights).predict(vectors[30:])
    np.testing.assert_array_equal(moments(fitted.predict(archs[30:])), moments(plain))
    shuffled = fitted.predict([archs[39], archs[0], archs[31]])  # what it has seen before, and what it has not
    np.testing.assert_allclose(shuffled.mean[[0, 2]], plain.mean[[9, 1]], rtol=1e-5)


@pytest.mark.parametrize("name", VECTORS)
def test_samples_have_the_mean_and_the_deviation_of_the_prediction(name: str) -> None:
    prediction = make(PREDICTORS, name, QUICK.get(name), "predictor").fit(X, Y, 0).predict(CANDIDATES)
    for wide, factor in ((prediction, 1.0), (prediction.widened(3.0), 3.0)):
        np.testing.assert_allclose(wide.mean, prediction.mean, atol=1e-9)
        np.testing.assert_allclose(wide.std, factor * prediction.std, rtol=1e-6)
        drawn = wide.sample(20_000, np.random.default_rng(0))
        assert drawn.shape == (20_000, 12)
        np.testing.assert_allclose(drawn.mean(axis=0), wide.mean, atol=0.05 * factor)
        np.testing.assert_allclose(drawn.std(axis=0), wide.std, rtol=0.05, atol=1e-3)


def test_a_gaussian_process_draws_from_its_joint_posterior() -> None:
    fitted = make(PREDICTORS, "gp", {}, "predictor").fit(X, Y, 0)
    near = np.concatenate([CANDIDATES[:1], CANDIDATES[:1] + 1e-3, CANDIDATES[5:6]]).astype(np.float32)
    prediction = fitted.predict(near)
    drawn = prediction.sample(4000, np.random.default_rng(0))
    correlation = np.corrcoef(drawn.T)
    assert correlation[0, 1] > 0.99  # neighbours rise and fall together
    assert abs(correlation[0, 2]) < 0.9
    assert len(np.unique(drawn[:, 0])) == 4000  # not two members, of which a coin chooses
    covariance = prediction.covariance()
    np.testing.assert_allclose(np.sqrt(covariance.diagonal()), prediction.std, rtol=1e-5, atol=1e-8)
    assert {round(float(score), 9) for score in ACQUISITIONS["ts"](prediction, 0.0, np.random.default_rng(1))} != {
        round(float(score), 9) for score in ACQUISITIONS["ts"](prediction, 0.0, np.random.default_rng(2))
    }


def test_what_is_no_predictor_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"must have a method fit\(space, archs, targets, seed\)"):
        make_predictor("collections:Counter")


# -- targets and ranks ---------------------------------------------------------------------------------------------------

accuracies = st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.array)


@pytest.mark.parametrize("name", TARGETS)
@given(values=accuracies)
@settings(deadline=None)
def test_targets_keep_the_order_and_lead_back(name: str, values: Floats) -> None:
    before = values.copy()
    target = TARGETS[name](values)
    assert target.values.shape == values.shape
    assert np.isfinite(target.values).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(target.values[order]) >= -1e-12).all()
    np.testing.assert_allclose(target.inverse(target.values), values, atol=1e-9)
    np.testing.assert_array_equal(values, before)


def test_targets_worked_out() -> None:
    values = np.array([0.9, 0.94, 0.5])
    np.testing.assert_allclose(error_percent(values).values, [-10, -6, -50])
    np.testing.assert_allclose(log_error(values).values, [-math.log(0.101), -math.log(0.061), -math.log(0.501)])
    np.testing.assert_allclose(rank_gauss(values).values, scipy.stats.norm.ppf([1.5 / 3, 2.5 / 3, 0.5 / 3]), atol=1e-12)
    np.testing.assert_array_equal(log_error(-values).values, -values)  # no accuracies: a loss that is minimised


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30).map(lambda v: np.array(v, dtype=np.float64)))
@settings(deadline=None)
def test_ranks_against_scipy(values: Floats) -> None:
    np.testing.assert_allclose(mean_ranks(values), scipy.stats.rankdata(values) - 0.5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20))
@settings(deadline=None)
def test_rank_correlation_against_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    if len(pairs) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) is None
    else:
        assert spearman(first, second) == pytest.approx(scipy.stats.spearmanr(first, second).statistic)
