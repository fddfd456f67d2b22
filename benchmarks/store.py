"""What the recording of a search costs its control loop: trials and reports as Tune sends them, without Ray, into a run folder.

    python benchmarks/store.py [--trials 10000] [--reports 50] [--rate 2000] [--s3] [--out FOLDER]

Each report comes with a checkpoint (a note of one; no file), as from trials that train. Events come at `--rate` a second, 32 trials at
a time, so that the writer's thread has the share of the interpreter that it has in a search. `--s3` writes to a server that runs here
(moto), in a process of its own. Prints how long the recorder held the control loop at most and in 99.9 % of its calls, how long the
thread worked, and how many files it wrote.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from raynas import results
from raynas.outcome import Objective
from raynas.run.recorder import Recorder
from raynas.run.session import still_heap
from raynas.spaces import make_space

AT_ONCE = 32  # trials under way
_SERVER = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"


class Searcher:
    """In place of one."""

    refits: tuple[Any, ...] = ()
    memory = None

    def suggested(self, trial_id: str) -> None:
        """As of a trial of an earlier session."""

    def recommend(self) -> None:
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learns nothing."""


class Loop:
    """The control loop of Tune, as far as a recorder sees it; `held` are the seconds of each call and those computed in it, by turns."""

    def __init__(self, recorder: Recorder, root: str, rate: float) -> None:
        self.recorder, self.root, self.rate = recorder, root, rate
        self.held = array("d")  # no objects for the garbage collector
        self._due = time.perf_counter()

    def call(self, hook: Callable[..., None], *arguments: Any) -> None:
        begun, computed = time.perf_counter(), time.thread_time()
        hook(0, [], *arguments)
        self.held.extend((time.perf_counter() - begun, time.thread_time() - computed))

    def step(self, trial: Any, epoch: int) -> None:
        """A report of a trial, and its checkpoint."""
        result = {"epoch": epoch, "training_iteration": epoch, "time_total_s": float(epoch), "valid_accuracy": epoch / 100}
        trial.last_result = result | {"test_accuracy": None, "train_loss": 1.5, "train_seconds": 20.0 * epoch}
        self.call(self.recorder.on_trial_result, trial, trial.last_result)
        path = f"{self.root}/tune/session/{trial.trial_id}/checkpoint_{epoch:06}"
        self.call(self.recorder.on_checkpoint, trial, SimpleNamespace(path=path))
        self.call(self.recorder.on_step_end)
        self._due += 1 / self.rate
        time.sleep(max(0.0, self._due - time.perf_counter()))


def run(uri: str, trials: int, reports: int, rate: float) -> None:
    space, rng = make_space("nasbench201"), np.random.default_rng(0)
    recorder = Recorder(
        uri, Searcher(), objective=Objective(), space=space, trials=trials, max_epochs=reports, command="", about={}, scheduler=None
    )
    requests, opened = Counter[str](), recorder.store._store
    write, put, delete = opened._write, opened.put, opened._delete

    def counted(kind: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            requests[kind] += len(arguments[0]) if kind == "parts deleted" else 1
            return action(*arguments)

        return call

    opened._write, opened.put = counted("tables written", write), counted("other files written", put)  # type: ignore[method-assign]
    opened._delete = counted("parts deleted", delete)  # type: ignore[method-assign]
    recorder.store.delete = lambda action: None  # type: ignore[method-assign]  # there are no checkpoints
    loop, begun = Loop(recorder, opened.root, rate), time.perf_counter()
    for first in range(0, trials, AT_ONCE):
        group = [_trial(space, rng, i) for i in range(first, min(first + AT_ONCE, trials))]
        for trial in group:
            loop.call(recorder.on_trial_start, trial)
        for epoch in range(1, reports + 1):
            for trial in group:
                loop.step(trial, epoch)
        for trial in group:
            loop.call(recorder.on_trial_complete, trial)
    fed = time.perf_counter() - begun
    recorder.close()
    closed = time.perf_counter() - begun - fed
    told = f"{trials} trials x {reports} reports in {fed:.0f} s ({trials * reports / fed:.0f} a second)"
    print(f"{told}; written and merged {closed:.1f} s later")
    # They differ where the machine has other work.
    for what, ms in zip(("held", "computing, of that"), 1000 * np.array(loop.held).reshape(-1, 2).T, strict=True):
        most = f"{ms.max():.1f} ms at most, 99.9 % within {np.quantile(ms, 0.999):.2f} ms"
        print(f"control loop {what}: {most}, {ms.mean():.3f} ms on average")
    print(f"writer's thread: {recorder.store.seconds:.0f} s; {', '.join(f'{n} {kind}' for kind, n in sorted(requests.items()))}")
    tables = results.read(uri)
    assert (len(tables.trials), len(tables.reports), len(tables.started)) == (trials, trials * reports, 0)


def _trial(space: Any, rng: np.random.Generator, number: int) -> Any:
    arch = space.sample(rng).to_config()
    return SimpleNamespace(
        trial_id=f"{number:08x}", config={"arch": arch}, last_result={}, checkpoint=None, checkpoint_freq=1, error_file=""
    )


@contextmanager
def s3_server(port: int = 5123) -> Iterator[str]:
    """A URI of a folder on a server of its own process."""
    import boto3

    os.environ |= {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    server = subprocess.Popen([sys.executable, "-c", _SERVER.format(port=port)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
        for _ in range(100):
            try:
                client.create_bucket(Bucket="bucket")
                break
            except client.exceptions.ClientError:
                raise
            except Exception:  # it is not there yet
                time.sleep(0.2)
        yield f"s3://bucket/run?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--reports", type=int, default=50)
    parser.add_argument("--rate", type=float, default=2000.0, help="reports a second, at most")
    parser.add_argument("--s3", action="store_true", help="to an S3 server on loopback")
    parser.add_argument("--out", help="a run folder; without it a temporary one")
    given = parser.parse_args()
    with s3_server() if given.s3 else tempfile.TemporaryDirectory() as place, still_heap():
        run(given.out or (place if given.s3 else f"{place}/run"), given.trials, given.reports, given.rate)


if __name__ == "__main__":
    main()
