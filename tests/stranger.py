"""Run folders as a stranger may have made them, and Ray left out of what reads them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from run_rows import report, started, trial

from raynas.run import session as session_module
from raynas.run.connect import Cluster
from raynas.run.session import Session
from raynas.run.store import RunStore
from raynas.run.supernets import Supernets

ARCH = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
OTHER = ARCH.replace("skip_connect", "none")
CONFIG = {"space": "nasbench201", "searcher": "evolution", "trials": 5, "trainable_options": {"seconds_per_report": 0.1}}
SAVED = {"path": "tune/s1/t1/checkpoint_1", "training_iteration": 3, "time_total_s": 1.5}


def described(text: str) -> str:
    return json.dumps({"space": "nasbench201", "id": text, "arch": text})


def write_run(folder: Path, config: dict[str, Any] | None = None, **row: Any) -> str:
    """A run with a trial that has ended and one under way, whose row is changed."""
    store = RunStore(str(folder))
    store.add_started(started(1, **{"arch_id": OTHER, "arch": described(OTHER)} | row))
    store.add_report(report(0, 1))
    store.add_trial(trial(0, arch_id=ARCH, arch=described(ARCH), epochs=200))
    store.flush()
    (folder / "config.json").write_text(json.dumps({"config": CONFIG | (config or {})}))
    return str(folder)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that came as far as running trials; they are interrupted there."""
    reached: list[Session] = []

    @contextmanager
    def cluster(address: str | None, modules: Any) -> Iterator[Cluster]:
        yield Cluster("started", "nowhere", 1, 2.0, 0.0)

    def tune(self: Any, *arguments: Any) -> None:
        reached.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(session_module, "cluster", cluster)
    monkeypatch.setattr(session_module, "slots", lambda *arguments: 1)
    monkeypatch.setattr(session_module.ray, "nodes", list)
    monkeypatch.setattr(Session, "_tune", tune)
    monkeypatch.setattr(Supernets, "_tune", tune)
    return reached
