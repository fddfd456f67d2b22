"""TensorBoard event files of a run: the incumbent and the predictor in one summary run, every trial in a run of its own if asked for.

They are written with TensorBoard's own writer, so that neither torch nor TensorFlow is needed.
"""

import math
import tempfile
import time
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from pyarrow.fs import LocalFileSystem
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from raynas.storage import filesystem, join, make_folder, write_bytes


class SummaryWriter:
    """Writes one event file into `logdir`, a path or a URI.

    On local paths every event is on disk within moments. On other storage, which cannot append to a file, the event file grows in
    a temporary folder and `flush` uploads it whole; an upload replaces the previous one in one step.

    Raises:
        ResultsError: (constructor, flush, close) the storage refuses.
        OSError: (any method) the local disk, or that of the temporary folder, refuses.
    """

    def __init__(self, logdir: str) -> None:
        self._fs, self._folder = filesystem(logdir)
        make_folder(self._fs, self._folder)
        self._temporary = None if isinstance(self._fs, LocalFileSystem) else tempfile.TemporaryDirectory(prefix="raynas-events-")
        self._local = Path(self._temporary.name if self._temporary else self._folder)
        self._writer = EventFileWriter(str(self._local))
        self._uploaded = 0  # bytes

    def scalar(self, tag: str, value: float | None, step: int, wall_time: float | None = None) -> None:
        """A point of curve `tag` at `step`; None, NaN and infinities are left out. `wall_time` is in seconds since 1970, default now."""
        if value is not None and math.isfinite(value):
            self._add(Summary(value=[Summary.Value(tag=tag, simple_value=float(value))]), step, wall_time)

    def text(self, tag: str, markdown: str, step: int) -> None:
        """A text in Markdown."""
        self._add(text_pb(tag, markdown), step)

    def image(self, tag: str, png_bytes: bytes, height: int, width: int, step: int) -> None:
        """A picture, as a PNG of `height` x `width` pixels."""
        picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png_bytes)
        self._add(Summary(value=[Summary.Value(tag=tag, image=picture)]), step)

    def flush(self) -> None:
        """Brings everything written so far to its place."""
        self._writer.flush()
        self._upload()

    def close(self) -> None:
        """Brings everything to its place and ends the writer's thread."""
        self._writer.close()
        try:
            self._upload()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()
                self._temporary = None

    def _add(self, summary: Any, step: int, wall_time: float | None = None) -> None:
        self._writer.add_event(Event(wall_time=time.time() if wall_time is None else wall_time, step=step, summary=summary))

    def _upload(self) -> None:
        if self._temporary is None:
            return
        (file,) = self._local.iterdir()
        content = file.read_bytes()
        if len(content) > self._uploaded:
            write_bytes(self._fs, f"{self._folder}/{file.name}", content)
            self._uploaded = len(content)


class RunSummary:
    """The curves of one search. Event files are opened on first use, so a fresh RunSummary can be pickled.

    A resumed search opens another event file in the same folders; TensorBoard shows the files of a folder as one run.

    Args:
        logdir: A path or a URI; the search's own curves are the run `summary`, those of a trial the run `trials/TRIAL_ID`.
        per_trial: Whether trials get a run of their own; TensorBoard becomes slow with more than about 250 of them.
    """

    def __init__(self, logdir: str, per_trial: bool = False) -> None:
        self._logdir = logdir
        self._per_trial = per_trial
        self._writers: dict[str, SummaryWriter] = {}  # by run

    @property
    def summary(self) -> SummaryWriter:
        """The writer of the search's own run, for texts and pictures."""
        return self._open("summary")

    def trial_done(self, queries: int, wall_seconds: float, train_seconds: float, best: Mapping[str, float | None]) -> None:
        """The incumbent after `queries` trials.

        Args:
            wall_seconds: Since the search began.
            train_seconds: Spent on training by all trials so far.
            best: What is known of the incumbent, by metric; accuracies are in [0, 1].
        """
        axes = {"": queries, "_by_seconds": int(wall_seconds), "_by_train_seconds": int(train_seconds)}
        for metric, value in best.items():
            for axis, step in axes.items():
                self.summary.scalar(f"incumbent/{metric}{axis}", value, step)

    def refit(self, queries: int, seconds: float, mae: float | None, rank_correlation: float | None, observations: int) -> None:
        """A fit of the predictor after `queries` trials.

        Args:
            seconds: How long the fit took.
            mae: Mean absolute error of what it predicted, in units of the metric.
            rank_correlation: Between predicted and true values, in [-1, 1].
            observations: Number of architectures it was fitted to.
        """
        values = {"mae": mae, "rank_correlation": rank_correlation, "refit_seconds": seconds, "observations": observations}
        for name, value in values.items():
            self.summary.scalar(f"predictor/{name}", value, queries)

    def report(self, trial_id: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """The numbers among `metrics` of one epoch, into the run of the trial; without `per_trial` nothing."""
        if self._per_trial:
            writer = self._open(f"trials/{trial_id}")
            for name, value in metrics.items():
                if isinstance(value, Real):
                    writer.scalar(name, float(value), epoch)

    def trial_closed(self, trial_id: str) -> None:
        """The trial reports no more."""
        if writer := self._writers.pop(f"trials/{trial_id}", None):
            writer.close()

    def flush(self) -> None:
        """Brings everything written so far to its place."""
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Closes every event file; a later call of a method opens a new one."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _open(self, run: str) -> SummaryWriter:
        if run not in self._writers:
            self._writers[run] = SummaryWriter(join(self._logdir, *run.split("/")))
        return self._writers[run]
