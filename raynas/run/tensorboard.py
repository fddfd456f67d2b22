"""TensorBoard event files of a run: the incumbent and the predictor in one summary run, one point a trial in a run for each status, the
settings in a run of their own for HParams, every trial in a run of its own if asked for.

They are written with TensorBoard's own writer, so that neither torch nor TensorFlow is needed.
"""

import logging
import math
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow.fs import LocalFileSystem
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from raynas.drawing import picture
from raynas.spaces import SearchSpace
from raynas.storage import filesystem, join, make_folder, write_bytes

logger = logging.getLogger(__name__)


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
        self._described: set[str] = set()  # tags

    def scalar(
        self, tag: str, value: float | None, step: int, wall_time: float | None = None, about: tuple[str, str] | None = None
    ) -> None:
        """A point of curve `tag` at `step`; None, NaN and infinities are left out.

        Args:
            wall_time: in seconds since 1970, default now.
            about: what TensorBoard calls the curve, and a description in Markdown. They travel with the first point, which is written
                twice: TensorBoard reads them from points of its newer form alone, most other programs points of the older form alone.
        """
        if value is None or not math.isfinite(value):
            return
        if about is not None and tag not in self._described:
            self._described.add(tag)
            metadata = scalar_metadata.create_summary_metadata(*about)
            tensor = TensorProto(dtype=DT_FLOAT, float_val=[float(value)], tensor_shape=TensorShapeProto())
            self._add(Summary(value=[Summary.Value(tag=tag, tensor=tensor, metadata=metadata)]), step, wall_time)
        self._add(Summary(value=[Summary.Value(tag=tag, simple_value=float(value))]), step, wall_time)

    def settings(self, values: Mapping[str, Any]) -> None:
        """The settings that the HParams page shows of this run, beside its scalars; what is no number or truth value is shown as text."""
        known = {name: value for name, value in values.items() if value is not None}
        plain = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in known.items()}
        self._add(hparams_pb(plain, trial_id=""), 0)  # no name: each run is a row of its own, those of equal settings too

    def settings_end(self) -> None:
        """Says on the HParams page that the session has ended by itself."""
        end = HParamsPluginData(session_end_info=SessionEndInfo(status=STATUS_SUCCESS, end_time_secs=time.time()))
        about = hparams.create_summary_metadata(end)
        self._add(Summary(value=[Summary.Value(tag=hparams.SESSION_END_INFO_TAG, tensor=hparams.NULL_TENSOR, metadata=about)]), 0)

    def layout(self, categories: Mapping[str, Mapping[str, list[str]]]) -> None:
        """What the Custom Scalars page shows: category -> title of a chart -> regular expressions of its tags."""
        layout = layout_pb2.Layout()
        for category, charts in categories.items():
            shown = layout.category.add(title=category)
            for title, tags in charts.items():
                shown.chart.add(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
        text = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()], tensor_shape=TensorShapeProto())
        about = custom_scalar.create_summary_metadata()
        self._add(Summary(value=[Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, tensor=text, metadata=about)]), 0)

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


_AXES = {
    "": ("trials", "The step is the number of trials that have ended, failed ones included."),
    "_by_seconds": ("seconds", "The step is the seconds since the search began."),
    "_by_train_seconds": ("training seconds", "The step is the seconds that all trials so far have spent on training."),
}
_PREDICTOR = {
    "mae": (
        "mean absolute error",
        "How far the predictor was off, on average, for the trials that ended since its last fit, **before** it learned from them; in "
        "units of the first metric. It jumps because each point averages over a few new trials, and these are chosen to be unlike those "
        "already known: a rise says that the search looks where the predictor knew little, not that the predictor got worse.",
    ),
    "rank_correlation": (
        "rank correlation",
        "Spearman's correlation of predicted and observed values of the trials that ended since the last fit: 1 is the right order, 0 is "
        "chance. It is low where the new trials are all about equally good, and noisy because they are few; fewer than 3 give no point.",
    ),
    "refit_seconds": ("seconds of a refit", "How long fitting the predictor and proposing from it took; trials go on meanwhile."),
}
_HYPERVOLUME = (
    "The volume between the front and the worst value of each objective among the first ten finished trials, in the product of the "
    "objectives' units. That reference does not move, so the curve only grows; it begins with the tenth."
)
_CURVES = {
    "Search": {
        "best so far": [r"incumbent/(?!.*_by_(train_)?seconds$).*"],
        "every trial, by how it ended": ["trial/.*"],
        "trials that failed": ["trials/failed"],
    },
    "Predictor": {"error": ["predictor/mae"], "rank correlation": ["predictor/rank_correlation"]},
    "Time": {
        "best so far, by seconds": [".*_by_seconds"],
        "best so far, by training seconds": [".*_by_train_seconds"],
        "seconds of a refit": ["predictor/refit_seconds"],
    },
}


_SETTINGS = (
    *("space", "dataset", "trainable", "searcher", "scheduler", "seed", "trials", "max_epochs"),
    *("concurrency", "cpus_per_trial", "gpus_per_trial"),
)
_OPTIONS = ["space_options", "searcher_options", "scheduler_options", "trainable_options"]


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the HParams page shows of the configuration of a search; options are named as `--set` names them."""
    options = {f"{group}.{name}": value for group in _OPTIONS for name, value in config[group].items()}
    return {name: config[name] for name in _SETTINGS} | options


def scatter(predictions: Sequence[tuple[float, float]]) -> bytes:
    """A PNG of predictions against what was observed, late ones light."""
    from matplotlib.figure import Figure

    points = np.array(predictions)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.scatter(points[:, 0], points[:, 1], c=np.arange(len(points)), s=12, cmap="viridis", linewidths=0)
    figure.colorbar(shown, label="order of the trials")
    (left, right), (low, high) = (np.quantile(column, [0.05, 1.0]) for column in points.T)
    axes.axline((high, high), slope=1, color="#777777", linewidth=1, linestyle="--")
    axes.set(xlabel="predicted", ylabel="observed", xlim=(left - 1e-9, right + 1e-9), ylim=(low - 1e-9, high + 1e-9))
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


class RunSummary:
    """The curves of one search. Event files are opened on first use, so a fresh RunSummary can be pickled.

    A resumed search opens another event file in the same folders; TensorBoard shows the files of a folder as one run.

    Args:
        logdir: A path or a URI; the search's own curves are the run `summary`, the last values of trials the runs `finished`, `stopped` and
            `failed`, the settings and the best values the run `settings`, the curves of a trial the run `trials/TRIAL_ID`.
        per_trial: Whether trials get a run of their own; TensorBoard becomes slow with more than about 250 of them.
        settings: Of the search, for the HParams page.
    """

    def __init__(self, logdir: str, per_trial: bool = False, settings: Mapping[str, Any] | None = None) -> None:
        self._logdir = logdir
        self._per_trial = per_trial
        self._settings = dict(settings or {})
        self._best: dict[str, float | None] = {}  # what the HParams page shows
        self._writers: dict[str, SummaryWriter] = {}  # by run
        self._undrawn = False

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
        steps = dict(zip(_AXES, (queries, int(wall_seconds), int(train_seconds)), strict=True))
        for metric, value in best.items():
            for axis, (unit, step_is) in _AXES.items():
                name = f"{metric} of the best so far, by {unit}"
                description = f"The {metric} of the best architecture found so far. {step_is}"
                self.summary.scalar(f"incumbent/{metric}{axis}", value, steps[axis], about=(name, description))
        if self._settings and best != self._best:
            self._best = dict(best)
            for metric, value in best.items():
                self._open("settings").scalar(f"best/{metric}", value, queries)

    def trial_ended(self, number: int, status: str, metrics: Mapping[str, float | None], failed: int) -> None:
        """What one trial came to, a point in the run of its status.

        Args:
            number: How many trials have ended, with this one.
            status: finished, stopped or failed.
            metrics: Its last values, by metric; a failed trial may have none.
            failed: How many trials have failed so far.
        """
        for metric, value in metrics.items():
            self._open(status).scalar(f"trial/{metric}", value, number)
        self.summary.scalar("trials/failed", failed, number, about=("trials that failed", "How many trials have failed so far."))

    def front(self, queries: int, size: int, hypervolume: float | None) -> None:
        """The front of several objectives after `queries` trials; without a hypervolume nothing."""
        if hypervolume is not None:
            self.summary.scalar("front/hypervolume", hypervolume, queries, about=("hypervolume of the front", _HYPERVOLUME))
            self.summary.scalar("front/size", size, queries, about=("architectures on the front", "Those that no other is better than."))

    def refit(self, queries: int, seconds: float, mae: float | None, rank_correlation: float | None) -> None:
        """A fit of the predictor after `queries` trials.

        Args:
            seconds: How long the fit took.
            mae: Mean absolute error of what it predicted, in units of the metric.
            rank_correlation: Between predicted and true values, in [-1, 1].
        """
        values = {"mae": mae, "rank_correlation": rank_correlation, "refit_seconds": seconds}
        for tag, value in values.items():
            name, description = _PREDICTOR[tag]
            self.summary.scalar(f"predictor/{tag}", value, queries, about=(f"predictor: {name}", description))

    def pictures(self, queries: int, space: SearchSpace, best: Mapping[str, Any], predictions: Sequence[tuple[float, float]]) -> None:
        """The best architecture, and how the predictor did, after `queries` trials; takes some tenths of a second.

        Args:
            best: the architecture, as JSON.
            predictions: (predicted, observed) of the full evaluations, in their order.
        """
        try:
            drawn = {"incumbent/architecture": picture(space, space.from_config(best), "png")}
        except Exception as error:  # of a space of one's own, which need not say how its architectures are drawn
            drawn = {}
            if not self._undrawn:
                logger.warning("TensorBoard shows no architectures, as they cannot be drawn: %s", error)
            self._undrawn = True
        if len(predictions) > 2:
            drawn["predictor/predicted and observed"] = scatter(predictions)
        for tag, png in drawn.items():
            width, height = struct.unpack(">II", png[16:24])
            self.summary.image(tag, png, height, width, queries)

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
        if settings := self._writers.get("settings"):
            settings.settings_end()
        while self._writers:
            self._writers.popitem()[1].close()

    def _open(self, run: str) -> SummaryWriter:
        if run not in self._writers:
            self._writers[run] = SummaryWriter(join(self._logdir, *run.split("/")))
            if run == "summary":
                self._writers[run].layout(_CURVES)
            if run == "settings":
                self._writers[run].settings(self._settings)
        return self._writers[run]
