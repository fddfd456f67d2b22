"""Examples that are whole searches: cluster.py, of docs/extending.md, on a cluster that `ray start` has started, without a token (one
with is in test_joining.py); and choice_space.py, of docs/choice-spaces.md, on a folder of images, with the commands of that page.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raynas import results

ROOT = Path(__file__).resolve().parents[1]


def environment(home: Path) -> dict[str, str]:
    hidden = {"RAY_AUTH_MODE", "RAY_ADDRESS"}
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"HOME": str(home), "RAY_TMPDIR": str(home), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
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


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "mode"), [(False, {}), (True, {"RAY_AUTH_MODE": "disabled"})])
def test_a_token_left_behind_keeps_no_search_from_a_cluster_without(
    flag: bool, mode: dict[str, str], cluster: tuple[str, Path], tmp_path: Path
) -> None:
    address, home = cluster
    (home / ".ray").mkdir(exist_ok=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    command = [sys.executable, "-m", "raynas.search", "--searcher", "random", "--trials", "2", *(["--address", address] if flag else [])]
    done = subprocess.run(command, cwd=tmp_path, env=environment(home) | mode, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f":{address.partition(':')[2]} (1 node, 2 CPUs), joined; " in done.stdout
    assert done.stderr == ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example, and a folder of small images of two classes beside it."""
    shutil.copy(ROOT / "examples" / "choice_space.py", tmp_path)
    rng = np.random.default_rng(0)
    for label, brightness in (("dark", 0), ("light", 100)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(20):
            image = brightness + rng.integers(0, 128, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / label / f"{i}.png")
    return tmp_path


@pytest.mark.slow
def test_a_search_in_a_space_of_choices(folder: Path) -> None:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    assert "'blocks': [{'width': " in run("choice_space.py", "photos", "run")
    rows = results.read(str(folder / "run")).trials.to_pylist()
    assert len({row["arch_id"] for row in rows}) == 6
    assert {row["status"] for row in rows} == {"finished"}

    page = (ROOT / "docs" / "choice-spaces.md").read_text(encoding="utf-8")
    search, train = (shlex.split(line)[1:] for line in page.splitlines() if line.startswith("python -m ") and "runs/photos" in line)
    assert "blocks[0]: width" in run(*search)
    assert "5/5 trials" in run("-m", "raynas.search", "--resume", "runs/photos", "--trials", "5")
    rows = results.read(str(folder / "runs/photos")).trials.to_pylist()
    assert len({row["arch_id"] for row in rows}) == 5
    assert all(row["parameters"] <= 20000 for row in rows)
    run(*train)
    assert (folder / "trained" / "model.pt").exists()
    run("-m", "raynas.report", "runs/photos")
