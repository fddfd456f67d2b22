"""Learning from every budget, and the scheduler that lets go on what is forecast to be good."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from test_search import search
from toy_space import ToySpace

from raynas import results
from raynas.errors import ConfigError
from raynas.history import History, Observation
from raynas.model.budgets import carried, levels, rows
from raynas.outcome import Status
from raynas.run.schedulers import make_scheduler
from raynas.simulate import Simulation
from raynas.spaces import make_space
from raynas.tables import Table, open_table
from searchers import Bananas, Engine, Evolution, Suggestion, make_method
from searchers.promotion import Promotion

FULL = 100.0


def history(*told: tuple[str, Status, list[tuple[float, float]]]) -> History:
    """Observations by the operations of the toy space, with their curves."""
    made, space = History(), ToySpace(4)
    for name, status, curve in told:
        made.add(Observation(space.make(name), status, tuple(curve)))
    return made


@pytest.fixture(scope="module")
def curves() -> Table:
    """NAS-Bench-201 after 200 epochs, and after 12 as if the larger half of its networks had learned more slowly."""
    real = open_table(None, "nasbench201", "cifar10")
    final = real.values("valid_accuracy")
    rng = np.random.default_rng(0)
    early = 0.9 * final - 0.05 * rng.random(len(final)) * (final > np.median(final))
    seconds = np.broadcast_to([12.0, 200.0], (len(final), 2))
    metrics = {"valid_accuracy": np.stack([early, final], axis=1)[:, :, None], "train_seconds": seconds[:, :, None]}
    about = {"space": "nasbench201", "dataset": "invented", "source": "test", "licence": "none", "sha256": ""}
    return Table.build(ids=real.ids, metrics=metrics, budgets=(12, 200), **about)


def test_values_are_carried_along_the_line_of_those_that_went_on() -> None:
    early = np.linspace(0, 1, 30)
    values = np.stack([early, 0.5 * early + 3, np.where(early > 0.5, early + 5, np.nan)], axis=1)  # (30, 3)
    np.testing.assert_allclose(carried(values)[:, 2], values[:, 2])
    np.testing.assert_allclose(carried(values)[-10:, 0], early[-10:] + 5, atol=0.1)  # the slope is 0.5 * 2, though the belief is 0.6 ** 2
    alone = np.array([[0.0, np.nan], [1.0, np.nan]])
    assert (np.diff(carried(alone)[:, 0]) > 0).all()


def test_rows_are_one_for_each_level_that_was_reached() -> None:
    known = history(
        ("aaaa", "finished", [(10, 0.5), (30, 0.6), (FULL, 0.8)]),
        ("bbbb", "stopped", [(10, 0.4)]),
        ("cccc", "stopped", [(10, 0.6), (30, 0.7)]),
        ("dddd", "failed", [(10, 0.9)]),
        ("eeee", "finished", [(FULL, 0.7)]),
    )
    known.start(running := ToySpace(4).make("ffff"))
    known.report(running.id, 12, 0.3)
    assert levels(known) == [10, 30]
    table = rows(known)
    assert table is not None
    found = Counter((arch.id, round(1 - lacking, 2)) for arch, lacking in zip(table.archs, table.lacking, strict=True))
    names = {arch.id: arch for arch in table.archs}
    assert len(names) == 5  # all but the failed one
    assert set(found.values()) == {1}
    assert Counter(share for _, share in found) == {0.0: 4, 0.5: 2, 1.0: 2}
    assert all(table.archs[row].id == arch_id for arch_id, row in table.last.items())


def test_without_early_stopping_nothing_changes() -> None:
    known = history(("aaaa", "finished", [(FULL, 0.5)]), ("bbbb", "finished", [(FULL, 0.6)]))
    assert rows(known) is None


def test_stopped_anywhere_makes_few_levels() -> None:
    told: list[tuple[str, Status, list[tuple[float, float]]]] = [
        (f"{'abcdefgh'[i // 8]}{'abcdefgh'[i % 8]}aa", "stopped", [(float(i), 0.5)]) for i in range(1, 60)
    ]
    assert len(levels(history(*told))) < 11


def test_a_model_of_all_budgets_orders_what_was_stopped(curves: Table) -> None:
    """Better than the values at the rung do, which half of the networks have too low."""
    space, engine = make_space("nasbench201"), Engine(Bananas(), "nasbench201", max_budget=200)
    rng = np.random.default_rng(1)
    for i in range(150):
        arch = space.sample(rng)
        for epochs in (12, 200)[: 1 + (i % 3 == 0)]:
            report = curves.query(arch.id, epochs)._asdict()
            engine.report(arch, report)
        engine.tell(arch, report)
    learned = Bananas().learn(space, engine.history, rng)
    stopped = [o for o in engine.history.observed.values() if o.status == "stopped"]
    final = [curves.query(o.arch.id, 200).valid_accuracy for o in stopped]
    by_model = spearmanr([learned.forecasts[o.arch.id] for o in stopped], final).statistic
    assert by_model > max(0.8, spearmanr([o.value for o in stopped], final).statistic)


def test_what_goes_on_is_due_by_share_and_chosen_by_forecast() -> None:
    rule = Promotion((10.0, 40.0), FULL, exponent=1.0)
    names = ["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg", "hhhh"]
    known = history(*((name, "stopped", [(10, 0.1 * i)]) for i, name in enumerate(names)))
    ids = list(known.observed)
    forecasts = {arch_id: -float(i) for i, arch_id in enumerate(ids)}
    chosen = rule.due(known, forecasts, set())
    assert chosen is not None
    best = chosen.arch
    assert best.id == ids[0]
    assert _id(rule.due(known, {}, set())) == ids[-1]  # values decide where nothing is forecast
    assert _id(rule.due(known, forecasts, {ids[0]})) == ids[1]
    known.start(best)
    assert not rule.stops(known, best.id, 10)
    assert rule.stops(known, best.id, 40)
    assert rule.due(known, forecasts, set()) is None  # 10 / 100 of 8: where the next report comes is not known yet
    known.end(best.id, "stopped", 40, (0.9,))
    known.start(known.observed[best.id].arch)
    assert _id(rule.due(known, forecasts, set())) == ids[1]  # 10 / 40 of 8 may go on
    known.withdraw(best.id)
    assert _id(rule.due(known, forecasts, set())) == best.id  # the highest rung comes first


def _id(suggestion: Suggestion | None) -> str | None:
    return None if suggestion is None else suggestion.arch.id


@pytest.mark.parametrize("method", [Bananas(pool=50, predictor_options={"epochs": 5}), Evolution()], ids=["bananas", "evolution"])
def test_trials_stop_at_rungs_and_some_go_on_where_they_were(method: Bananas | Evolution, curves: Table) -> None:
    engine = Engine(method, "nasbench201", max_budget=200)
    simulation = Simulation(engine, curves, 60, 4, make_scheduler("bananas-asha", "valid_accuracy", "max", 200), failure_rate=0.1)
    ended = simulation.run()
    assert engine.problem is None
    counts = Counter(result.status for result in ended)
    assert counts["stopped"] > 3 * counts["finished"] > 0
    twice = [arch_id for arch_id, times in Counter(result.arch_id for result in ended).items() if times > 1]
    for result in ended:
        if result.status == "finished":
            assert result.arch_id in twice
            assert result.ended - result.started == pytest.approx(188)
    assert all(len(engine.history.observed[r.arch_id].curve) == 2 for r in ended if r.status == "finished")


def test_what_fails_when_it_goes_on_does_not_try_for_ever() -> None:
    engine = Engine(Evolution(num_initial=2), "nasbench201", max_budget=100)
    make_scheduler("bananas-asha", "valid_accuracy", "max", 100).bind(engine)
    for _ in range(2):
        first = engine.ask()
        assert first is not None
        engine.tell(first.arch, {"epoch": 3, "valid_accuracy": 0.5})
    again = engine.ask()
    assert again is not None
    assert again.origin.by == "promotion"
    engine.tell(again.arch, error="lost")
    nxt = engine.ask()
    assert nxt is not None
    assert nxt.arch.id != again.arch.id
    assert engine.history.observed[again.arch.id].status == "stopped"


def test_a_space_that_holds_no_more_waits_for_what_may_go_on() -> None:
    engine = Engine(Evolution(num_initial=2), ToySpace(1), max_budget=100)
    make_scheduler("bananas-asha", "valid_accuracy", "max", 100).bind(engine)
    asked = [engine.ask() for _ in range(3)]
    assert all(asked)
    assert engine.ask() is None
    assert not engine.exhausted
    for value, suggestion in enumerate(asked):
        assert suggestion is not None
        engine.tell(suggestion.arch, {"epoch": 3, "valid_accuracy": value / 10})
    on = engine.ask()
    assert on is not None
    assert on.origin.by == "promotion"
    engine.tell(on.arch, {"epoch": 9, "valid_accuracy": 0.5})
    for epoch in (27, 81, 100):
        on = engine.ask()
        assert on is not None
        engine.tell(on.arch, {"epoch": epoch, "valid_accuracy": 0.5})


def test_no_rung_is_close_to_the_end() -> None:
    assert make_scheduler("bananas-asha", "valid_accuracy", "max", 200).promotion.rungs == (7, 35)
    assert make_scheduler("bananas-asha", "valid_accuracy", "max", 9, {"grace_period": 5}).promotion.rungs == (5,)


@pytest.mark.parametrize("options", [{"exponent": 0}, {"grace_period": 300}, {"reduction_factor": 1}, {"grace_period": 0}])
def test_bad_options_are_one_line(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="the scheduler 'bananas-asha' cannot be made with"):
        make_scheduler("bananas-asha", "valid_accuracy", "max", 200, options)


def test_bananas_paper_learns_as_published() -> None:
    assert not make_method("bananas-paper", {}).all_budgets  # type: ignore[attr-defined]


def test_trainings_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    flags = ["--space", "nasbench201", "--trainable", "train", "--dataset", "digits", "--recipe", "quick", "--max-epochs", 9]
    flags += ["--searcher", "random", "--scheduler", "bananas-asha", "--set", "scheduler_options.grace_period=3", "--trials", 6]
    done = search(tmp_path, *flags, "--set", "searcher_options.num_initial=2", "--out", "run")
    assert done.returncode == 0, done.stderr
    run = results.read(str(tmp_path / "run"))
    trials, reports = run.trials.to_pylist(), run.reports.to_pylist()
    epochs = {t["trial_id"]: [r["epoch"] for r in reports if r["trial_id"] == t["trial_id"]] for t in trials}
    on = [t for t in trials if t["proposed_by"] == "promotion"]
    assert on
    for trial in trials:
        assert trial["status"] == ("finished" if trial in on else "stopped")
        assert epochs[trial["trial_id"]] == (list(range(3, 10)) if trial in on else [1, 2, 3])
        assert trial in on or [t["arch_id"] for t in trials].count(trial["arch_id"]) == 1 + (trial["arch_id"] in {t["arch_id"] for t in on})
    assert not list((tmp_path / "run").glob("tune/*/*/checkpoint_*"))
