"""The figure of a comparison says what it shows."""

import numpy as np
import pytest

from raynas.plotting import COLOURS, colours, comparison, shares

RNG = np.random.default_rng(0)
CURVES = {
    (name, "fifo"): np.sort(RNG.random((5, 60)) + level)[:, ::-1] for name, level in (("bananas", 5.0), ("evolution", 5.02), ("mine:A", 6))
}


def drawn(hours: bool):  # type: ignore[no-untyped-def]  # matplotlib's
    clocks = {key: np.cumsum(np.ones_like(runs), axis=1) for key, runs in CURVES.items()} if hours else None
    figure = comparison(CURVES, clocks, title="nasbench201, cifar10: seeds 3 to 7", kind="test", optimum=5.0)
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize("hours", [False, True])
def test_it_says_on_what_and_how_it_was_measured(hours: bool) -> None:
    figure = drawn(hours)
    assert figure.get_suptitle() == "nasbench201, cifar10: seeds 3 to 7; band: one standard error of the mean"
    assert [axes.get_xlabel() for axes in figure.axes] == ["architectures evaluated", *(["simulated hours"] if hours else [])]
    assert figure.axes[0].get_ylabel() == "test error of the best so far, %"
    for axes in figure.axes:
        levels = [set(line.get_ydata()) for line in axes.get_lines()]
        assert {5.0} in levels
        assert axes.get_ylim()[0] < 5.0


def test_lines_are_named_at_their_ends_and_no_name_covers_another() -> None:
    figure = drawn(True)
    for axes in figure.axes:
        assert {text.get_text() for text in axes.texts} == {"bananas", "evolution", "mine:A", "best of the table"}
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_a_method_has_one_colour_whatever_it_is_compared_with() -> None:
    assert colours(["random", "mine:A", "bananas"])["bananas"] == colours(["bananas"])["bananas"] == COLOURS["bananas"]
    many = colours([*COLOURS, "a", "b", "c"])
    assert len(set(many.values())) == len(many)


def test_schedulers_are_told_apart_by_their_lines() -> None:
    both = {("bananas", "fifo"): CURVES["bananas", "fifo"], ("bananas", "asha"): CURVES["evolution", "fifo"]}
    figure = comparison(both, None, title="t", kind="validation", optimum=5.0)
    first, second, _ = figure.axes[0].get_lines()
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert {text.get_text() for text in figure.axes[0].texts} == {"bananas + fifo", "bananas + asha", "best of the table"}


def test_many_methods_have_a_panel_each_the_best_first() -> None:
    many = {(f"m{i}", "fifo"): CURVES["bananas", "fifo"] + (i * 5 % 9) for i in range(9)}
    figure = comparison(many, None, title="t", kind="test", optimum=5.0)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["m0", "m2", "m4", "m6", "m8", "m1", "m3", "m5", "m7"]
    assert shown[0].get_title(loc="right") == f"{CURVES['bananas', 'fifo'][:, -1].mean():.3f}"
    assert {len(axes.get_lines()) for axes in shown} == {9 + 1 + 1}  # all, this one once more, the best of the table


@pytest.mark.parametrize("methods", [3, 10])
def test_the_share_that_has_found_the_best(methods: int) -> None:
    found = {(f"m{i}", "fifo"): np.array([3.0, 8.0, np.inf, np.inf]) for i in range(methods)}
    figure = shares(found, 10, title="t")
    line = next(line for line in figure.axes[0].get_lines() if line.get_linewidth() > 1)
    assert line.get_ydata().tolist() == [0, 0, 25, 25, 25, 25, 25, 50, 50, 50]


def test_names_stay_in_the_panel_where_all_lines_end_at_its_top() -> None:
    figure = shares({(f"m{i}", "fifo"): np.array([2.0]) for i in range(8)}, 10, title="t")
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert max(box.y1 for box in boxes) < figure.bbox.y1 - 15  # below the title
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_run_that_stopped_at_the_best_does_not_end_the_panel_of_hours() -> None:
    hours = np.arange(1.0, 5)[None].repeat(2, axis=0)
    hours[0, 2:] = np.nan
    errors = {("random", "fifo"): np.array([[7.0, 5.0, 5.0, 5.0], [8.0, 7.0, 6.0, 6.0]])}
    line, _ = comparison(errors, {("random", "fifo"): hours}, title="t", kind="test", optimum=5.0).axes[1].get_lines()
    assert line.get_xdata()[-1] == 4
    assert line.get_ydata()[-1] == 5.5
