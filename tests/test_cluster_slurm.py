"""cluster/slurm.sbatch, run by bash as SLURM would, with stand-ins of SLURM's commands: two nodes on loopback, a real Ray on each."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from logged_trial import LOG, read_log
from loopback_provider import end, processes

from raynas import results

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
BATCH = ROOT / "cluster" / "slurm.sbatch"
SEARCH = "--space nasbench201 --dataset digits --trainable logged_trial:SlowTrial --searcher random --gpus-per-trial 1 --cpus-per-trial 1"

pytestmark = pytest.mark.slow


def test_directives() -> None:
    """One Ray a node with GPUs; SLURM tells the script of the end early enough, and may start it anew."""
    lines = [line.split("#")[1].removeprefix("SBATCH ").strip() for line in BATCH.read_text().splitlines() if line.startswith("#SBATCH")]
    given = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    assert given["ntasks-per-node"] == "1"
    assert given["gres"] == "gpu:1"
    assert given["signal"].startswith("B:USR1@")
    assert int(given["signal"].partition("@")[2]) >= 60
    assert "requeue" in given
    assert given["open-mode"] == "append"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))  # short: sockets lie below it
    (made / "commands").mkdir()
    for name in ("srun", "scontrol", "hostname"):
        script = made / "commands" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {TESTS}/slurm_commands.py "$0" "$@"\n')
        script.chmod(0o755)
    yield made
    end("SLURM_TOLD", f"{made}/told")
    shutil.rmtree(made, ignore_errors=True)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts the batch script on the first of two nodes."""
    environment = os.environ | {
        "PATH": f"{folder}/commands:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{TESTS}",
        "RAY_TMPDIR": str(folder / "r"),
        "RUN": str(folder / "run"),
        LOG: str(folder / "log"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "SLURMD_NODENAME": "node1",
        "SLURM_TOLD": str(folder / "told"),
    }
    words = ["bash", str(BATCH), *SEARCH.split(), *arguments]
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_told_that_its_time_is_up_a_job_ends_in_order_and_goes_on_when_started_anew(folder: Path) -> None:
    first = start(folder, "--trials", "3", "--max-epochs", "4")
    limit = time.monotonic() + 120
    while not {"127.0.0.2", "127.0.0.3"} <= {line["node"] for line in read_log(folder / "log") if line["epoch"] >= 2}:
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.2)
    (private,) = folder.glob(".raynas-*")
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "token").stat().st_mode & 0o777 == 0o600
    first.send_signal(signal.SIGUSR1)
    said = first.communicate(timeout=100)[0]
    assert first.returncode == 143, said
    assert "--resume" in said
    assert (folder / "told").read_text().split() == ["requeue", str(os.getpid())]
    assert not processes("SLURM_TOLD", f"{folder}/told")
    assert not private.exists()

    second = start(folder, "--trials", "3", "--max-epochs", "4")
    said = second.communicate(timeout=200)[0]
    assert second.returncode == 0, said
    rows = results.read(str(folder / "run")).trials
    assert rows["status"].to_pylist() == ["finished"] * 3
    assert len(set(rows["arch_id"].to_pylist())) == 3
    done = [(line["arch"], line["epoch"]) for line in read_log(folder / "log")]
    assert len(done) <= 3 * 4 + 2  # each of the two trials under way may have lost the epoch that it was in, no more
    assert not processes("SLURM_TOLD", f"{folder}/told")
