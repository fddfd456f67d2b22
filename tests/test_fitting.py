"""Where a method is asked: in a process of its own, which is kept, replaced, given up, and gone with the search."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from searcher_contract import ToySpace

from raynas.arch import Arch
from raynas.history import History
from raynas.spaces import SearchSpace
from searchers import Bananas, Engine, FunctionMethod, Method, Proposal
from searchers.fitting import Beside, Where

QUICK: dict[str, Any] = {"encoding": "path", "pool": 40, "predictor_options": {"members": 2, "layers": 1, "width": 8, "epochs": 3}}


def asked(search: Engine) -> Arch:
    suggestion = search.ask()
    assert suggestion is not None
    return suggestion.arch


def of_process(space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
    """Tells by its memory in which process it ran, what it knew and was asked for, and how nice it was; prints, which must not disturb."""
    print("a method may print")
    words = [arch for arch in space.enumerate() or () if arch.id not in history]
    return Proposal(words[:count], memory=[os.getpid(), sorted(history.observed), sorted(history.pending), count, os.nice(0)])


def failing(space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
    raise RuntimeError("the model is broken")


@dataclass(frozen=True, kw_only=True)
class Learning(FunctionMethod):
    learns: ClassVar[bool] = True


def warm(space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
    """Tells by its memory what was called in this process."""
    return Proposal([space.sample(rng)], memory=list(CALLED))


CALLED: list[str] = []


@dataclass(frozen=True, kw_only=True)
class Warming(Learning):
    def warm_up(self, space: SearchSpace) -> None:
        CALLED.append(f"warm_up for {space.name}")


@pytest.fixture
def beside() -> Iterator[Any]:
    made: list[Engine] = []

    def make(method: Method, **options: Any) -> Engine:
        made.append(Engine(method, ToySpace(4), **{"fitting": "process"} | options))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def run(search: Engine, trials: int) -> None:
    for _ in range(trials):
        search.tell(asked(search), 0.5)
        search.wait()


def test_a_process_fits_and_is_kept(beside: Any) -> None:
    search = beside(Learning(function=of_process, num_initial=2, refit_every=2, refit_share=1.0))
    run(search, 2)
    pid, observed, pending, count, nice = search.history.memory
    assert nice > os.nice(0)  # the control loop comes first
    assert count == 8  # four batches
    assert pid != os.getpid()
    assert observed == sorted(search.history.observed)
    assert pending == []
    live = asked(search)
    run(search, 4)
    again, observed, pending, _, _ = search.history.memory
    assert again == pid  # kept, and sent what is new
    assert len(observed) == 6
    assert pending == [live.id]
    search.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    run(search, 2)  # it may go on
    assert search.history.memory[0] not in (pid, os.getpid())


def test_a_process_is_warmed_up(beside: Any) -> None:
    search = beside(Warming(function=warm, num_initial=2, refit_every=2, refit_share=1.0))
    run(search, 2)
    assert search.history.memory == ["warm_up for toy"]
    assert CALLED == []  # not here


def test_there_are_proposals_for_all_workers(beside: Any) -> None:
    search = beside(Learning(function=of_process, num_initial=2, refit_every=2, refit_share=1.0))
    workers = [asked(search) for _ in range(20)]
    for arch in workers[:3]:
        search.tell(arch, 0.5)
        search.wait()
    assert search.history.memory[3] == 17  # trials that were under way; each worker may ask before the next fit is ready


@pytest.mark.parametrize(("where", "other"), [("process", "thread"), ("apart", "inline")])
def test_a_process_proposes_the_same(where: Where, other: Where, beside: Any) -> None:
    found = []
    method = Bananas(num_initial=4, refit_every=2, **QUICK)
    for search in (beside(method, seed=3, fitting=where), Engine(method, ToySpace(4), seed=3, fitting=other)):
        ids = []
        for _ in range(12):
            ids.append(asked(search).id)
            search.tell(ids[-1], ids[-1].count("a") / 4)
            search.wait()
        found.append(ids)
    assert found[0] == found[1]


def test_what_waits_for_its_process_is_told_of_errors(beside: Any, caplog: pytest.LogCaptureFixture) -> None:
    search = beside(Learning(function=failing, num_initial=2, refit_every=2, refit_share=1.0), fitting="apart")
    for _ in range(4):
        search.tell(asked(search), 0.5)
    assert search.problem == "MethodError: RuntimeError: the model is broken"
    assert len(search.history.observed) == 4


def test_a_lost_process_is_replaced(beside: Any, caplog: pytest.LogCaptureFixture) -> None:
    search = beside(Learning(function=of_process, num_initial=2, refit_every=2, refit_share=1.0))
    run(search, 2)
    pids = [search.history.memory[0]]
    for _ in range(2):
        os.kill(pids[-1], signal.SIGKILL)
        run(search, 4)
        pids.append(search.history.memory[0])
    assert len(set(pids)) == 3
    assert "failed to propose" not in caplog.text
    assert len(search.history.observed) == 10


def test_an_error_in_the_process_is_told(beside: Any, caplog: pytest.LogCaptureFixture) -> None:
    search = beside(Learning(function=failing, num_initial=2, refit_every=2, refit_share=1.0))
    with caplog.at_level(logging.ERROR):
        run(search, 4)
    assert "Learning failed to propose; random architectures are suggested instead" in caplog.text
    assert "the model is broken" in caplog.text
    assert len(search.history.observed) == 4


def test_what_cannot_travel_is_fitted_in_a_thread(beside: Any, caplog: pytest.LogCaptureFixture) -> None:
    names = []

    def local(space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
        names.append(threading.current_thread().name)
        return of_process(space, history, rng, count)

    search = beside(Learning(function=local, num_initial=2, refit_every=2, refit_share=1.0))
    with caplog.at_level(logging.WARNING):
        run(search, 6)
    assert search.history.memory[0] == os.getpid()
    assert set(names) == {"raynas-fit_0"}
    assert caplog.text.count("models are fitted in a thread") == 1


def test_the_main_script_is_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        """
print("begins")
from dataclasses import dataclass
from searchers import Bananas, Engine

@dataclass(frozen=True, kw_only=True)
class Mine(Bananas):  # of __main__, so no other process can load it
    pass

for method in (Bananas(pool=40), Mine(pool=40)):
    search = Engine(method, "nasbench201", fitting="process")
    for _ in range(14):
        search.tell(search.ask().arch, 0.5)
        search.wait()
    print(type(method).__name__, len(search.refits) > 0)
"""
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begins", "Bananas True", "Mine True"]
    assert done.stderr.count("\n") == 1, done.stderr  # that Mine is fitted in a thread


def test_a_closed_process_gives_up_its_fit() -> None:
    waiting = Beside(Learning(function=slow), ToySpace(4), "process")
    future = waiting.submit(History(), np.random.default_rng(0), 3)
    while waiting._process is None:
        time.sleep(0.01)
    began = time.monotonic()
    waiting.close()
    assert future.exception(timeout=30) is not None
    assert time.monotonic() - began < 30  # not the minutes that the fit would take


def slow(space: SearchSpace, history: History, rng: np.random.Generator, count: int) -> Proposal:
    time.sleep(600)
    return Proposal(())


def test_nothing_is_left_of_a_search_that_is_killed(tmp_path: Path) -> None:
    code = """
import os, signal, time
from searchers import Engine, FunctionMethod
from test_fitting import Learning, ToySpace, of_process
search = Engine(Learning(function=of_process, num_initial=2), ToySpace(4), fitting="process")
for _ in range(4):
    search.tell(search.ask().arch, 0.5)
    search.wait()
print(search.history.memory[0], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert "Traceback" not in done.stderr
    process, deadline = Path("/proc") / done.stdout.splitlines()[-1], time.monotonic() + 30
    while process.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not process.exists()


def test_an_engine_travels_without_its_process(beside: Any) -> None:
    search = beside(Bananas(num_initial=2, refit_every=2, **QUICK))
    run(search, 4)
    copied = pickle.loads(pickle.dumps(search))
    assert copied.to_json() == search.to_json()
    run(copied, 2)
    copied.close()
