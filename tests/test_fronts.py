"""The front of a run: what is on it, where it is written, and its hypervolume."""

from pathlib import Path

import pytest
from test_recorder import Run

from raynas import results
from raynas.errors import ResultsError
from raynas.outcome import Objective, Outcome
from raynas.run.fronts import Front

BOTH = Objective.parse(["valid_accuracy", "-latency"], ["valid_accuracy>=0.2"])
VALUES = [(0.9, 9.0, 3), (0.5, 4.0, 3), (0.5, 5.0, 3), (0.1, 1.0, 3), (0.95, 1.0, 1), (0.3, 3.0, 3)]  # accuracy, latency, epochs


def test_a_run_keeps_its_front(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    run = Run(uri, tmp_path, BOTH)
    for number, (accuracy, latency, epochs) in enumerate(VALUES):
        run.trial(number, {"epoch": epochs, "valid_accuracy": accuracy, "latency": latency})
    run.trial(6, {"epoch": 3, "valid_accuracy": 0.99, "latency": 0.1}, error="RuntimeError: no")
    run.close()
    front = results.read_front(uri)
    # Dominated is 2, beyond the limit 3, stopped early 4, failed 6.
    assert front["trial_id"].to_pylist() == ["t0", "t1", "t5"]
    assert front.schema.names == results.read(uri).trials.schema.names
    again = Run(uri, tmp_path, BOTH, before=results.read(uri))
    before = run.recorder.progress.front
    assert again.recorder.progress.front.hypervolume == before.hypervolume
    assert again.recorder.progress.front.reference == before.reference == {"valid_accuracy": 0.1, "latency": 9.0}
    again.trial(7, {"epoch": 3, "valid_accuracy": 0.95, "latency": 2.0}, name="u")
    again.close()
    assert results.read_front(uri)["trial_id"].to_pylist() == ["u7"]


def test_a_run_with_one_objective_has_no_front_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    run = Run(uri, tmp_path)
    run.trial(0, {"epoch": 3, "valid_accuracy": 0.5})
    run.close()
    with pytest.raises(ResultsError, match=r"has no front\.parquet; it is written when a search with several objectives ends"):
        results.read_front(uri)


def test_a_damaged_front_is_named(tmp_path: Path) -> None:
    (tmp_path / "front.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(ResultsError, match=r"front\.parquet is damaged"):
        results.read_front(str(tmp_path))


def test_the_volume_is_between_the_front_and_the_worst_of_the_first_ten() -> None:
    front = Front(Objective.parse(["valid_accuracy", "-latency"]))
    assert (front.hypervolume, front.reference) == (None, {})
    volumes = list[float]()
    for i in range(12):
        front.add({"trial_id": i}, Outcome("finished", 1, {"valid_accuracy": i / 10, "latency": 20.0 - i}))
        assert front.hypervolume is not None
        volumes.append(front.hypervolume)
        assert front.settled == (i >= 9)
    assert front.reference == {"valid_accuracy": 0.0, "latency": 20.0}
    assert volumes[-1] == pytest.approx(1.1 * 11)  # the last one is the best in both
    assert len(front.rows) == 1
    front.add({"trial_id": "bad"}, Outcome("finished", 1, {"valid_accuracy": -5.0, "latency": 90.0}))
    assert front.hypervolume == volumes[-1]


def test_of_four_objectives_there_is_a_front_and_no_volume() -> None:
    front = Front(Objective.parse(["a", "b", "c", "d"]))
    front.add({}, Outcome("finished", 1, dict.fromkeys("abcd", 1.0)))
    assert (len(front.rows), front.hypervolume) == (1, None)
