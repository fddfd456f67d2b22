"""The commands of docs/clusters.md, word by word, on the node types of cluster/gpu.yaml behind a node provider of this machine.

The cluster file is cluster/gpu.yaml with `provider` and `auth` replaced and `docker` taken out (its variables are kept), idle workers let
go after seconds, and the check for a real GPU left out, since GPUs are logical here. Node types, mounts, set-up and start commands are
its own.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
import yaml
from logged_trial import LOG, read_log
from loopback_provider import NODE, Loopback, processes
from programs import needed

from raynas import results

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
RESOURCES = {
    "m5.xlarge": {"CPU": 4},
    "g5.xlarge": {"CPU": 4, "GPU": 1, "accelerator_type:A10G": 1},
}  # as read off AWS, see test_cluster_aws
SMALL = "--space nasbench201 --dataset digits --trainable logged_trial:SlowTrial --searcher random --concurrency 2 --max-failures 3"

pytestmark = pytest.mark.slow


def commands(beginning: str) -> list[str]:
    """The commands in docs/clusters.md that begin so."""
    section = (ROOT / "docs" / "clusters.md").read_text()
    blocks = "".join(re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE)).replace("\\\n", "")
    return [line.split("  #")[0].strip() for line in blocks.splitlines() if line.startswith(beginning)]


@dataclass(frozen=True)
class Cluster:
    """The cluster that the page's `ray up` makes, seen from the user's own machine."""

    folder: Path
    file: Path

    @property
    def provider(self) -> Loopback:
        return Loopback({"folder": str(self.folder)}, "raynas-gpu")

    def run(self, command: str, *flags: str, small: str = "") -> str:
        """Runs a command of the page with flags added, and with `small` added to the search in it; returns what it printed."""
        words = shlex.split(command.replace("cluster/gpu.yaml", str(self.file)).replace("s3://BUCKET", f"{self.folder}/bucket"))
        if small:
            words[-1] += f" {small}"
        environment = {"HOME": str(self.folder / "user"), "PYTHONPATH": str(TESTS), "RAY_USAGE_STATS_ENABLED": "0"}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run([*words, *flags], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def workers(self) -> list[str]:
        return self.provider.non_terminated_nodes({"ray-node-type": "worker"})

    def log(self) -> list[dict[str, Any]]:
        return read_log(self.folder / "log")

    def said(self) -> str:
        """What the search and the autoscaler say, for a test that fails."""
        shown = "tmux capture-pane -p -S -40; ray status 2>&1 | tail -30"
        logs = (self.folder / "r").glob("ray/session_latest/logs/monitor.log")
        return self.run(f"ray exec cluster/gpu.yaml {shlex.quote(shown)}") + "\n".join(path.read_text()[-3000:] for path in logs)


def wait(what: Callable[[], Any], cluster: Cluster, seconds: float = 240) -> Any:
    """The first true value of `what`; it fails, with what was said, where none comes."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, cluster.said()
        time.sleep(0.2)
    return value


def derived(folder: Path) -> dict[str, Any]:
    """cluster/gpu.yaml for this machine."""
    defaults = (Path(ray.autoscaler.__file__).parent / "aws" / "defaults.yaml").read_text()  # those of an external provider lack keys
    config: dict[str, Any] = yaml.safe_load(defaults) | yaml.safe_load((ROOT / "cluster" / "gpu.yaml").read_text())
    options = [option.removeprefix("--env ") for option in config.pop("docker")["run_options"] if option.startswith("--env ")]
    environment = dict(option.split("=", 1) for option in options)
    environment |= {"RAY_TMPDIR": str(folder / "r"), "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment |= {LOG: str(folder / "log"), "PYTHONDONTWRITEBYTECODE": "1"}
    config["provider"] = {"type": "external", "module": "loopback_provider.Loopback", "folder": str(folder)}
    config["provider"] |= {"resources": RESOURCES, "environment": environment}
    config["auth"] = {"ssh_user": "nobody"}
    config["idle_timeout_minutes"] = 0.1
    config["worker_setup_commands"] = [command for command in config["worker_setup_commands"] if "torch.cuda" not in command]
    return config


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    needed("tmux", packages="tmux")  # in which the search outlives the terminal
    folder = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))  # short: sockets lie below it
    made = Cluster(folder, folder / "gpu.yaml")
    for name in ("user", "bucket", "r", "commands"):
        (folder / name).mkdir()
    for name in ("ray", "pip"):
        script = folder / "commands" / name
        script.write_text(f'#!/bin/sh\nexec {sys.executable} {TESTS}/loopback_commands.py "$0" "$@"\n')
        script.chmod(0o755)
    made.file.write_text(yaml.safe_dump(derived(folder)))
    try:
        yield made
    finally:
        for node in made.provider.non_terminated_nodes({}):
            made.provider.terminate_node(node)
        shutil.rmtree(folder, ignore_errors=True)


def test_up(cluster: Cluster) -> None:
    """`ray up` makes the head: mounts, set-up (of which one step fails at first), Ray with a token."""
    (token,) = commands("ray get-auth-token")
    cluster.run(token)
    (up,) = commands("ray up")
    cluster.run(up, "-y", "--no-config-cache")
    (head,) = cluster.provider.non_terminated_nodes({})
    home = cluster.folder / head
    assert (cluster.folder / "pip-failed").exists()
    assert (home / "checkout" / "pyproject.toml").is_file()
    assert not (home / "checkout" / ".git").exists()
    assert (home / ".ray" / "auth_token").read_text() == (cluster.folder / "user" / ".ray" / "auth_token").read_text()
    printed = cluster.run("ray exec cluster/gpu.yaml 'python -c \"import raynas; print(raynas.__file__)\"'")
    assert f"{home}/checkout/raynas/__init__.py" in printed


def test_a_search_outlives_the_terminal_and_a_node(cluster: Cluster) -> None:
    """The page's search, started by `ray exec --tmux`, gets two GPU nodes, loses one in the midst of an epoch, and misses nothing."""
    (search,) = commands("ray exec cluster/gpu.yaml --tmux")
    cluster.run(search, small=f"{SMALL} --trials 3 --max-epochs 5")
    lost = wait(lambda: [line for line in cluster.log() if line["epoch"] == 2], cluster)[0]
    assert 1 <= len(cluster.workers()) <= 3
    nodes = cluster.provider
    nodes.terminate_node(next(name for name in cluster.workers() if nodes.internal_ip(name) == lost["node"]))
    run = str(cluster.folder / "bucket" / "first")
    rows = wait(lambda: _ended(run, 3), cluster)
    assert rows["status"].to_pylist() == ["finished"] * 3
    assert len(set(rows["arch_id"].to_pylist())) == 3
    lines = [line for line in cluster.log() if line["arch"] == lost["arch"]]
    before, after = ([line for line in lines if (line["node"] == lost["node"]) is here] for here in (True, False))
    assert after[0]["epoch"] in (before[-1]["epoch"], before[-1]["epoch"] + 1)  # from its checkpoint: whatever was written before the end
    assert [line["epoch"] for line in after] == list(range(after[0]["epoch"], 6))
    weights = {line["epoch"]: line["weights"] for line in before}
    assert all(weights.get(line["epoch"], line["weights"]) == line["weights"] for line in after)
    others = [(line["arch"], line["epoch"]) for line in cluster.log() if line["arch"] != lost["arch"]]
    assert len(others) == len(set(others)) == 10  # nothing else was done twice


def _ended(run: str, trials: int) -> Any:
    """The rows of a run when it is complete."""
    if not (Path(run) / "best.json").exists():
        return None
    rows = results.read(run).trials
    return rows if len(rows) == trials else None


def test_workers_go_when_idle(cluster: Cluster) -> None:
    """From N nodes to none but the head, on which no trial ever ran."""
    wait(lambda: not cluster.workers(), cluster)
    (status,) = [command for command in commands("ray exec") if "ray status" in command]
    wait(lambda: re.search(r"Idle:\s+1 head\s+Pending:\s+\(no pending nodes\)", cluster.run(status)), cluster)
    (head,) = cluster.provider.non_terminated_nodes({})
    assert cluster.provider.internal_ip(head) not in {line["node"] for line in cluster.log()}
    assert {line["node"] for line in cluster.log()} <= {
        node["ip"] for node in json.loads((cluster.folder / "nodes.json").read_text()).values()
    }


def accepted(cluster: Cluster, command: str, small: str) -> str:
    """What a submission prints; Ray refuses one, to be repeated, as long as no agent of the head has come up or back."""
    for _ in range(20):
        try:
            return cluster.run(command, small=small)
        except AssertionError as error:
            if "No available agent to submit job" not in str(error):
                raise
            time.sleep(2)
    raise AssertionError("no agent has come up")


def test_a_job_outlives_the_terminal_too_and_stops_in_order(cluster: Cluster) -> None:
    """The page's `ray job submit`, which gets a node again, and `ray job stop`, after which everything is written."""
    (submit,) = [command for command in commands("ray exec") if "ray job submit" in command]
    before = len(cluster.log())
    job = re.findall(r"'(raysubmit_\w+)' submitted", accepted(cluster, submit, small=f"{SMALL} --trials 1 --max-epochs 100"))[0]
    wait(lambda: len(cluster.log()) > before + 1, cluster)
    (listing,) = [command for command in commands("ray exec") if "ray job list" in command]
    assert job in cluster.run(listing)
    cluster.run(f"ray exec cluster/gpu.yaml 'ray job stop {job}'")
    run = f"{cluster.folder}/bucket/second"
    assert f"--resume {run}" in cluster.run(f"ray exec cluster/gpu.yaml 'ray job logs {job}'")
    tables = results.read(run)
    assert (len(tables.trials), len(tables.started)) == (0, 1)
    assert len(tables.reports) >= 1
    assert (Path(run) / "reports.parquet").exists()  # the run was closed


def test_down(cluster: Cluster) -> None:
    """`ray down` leaves neither a node nor a process."""
    (down,) = commands("ray down")
    everyone = [f"{cluster.folder}/{name}" for name in json.loads((cluster.folder / "nodes.json").read_text())]
    cluster.run(down, "-y")
    assert cluster.provider.non_terminated_nodes({}) == []
    wait(lambda: not any(processes(NODE, home) for home in everyone), cluster)
