"""Training of one architecture by several workers of a Ray cluster together, on its GPUs or CPUs (DistributedDataParallel).

Only the process that asks for the training reads and writes files: the workers get all that they need from it, and send it what to
write. So neither images nor results need a folder that all machines share; only a folder that is too large for memory must be at the
same path on each.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from tempfile import TemporaryDirectory
from typing import Any, Self

import ray
import torch
from ray.exceptions import RayError
from ray.train import RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.queue import Empty, Queue

from raynas.errors import ConfigError, RaynasError, RunLost
from trainables.learning.team import Milestone, dumped, milestones
from trainables.learning.trainer import Trainer, TrainingError


class RayWorkers:
    """Workers that Ray Train starts on a Ray cluster, which is joined on entry and left on exit.

    Args:
        connected: makes the context in which Ray is connected to the cluster, a `raynas.run.connect.Cluster`.
        device: what each worker gets one of: "cuda", "cpu", or "auto": a GPU if the cluster has any.

    Raises:
        ConfigError: at once, for another device; on entry, where the cluster has too few of them.
    """

    device = torch.device("cpu")  # this process may run on a machine without a GPU

    def __init__(self, count: int, device: str, connected: Callable[[], AbstractContextManager[Any]]) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"the workers of a cluster train on 'cpu', 'cuda' or 'auto', not on {device!r}; leave --device out")
        self.count, self._asked, self._connected = count, device, connected
        self.cluster: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.cluster = stack.enter_context(self._connected())
            self.kind = "CPU" if self._asked == "cpu" or (self._asked == "auto" and not _room("GPU")) else "GPU"
            room = _room(self.kind)
            if room < self.count:
                local = self.cluster.how == "started"
                where, mend = ("this machine", "--address joins a cluster") if local else ("the cluster", "start more nodes first")
                raise ConfigError(f"{self.count} workers need a {self.kind} each, but {where} has {room}; ask for fewer, or {mend}")
            self._left = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._left.close()

    def __str__(self) -> str:
        return f"{self.count} worker{'s' if self.count > 1 else ''} with a {self.kind} each"

    def train(self, trainer: Trainer) -> Iterator[Milestone]:
        """Trains from the state of `trainer` on, to the end.

        Raises:
            TrainingError: the training diverged, or a worker was lost.
            RunLost: the cluster was lost.
        """
        try:
            yield from self._train(trainer)
        except RayError as error:
            raise RunLost(f"the Ray cluster was lost ({type(error).__name__}); go on with --resume") from error

    def _train(self, trainer: Trainer) -> Iterator[Milestone]:
        state = dumped(trainer.state_dict()) if trainer.epoch else None
        job = {"trainer": ray.put((trainer.arguments, state)), "queue": Queue(actor_options={"num_cpus": 0})}
        # Not in a thread of this process, as Ray could not be left while it waits there.
        end = ray.remote(num_cpus=0)(_fit).remote(job, self.count, self.kind == "GPU")
        failure: RaynasError | None = None
        while True:
            ended, _ = ray.wait([end], timeout=0)
            try:
                message = job["queue"].get(timeout=0.5)
            except Empty:
                if ended:
                    break
                continue
            if isinstance(message, Milestone):
                yield message
            else:
                failure = message
        failure = failure or ray.get(end)
        if failure is not None:
            raise failure


def _room(kind: str) -> int:
    """For how many workers there is room, each of which needs a whole CPU or GPU of one machine."""
    return sum(int(node["Resources"].get(kind, 0)) for node in ray.nodes() if node["Alive"])


def _fit(job: Mapping[str, Any], count: int, gpus: bool) -> TrainingError | None:
    """Lets Ray Train do the job; returns what made it fail."""
    with TemporaryDirectory() as scratch:  # Ray Train insists on a folder of its own
        trainer = TorchTrainer(
            _work,
            train_loop_config=dict(job),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            run_config=RunConfig(name="training", storage_path=scratch),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            rank, failure = min(getattr(error, "worker_failures", {0: error}).items())
            reason = (str(failure).strip().splitlines() or [""])[-1]
            return TrainingError(f"the workers failed; number {rank} reports {type(failure).__name__}: {reason}; go on with --resume")
    return None


def _work(job: Mapping[str, Any]) -> None:
    """What each worker does; the first one tells about it."""
    arguments, state = ray.get(job["trainer"])
    first, device = get_context().get_world_rank() == 0, get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL uses the current one
    try:
        trainer = Trainer(**arguments, device=device)
        if state is not None:
            trainer.load_state_dict(torch.load(io.BytesIO(state), map_location=trainer.device, weights_only=True))
        for message in milestones(trainer):
            if first:
                job["queue"].put(message)
    except RaynasError as error:  # perhaps of this worker alone, such as an image that cannot be read
        job["queue"].put(error)
        raise  # so that Ray Train stops the others, which would wait for this one
