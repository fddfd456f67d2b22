"""What a person sees of a search that runs."""

import io

from rich.console import Console

from raynas.outcome import METRICS, Objective, declare
from raynas.run.display import Display, Progress, lasting, shown, title


def displayed(progress: Progress, terminal: bool) -> str:
    """The table on a terminal, or the last line anywhere else."""
    output = io.StringIO()
    display = Display(Console(file=output, width=250, force_terminal=terminal, color_system=None))
    display._shown -= 1000
    display.show(progress)
    display.say("trial t1 failed: ValueError: [/bad] in [0, 1]")
    display.close(progress)
    assert "trial t1 failed: ValueError: [/bad] in [0, 1]\n" in output.getvalue()
    return output.getvalue()


def rows(text: str) -> dict[str, str]:
    """The rows of the table, by their first column."""
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    return {cell[0]: cell[1] for cell in cells}


def test_accuracies_are_in_percent() -> None:
    progress = Progress(10, finished=1, mae=0.0123)
    assert "best validation accuracy none yet" in displayed(progress, terminal=False)
    progress.best = {"valid_accuracy": 0.9, "test_accuracy": None, "arch_id": "a"}
    assert "1/10 trials (1 finished, 0 stopped early, 0 failed, 0 running), best validation accuracy 90.000 %, 0 s" in displayed(
        progress, terminal=False
    )
    table = rows(displayed(progress, terminal=True))
    assert (table["best validation accuracy"], table["best test accuracy"]) == ("90.000 %", "unknown")
    assert table["predictor's mean error"] == "1.23 points"


def test_other_metrics_have_their_names_and_units() -> None:
    declared = declare({"latency": {"direction": "min", "unit": "ms"}}, METRICS)
    progress = Progress(10, Objective.parse(["latency", "valid_accuracy"], [], declared), mae=0.25)
    progress.best = {"valid_accuracy": 0.9, "latency": 2.5, "test_accuracy": 0.8, "arch_id": "a"}
    assert "best latency 2.5 ms, best validation accuracy 90.000 %" in displayed(progress, terminal=False)
    table = rows(displayed(progress, terminal=True))
    assert (table["best latency"], table["best test accuracy"], table["predictor's mean error"]) == ("2.5 ms", "80.000 %", "0.25 ms")


def test_values_and_names() -> None:
    assert shown(METRICS["parameters"], 1234567.0) == "1,234,567 weights"
    assert shown(METRICS["train_loss"], 0.5) == "0.5"
    assert shown(METRICS["train_loss"], None) == "unknown"
    assert title(METRICS["flops"]) == "flops"


def test_how_fast_it_goes_and_what_fails_is_shown() -> None:
    progress = Progress(100, before=10, session_seconds=60.0)
    assert progress.pace() == ""
    for _ in range(25):
        progress.count("finished", 1.0)
    progress.count("failed", None, "ValueError: no such layer")
    assert progress.pace() == "16 a minute, about 5 min left"
    assert displayed(progress, terminal=False).splitlines()[0].endswith("0 s (16 a minute, about 5 min left)")
    progress.running, progress.epochs = 2, {"t1": 3, "t2": 0}
    table = rows(displayed(progress, terminal=True))
    assert table["last failure"] == "ValueError: no such layer"
    assert table["running"] == "2 (epochs: t1 3)"
    assert table["pace"] == "16 a minute, about 5 min left"
    assert "━" in table[""]


def test_a_narrow_terminal_shows_everything() -> None:
    progress = Progress(100, finished=3, best={"valid_accuracy": 0.9, "arch_id": "|nor_conv_3x3~0|" * 8}, mae=0.01)
    output = io.StringIO()
    display = Display(Console(file=output, width=60, force_terminal=True, no_color=True))
    display._shown -= 1000
    display.show(progress)
    display.close(progress)
    drawn = [line for line in output.getvalue().splitlines() if "│" in line]
    assert max(map(len, drawn)) <= 60
    assert "".join(line.split("│")[-2].strip() for line in drawn).count("nor_conv_3x3") >= 7  # folded, not cut off


def test_times_as_people_tell_them() -> None:
    assert [lasting(seconds) for seconds in (3, 119, 120, 7300, 200000)] == ["3 s", "119 s", "2 min", "2 h", "2 days"]
