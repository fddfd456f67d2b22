"""A cluster that `ray start` has started, with a token: how a search joins it, and what its trials find there."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raynas import results

ROOT = Path(__file__).resolve().parents[1]
TRIAL = """
import os
from ray import tune
import beside
def measure(config):
    tune.report({"valid_accuracy": beside.VALUE, "seen": len(os.environ["CUDA_VISIBLE_DEVICES"]), "gpu": float(bool(os.environ["ON"]))})
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Path]:
    """A home with a token in it, as the first local cluster leaves one, and what Ray writes; the path is short."""
    with tempfile.TemporaryDirectory(prefix="rj-", dir="/tmp") as folder:
        (Path(folder) / ".ray").mkdir()
        (Path(folder) / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
        yield Path(folder)


def environment(machine: Path, **more: str) -> dict[str, str]:
    hidden = {"RAY_AUTH_MODE", "RAY_ADDRESS", "PYTHONPATH"}
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(machine), "RAY_TMPDIR": str(machine)} | more


@pytest.fixture(scope="module")
def address(machine: Path) -> Iterator[str]:
    """A head without room, and a node with a CPU and a logical GPU whose processes know nothing of the folder of the search."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    own = environment(machine, PYTHONPATH=str(ROOT), ON="a worker", RAY_AUTH_MODE="token")
    common = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    head = [*common, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
    node = [*common, f"--address=127.0.0.1:{port}", "--num-cpus=1", "--num-gpus=1"]
    started = []
    try:
        for command in (head, node):
            with (machine / "log").open("a") as log:
                started.append(subprocess.Popen(command, cwd=machine, env=own, stdout=log, stderr=log, start_new_session=True))
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and (machine / "log").read_text().count("Ray runtime started") < len(started):
                assert started[-1].poll() is None, (machine / "log").read_text()
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


def search(folder: Path, env: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raynas.search", "--searcher", "random", "--trials", "2", "--trainable", "mine:measure", *flags]
    env = env | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.slow
def test_it_is_joined_and_told_and_gets_the_users_module(machine: Path, address: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TRIAL)
    (tmp_path / "beside.py").write_text("VALUE = 0.5\n")
    done = search(tmp_path, environment(machine), "--out", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    port = address.partition(":")[2]
    assert done.stdout.splitlines()[1].startswith("Ray cluster at ")
    assert f":{port} (2 nodes, 1 CPU, 1 GPU), joined; 1 trial at once\n" in done.stdout
    assert "InvalidAuthToken" not in done.stderr
    used = json.loads((tmp_path / "run" / "config.json").read_text())["cluster"]
    assert (used["how"], used["nodes"], used["cpus"], used["gpus"]) == ("joined", 2, 1.0, 1.0)
    trials = results.read(str(tmp_path / "run")).trials.to_pylist()
    assert [(row["valid_accuracy"], row["seen"], row["gpu"]) for row in trials] == [(0.5, 0.0, 1.0)] * 2  # no GPU is seen


@pytest.mark.slow
def test_a_token_that_is_refused_is_told_in_a_line(machine: Path, address: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def measure(config): pass\n")
    for more, mend in (
        ({"RAY_AUTH_TOKEN": "another"}, "copy ~/.ray/auth_token of its head"),
        ({"RAY_AUTH_MODE": "disabled"}, "unset RAY_AUTH_MODE"),
    ):
        done = search(tmp_path, environment(machine, **more), "--address", address, "--out", "run")
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: the Ray cluster at {address} wants a token, and was shown none or another one; {mend}")
