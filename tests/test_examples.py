"""examples/cluster.py, which docs/extending.md shows, searches on a cluster that `ray start` has started, and goes on there."""

import os
import re
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


def environment(home: Path) -> dict[str, str]:
    hidden = {"RAY_AUTH_MODE", "RAY_ADDRESS"}
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(ROOT)}


@pytest.fixture
def cluster() -> Iterator[tuple[str, Path]]:
    """The address of a cluster of one node with two CPUs, and the home of its user, whose path is short."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="re-", dir="/tmp") as folder:
        home = Path(folder)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--head", f"--port={port}", "--num-cpus=2"]
        with (home / "log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--include-dashboard=false"], cwd=home, env=environment(home), stdout=log, stderr=log, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and "Ray runtime started" not in (home / "log").read_text():
                assert process.poll() is None, (home / "log").read_text()
                time.sleep(0.2)
            yield f"127.0.0.1:{port}", home
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@pytest.mark.slow
def test_a_search_on_a_cluster_that_runs_already(cluster: tuple[str, Path], tmp_path: Path) -> None:
    address, home = cluster
    run = tmp_path / "run"
    for more in ([], ["resume"]):
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "cluster.py"), address, str(run), *more],
            cwd=tmp_path,
            env=environment(home),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(re.findall(r"nor_conv|skip|pool|none", done.stdout)) >= 3, done.stdout
    assert results.read(str(run)).trials.num_rows == 4
