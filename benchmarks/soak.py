"""Kills what a search stands on, again and again, and looks whether anything was lost: `python benchmarks/soak.py --minutes 15`.

A Ray cluster of several raylets runs on this machine, and an S3 server (moto's) behind a gate that can refuse or hold every connection.
A search with ASHA trains (it sleeps) there. Every ten seconds one of these happens, each once in every five, in an order drawn by the seed:

    driver   kill -9 of the search, which is then resumed
    actor    kill -9 of the process of a trial
    node     kill -9 of a raylet; another one joins
    refuse   the storage refuses for some seconds
    hang     the storage does not answer for some seconds

At the end the search is stopped by SIGTERM, resumed without disturbance for some more trials, and the folder is judged: the asked number of
different architectures, no row lost or changed that was complete at any look in between, no failed trial, no process left. It takes
`pip install 'moto[server]' boto3` and exits 1 where anything is wrong.
"""

import argparse
import json
import os
import random
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from ray.tune import Trainable

MARK = "RAYNAS_SOAK"  # in the environment of every process that belongs to a soak
EPOCHS = 9
AGAIN = 75  # exit code of a search that ended as the storage was gone


class SoakTrial(Trainable):  # type: ignore[misc]  # ray has no types
    """An epoch is a sleep; the accuracy follows from the architecture and the epochs that were run, so that a wrong row shows."""

    def setup(self, config: dict[str, Any]) -> None:
        self._arch, self._epoch, self._seconds = config["arch"]["id"], 0, config.get("seconds", 1.5)

    def step(self) -> dict[str, Any]:
        time.sleep(self._seconds)
        self._epoch += 1
        return {"epoch": self._epoch, "valid_accuracy": accuracy(self._arch, self._epoch), "done": self._epoch == EPOCHS}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "epoch.json").write_text(json.dumps(self._epoch))

    def load_checkpoint(self, checkpoint: str) -> None:
        self._epoch = json.loads((Path(checkpoint) / "epoch.json").read_text())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True


def accuracy(arch: str, epoch: int) -> float:
    """Anything that only this architecture has after so many epochs."""
    return random.Random(f"{arch} {epoch}").random()


class Gate(threading.Thread):
    """Passes connections on to a server, or refuses or holds them. `state`: open, refuse or hang."""

    def __init__(self, server: int) -> None:
        super().__init__(daemon=True)
        self.server, self.state = server, "open"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            inner, _ = self._listener.accept()
            if self.state == "refuse":
                inner.close()
                continue
            threading.Thread(target=self._pass_on, args=(inner,), daemon=True).start()

    def _pass_on(self, inner: socket.socket) -> None:
        with inner, selectors.DefaultSelector() as ready:
            while self.state == "hang":
                time.sleep(0.1)
            try:
                with socket.create_connection(("127.0.0.1", self.server)) as outer:
                    ready.register(inner, selectors.EVENT_READ, outer)
                    ready.register(outer, selectors.EVENT_READ, inner)
                    while True:
                        for key, _ in ready.select(0.2):
                            data = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]  # a socket
                            if not data:
                                return
                            key.data.sendall(data)
                        while self.state == "hang":
                            time.sleep(0.1)
                        if self.state == "refuse":
                            return
            except OSError:  # one side has gone, as its process was killed
                return


class Soak:
    """One soak: the cluster, the storage, the search, and what was seen of its rows."""

    def __init__(self, seed: int, nodes: int, storage: str) -> None:
        os.environ[MARK] = str(os.getpid())
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here = str(Path(__file__).resolve().parent)  # where every node finds SoakTrial
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
        self.folder = Path(tempfile.mkdtemp(prefix="soak-"))
        self.random, self.nodes = random.Random(seed), nodes
        self.coming: list[str] = []  # what happens next, from the end
        self.done: Counter[str] = Counter()  # what has happened
        self.seen: dict[str, dict[str, Any]] = {}  # rows that were complete, by trial id
        self.wrong: list[str] = []
        self.log = (self.folder / "search.log").open("ab")
        self.gate: Gate | None = None
        self.uri = str(self.folder / "run") if storage == "local" else self._s3()
        self._cluster()
        self.driver: subprocess.Popen[bytes] | None = None

    def _s3(self) -> str:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
        self.server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_EC2_METADATA_DISABLED": "true"}
        self.gate = Gate(port)
        self.gate.start()
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        for _ in range(100):
            try:
                client.create_bucket(Bucket="soak")
                break
            except Exception:  # botocore has many; the server is not up yet
                time.sleep(0.2)
        return f"s3://soak/run?scheme=http&endpoint_override=127.0.0.1:{self.gate.port}"

    def _cluster(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.workers = [self.cluster.add_node(num_cpus=1) for _ in range(self.nodes)]

    def search(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Starts the command."""
        command = [sys.executable, "-m", "raynas.search", "--address", self.cluster.address, *arguments]
        return subprocess.Popen(command, cwd=self.folder, stdout=self.log, stderr=self.log)

    def begin(self) -> None:
        options = ["--space", "nasbench201", "--trainable", "soak:SoakTrial", "--max-epochs", str(EPOCHS), "--scheduler", "asha"]
        options += ["--trials", "10000", "--concurrency", str(self.nodes), "--out", self.uri, "--max-failures", "20"]
        self.driver = self.search(*options)
        from raynas import storage

        while not storage.exists(self.uri, "config.json"):  # before that there is nothing to resume
            if self.driver.poll() is not None:
                raise SystemExit(f"the search did not begin: {(self.folder / 'search.log').read_text()}")
            time.sleep(0.2)

    def disturb(self) -> None:
        """Lets one thing happen."""
        if not self.coming:
            self.coming = ["driver", "actor", "node"] + ([] if self.gate is None else ["refuse", "hang"])
            self.random.shuffle(self.coming)
        kind = self.coming.pop()
        self.done[kind] += 1
        print(f"{time.strftime('%H:%M:%S')} {kind}", flush=True)
        getattr(self, f"_{kind}")()

    def revive(self) -> None:
        """Goes on where the search has ended by itself, as it may only where it began while there was no storage."""
        assert self.driver is not None
        code = self.driver.poll()
        if code is not None:
            self.done[f"ended with {code}"] += 1
            self._expect(code == AGAIN, f"the search ended by itself with exit code {code}")
            self.driver = self.search("--resume", self.uri)

    def _driver(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        self.driver.wait()
        self.driver = self.search("--resume", self.uri)

    def _actor(self) -> None:
        actors = [process for process in belonging() if process.name().startswith("ray::SoakTrial")]
        if actors:
            self.random.choice(actors).kill()

    def _node(self) -> None:
        node = self.workers.pop(self.random.randrange(len(self.workers)))
        self.cluster.remove_node(node, allow_graceful=False)
        self.workers.append(self.cluster.add_node(num_cpus=1))

    def _refuse(self) -> None:
        self._gate_for("refuse")

    def _hang(self) -> None:
        self._gate_for("hang")

    def _gate_for(self, state: str) -> None:
        assert self.gate is not None
        self.gate.state = state
        time.sleep(self.random.uniform(2, 20))
        self.gate.state = "open"

    def look(self) -> None:
        """Reads the folder as anybody may; no row that was complete may be gone or different."""
        from raynas import results
        from raynas.errors import RaynasError

        try:
            rows = {row["trial_id"]: row for row in results.read(self.uri).trials.to_pylist()}
        except RaynasError as error:
            if not self.seen:  # the search has not begun
                return
            self.wrong.append(f"the folder cannot be read: {error}")
            return
        for name, row in self.seen.items():
            if rows.get(name) != row:
                self.wrong.append(f"the row of trial {name} was {row} and is {rows.get(name)}")
        self.seen |= rows

    def finish(self, more: int) -> None:
        """Stops the search as a batch system does, lets it end undisturbed, and judges the folder."""
        assert self.driver is not None
        self.revive()
        time.sleep(10)  # it may have begun a moment ago
        self.look()
        code = self._stopped()
        self._expect(code == 143, f"SIGTERM ended the search with exit code {code}, not 143")
        trials = len(self.seen) + more
        driver = self.search("--resume", self.uri, "--trials", str(trials))
        try:
            code = driver.wait(timeout=600)
        except subprocess.TimeoutExpired:
            driver.kill()
            code = -9
        self._expect(code == 0, f"the last session ended with exit code {code}, not 0")
        self.look()
        rows = list(self.seen.values())
        self._expect(len(rows) == trials, f"{len(rows)} rows instead of {trials}")
        self._expect(len({row["arch_id"] for row in rows}) == len(rows), "an architecture was evaluated twice")
        for row in rows:
            if row["status"] == "failed":
                self.wrong.append(f"trial {row['trial_id']} failed: {row['error']}")
            elif row["valid_accuracy"] != accuracy(row["arch_id"], row["epochs"]):
                self.wrong.append(f"trial {row['trial_id']} has the wrong accuracy")

    def _stopped(self) -> int:
        """The exit code after SIGTERM."""
        assert self.driver is not None
        for _ in range(2):
            self.driver.send_signal(signal.SIGTERM)
            try:
                return self.driver.wait(timeout=60)
            except subprocess.TimeoutExpired:
                continue
        self.driver.kill()
        return -9

    def _expect(self, right: bool, otherwise: str) -> None:
        if not right:
            self.wrong.append(otherwise)

    def close(self) -> None:
        """Ends cluster and storage; what is left then is an orphan."""
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        self.cluster.shutdown()
        if self.gate is not None:
            self.server.kill()
            self.server.wait()
        deadline = time.monotonic() + 20
        while (left := belonging()) and time.monotonic() < deadline:
            time.sleep(0.5)
        for process in left:
            self.wrong.append(f"process {process.pid} is left: {' '.join(process.cmdline())[:100]}")
            process.kill()


def belonging() -> list[psutil.Process]:
    """The processes of this soak, but for itself."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(os.getpid()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # it went, or it is not ours
            continue
    return found


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--minutes", type=float, default=15.0)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--nodes", type=int, default=3, help="raylets that run trials")
    made.add_argument("--every", type=float, default=10.0, metavar="SECONDS", help="from one disturbance to the next")
    made.add_argument("--storage", choices=("s3", "local"), default="s3")
    options = made.parse_args()
    soak = Soak(options.seed, options.nodes, options.storage)
    print(f"{soak.folder}: what the search prints is in search.log", flush=True)
    try:
        soak.begin()
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end:
            time.sleep(options.every)
            soak.look()
            soak.revive()
            soak.disturb()
        soak.finish(more=2 * options.nodes)
    finally:
        soak.close()
    statuses = Counter(row["status"] for row in soak.seen.values())
    retries = sum(row["retries"] or 0 for row in soak.seen.values())
    print(f"disturbances: {dict(soak.done)}; trials: {dict(statuses)}, retries: {retries}")
    for line in soak.wrong:
        print(f"WRONG: {line}")
    print("something was lost" if soak.wrong else "nothing was lost")
    if not soak.wrong:
        shutil.rmtree(soak.folder)
    return 1 if soak.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
