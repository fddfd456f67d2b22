"""How much memory trials took, as their rows tell; in processes that are reused, too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import tune

from raynas.run import memory
from raynas.run.memory import measured

MIB = 2**20
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")


class Hungry(tune.Trainable):  # type: ignore[misc]  # ray has no types
    """Takes `mib` for a moment, and gives its last report again and again."""

    def setup(self, config: dict[str, Any]) -> None:
        self.mib, self.last = config["mib"], config.get("last", {})

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        np.ones(self.mib * MIB, np.uint8)
        self.last["done"] = False
        return self.last  # type: ignore[no-any-return]


def peaks(*trials: dict[str, Any]) -> list[float | None]:
    """Of trials that run one after the other in this process, each for two reports."""
    trial, found = measured(Hungry)(config=trials[0]), []
    for config in trials:
        assert trial.reset(dict(config))
        trial.train()
        report = trial.train()
        assert "peak_gpu_memory" not in report
        found.append(report.get("peak_memory"))
    return found


def test_a_process_that_is_reused_does_not_pass_on_its_peak() -> None:
    small, large, after = peaks({"mib": 1}, {"mib": 400}, {"mib": 1})
    assert small is not None
    assert large is not None
    assert after is not None
    assert 300 * MIB < large - small < 500 * MIB
    assert abs(after - small) < 200 * MIB


def test_where_the_system_cannot_set_it_back_only_a_higher_peak_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "none" / "clear_refs")
    peaks({"mib": 300})
    first, after = peaks({"mib": 600}, {"mib": 1})
    assert first is not None
    assert after is None
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none" / "status")
    assert peaks({"mib": 1}) == [None]


def test_what_a_trial_says_itself_counts() -> None:
    assert peaks({"mib": 1, "last": {"peak_memory": 7.0}}) == [7.0]
