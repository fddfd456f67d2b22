"""`python -m raynas.status`: how a run stands, from its folder alone: running, ended, interrupted or crashed, here or on remote storage."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.compute as pc
from rich.console import Console
from rich.live import Live
from rich.text import Text

from raynas import results, storage
from raynas.cli import DONE, Parser, nonnegative, program, run_command
from raynas.config import RunConfig, make_config
from raynas.errors import RaynasError, ResultsError
from raynas.outcome import STATUSES, Objective, declare
from raynas.results import Tables
from raynas.run.display import shown, title
from raynas.run.lock import Holder, holder
from raynas.run.summary import resume_command

WATCH_SECONDS = 5.0  # between two looks
_RECENT = 50  # trials from which the throughput is told


@dataclass(frozen=True)
class Status:
    """How a run stands. Times are in UTC, shares in [0, 1]."""

    folder: str
    state: str  # running; crashed: its process died; complete; or interrupted: it was closed with trials left
    holder: Holder | None  # who writes it, or did until it died
    config: RunConfig
    trials: int  # asked for; of a one-shot search the searches until they have ended
    counts: dict[str, int]  # trials by status, and `running`: those under way
    best: dict[str, Any] | None  # the row of the best trial, and `after`: how many trials had ended before it did
    per_hour: float | None  # trials that ended in an hour, of the last ones in this session
    expected_end: datetime | None
    rungs: dict[int, tuple[int, int]] = field(default_factory=dict)  # epochs -> trials that came so far, trials that ended there
    failures: dict[str, int] = field(default_factory=dict)  # by fault, of trials that have ended, and
    retries: dict[str, int] = field(default_factory=dict)  # likewise by the fault of the last one of a trial
    hours: float = 0.0  # that trials held one GPU, or one CPU core where they take no GPU
    unit: str = "GPU"  # what `hours` counts
    nodes: dict[str, int] = field(default_factory=dict)  # "node, device" -> trials that ended there

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        plain = asdict(self) | {"config": self.config.model_dump(), "rungs": {str(k): v for k, v in self.rungs.items()}}
        return json.loads(json.dumps(storage.finite(plain), default=lambda value: value.isoformat()))  # type: ignore[no-any-return]


def read_status(folder: str, now: datetime | None = None) -> Status:
    """How the run in `folder` stands, `now` or at this moment.

    Raises:
        ResultsError: there is no run, or a file in it is damaged.
    """
    now = now or datetime.now(UTC)
    writer = holder(folder)  # before the tables: what has ended meanwhile is complete in them
    stored = storage.read_config(folder)
    if "arch" in stored:
        raise ResultsError(f"{folder} holds a training, not a search; this command tells of searches")
    config = make_config(stored, RunConfig)
    tables = results.read(folder)
    rows = tables.trials.to_pylist()
    if any(row["ended_at"] is None for row in rows):
        raise ResultsError(f"{folder} is damaged: a row of trials does not say when it ended")
    living = writer if writer is not None and writer.alive else None
    ended = Counter(row["status"] for row in rows)
    counts = {status: ended[status] for status in STATUSES} | {"running": len(tables.started) if living else 0}
    asked = _asked(folder, config)
    unit, amount = ("GPU", config.gpus_per_trial) if config.gpus_per_trial else ("CPU", config.cpus_per_trial)
    per_hour = _per_hour(rows, _moment(living.since) if living else None, now)
    left = max(0, asked - len(rows))
    end = now + timedelta(hours=left / per_hour) if living and per_hour and left else None
    state = "running" if living else "complete" if not left else "crashed" if writer else "interrupted"
    return Status(
        folder=folder,
        state=state,
        holder=writer,
        config=config,
        trials=asked,
        counts=counts,
        best=_best(folder, rows),
        per_hour=per_hour,
        expected_end=end,
        rungs=_rungs(tables),
        failures=dict(Counter(row["fault"] or "architecture" for row in rows if row["status"] == "failed")),
        retries=dict(sum((Counter({row["fault"]: row["retries"]}) for row in rows if row["retries"]), Counter())),
        hours=amount * _seconds(tables, now if living else None) / 3600,
        unit=unit,
        nodes=dict(Counter(f"{row['node']}, {row['device']}" for row in rows if row["node"]).most_common()),
    )


def _asked(folder: str, config: RunConfig) -> int:
    """Trials asked for; a one-shot search trains the different architectures that it found, once all its searches have ended."""
    if not storage.exists(folder, "oneshot.json"):
        return config.trials
    searches = storage.read_json(folder, "oneshot.json")
    if not isinstance(searches, list) or not all(isinstance(row, dict) and isinstance(row.get("arch"), dict | None) for row in searches):
        raise ResultsError(f"{storage.join(folder, 'oneshot.json')} is damaged: it must hold a list of searches")
    if any(search.get("status") == "running" for search in searches):
        return config.trials
    return len({str(search["arch"].get("id")) for search in searches if search.get("arch")})


def _moment(text: str | None) -> datetime | None:
    """The time that a claim states; None where it states none."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except ValueError:
        return None


def _best(folder: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row that best.json names: the run itself knows what is best, with what its trainable declares of metrics."""
    name = storage.read_mapping(folder, "best.json").get("trial_id") if storage.exists(folder, "best.json") else None
    row = next((row for row in rows if row["trial_id"] == name), None)
    if row is None:
        return None
    after = sum(other["ended_at"] < row["ended_at"] for other in rows)
    return {key: value for key, value in row.items() if value is not None} | {"after": after}


def _per_hour(rows: Sequence[dict[str, Any]], since: datetime | None, now: datetime) -> float | None:
    """Trials that ended in an hour: of the last ones, within this session where it is known since when that goes."""
    ends = sorted(row["ended_at"] for row in rows if since is None or row["ended_at"] >= since)[-_RECENT:]
    if len(ends) < 2:
        return None
    seconds = ((now if since else ends[-1]) - ends[0]).total_seconds()
    return 3600 * (len(ends) - 1) / seconds if seconds > 0 else None


def _rungs(tables: Tables) -> dict[int, tuple[int, int]]:
    """For the epochs at which trials were stopped: how many came so far, and for how many it was the last."""
    ended = Counter(row["epochs"] for row in tables.trials.select(["status", "epochs"]).to_pylist() if row["status"] == "stopped")
    last = tables.reports.group_by("trial_id").aggregate([("epoch", "max")])["epoch_max"]
    return {epoch: (pc.sum(pc.greater_equal(last, epoch)).as_py() or 0, ended[epoch]) for epoch in sorted(filter(None, ended))}


def _seconds(tables: Tables, now: datetime | None) -> float:
    """How long all trials together have held their resources; what a resumed trial waited for its next session does not count.

    `now`: None where those under way hold nothing any more.
    """
    last = tables.reports.group_by("trial_id").aggregate([("wall_seconds", "max")])
    trained = dict(zip(last["trial_id"].to_pylist(), last["wall_seconds_max"].to_pylist(), strict=True))
    total = 0.0
    for row in tables.trials.select(["trial_id", "wall_seconds"]).to_pylist():
        total += trained.get(row["trial_id"]) or row["wall_seconds"] or 0.0
    for row in tables.started.select(["trial_id", "started_at"]).to_pylist():
        running = (now - row["started_at"]).total_seconds() if now else 0.0
        total += trained.get(row["trial_id"]) or running
    return total


def lines(status: Status, price: float | None = None) -> Iterator[str]:
    """What a person reads; `price` is that of one GPU, or of one CPU core where trials take no GPU, for an hour."""
    config, counts, writer = status.config, status.counts, status.holder
    who = f", process {writer.pid} on {writer.host} since {writer.since}" if writer else ""
    yield f"{status.folder}: {status.state}{who}"
    yield _row("search", f"{config.searcher} on {config.space}, {config.dataset}, scheduler {config.scheduler}, {config.trainable}")
    ended = sum(counts[name] for name in STATUSES)
    parts = f"{counts['finished']} finished, {counts['stopped']} stopped early, {counts['failed']} failed, {counts['running']} running"
    yield _row("trials", f"{ended} of {status.trials} ({parts})")
    for name, causes in (("failures", status.failures), ("retries", status.retries)):
        if causes:
            yield _row(name, ", ".join(f"{count} by {cause}" for cause, count in causes.items()))
    if status.best is not None:
        objective = Objective.parse(config.objective, config.limit, declare(config.metrics))
        values = ", ".join(f"{title(metric)} {shown(metric, status.best.get(metric.name))}" for metric in objective.metrics)
        yield _row("best", f"{values}, after {status.best['after'] + 1} trials: {status.best['arch_id']}")
    if status.rungs:
        rungs = (f"{reached} came to {epoch} epochs ({ended} ended there)" for epoch, (reached, ended) in status.rungs.items())
        yield _row("rungs", ", ".join(rungs))
    if status.per_hour is not None:
        yield _row("throughput", f"{status.per_hour:,.{0 if status.per_hour >= 100 else 1}f} trials an hour")
    yield _row(f"{status.unit}-hours", f"{status.hours:,.2f}" + (f", {price * status.hours:,.2f} at {price:g} an hour" if price else ""))
    for node, count in status.nodes.items():
        yield _row("node", f"{node}: {count} trials")
    if status.expected_end is not None:
        yield _row("expected end", _clock(status.expected_end))
    if status.state in ("crashed", "interrupted"):
        yield _row("go on with", resume_command(status.folder))


def _row(name: str, text: str) -> str:
    return f"  {name:<13} {text}"


def _clock(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def parser() -> Parser:
    """The command line."""
    made = Parser(prog=program("status"), description=__doc__, allow_abbrev=False)
    made.add_argument("run", metavar="RUN", help="folder of a run: a path or a URI")
    made.add_argument("--watch", action="store_true", help=f"looks again every {WATCH_SECONDS:g} s until the run has ended")
    made.add_argument("--price", metavar="FLOAT", type=nonnegative, help="of one GPU, or CPU core where trials take no GPU, for an hour")
    made.add_argument("--json", action="store_true", help="prints JSON, one line a look")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.status --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = parser().parse_args(argv)
    console = Console(soft_wrap=True)
    status = read_status(flags.run)
    if flags.watch and console.is_terminal and not flags.json:
        with Live(_text(status, flags.price), console=console, auto_refresh=False) as live:
            for look in _looks(flags.run, status):
                live.update(_text(look, flags.price), refresh=True)
        return DONE
    for look in _looks(flags.run, status) if flags.watch else [status]:
        shown_now = [json.dumps(look.to_json())] if flags.json else lines(look, flags.price)
        for line in shown_now:
            console.out(line, highlight=False)
    return DONE


def _text(status: Status, price: float | None) -> Text:
    return Text("\n".join(lines(status, price)))


def _looks(folder: str, status: Status) -> Iterator[Status]:
    """A look now, and further ones until nobody writes the run any more; a look that storage refuses is made up for by the next."""
    yield status
    while status.state == "running":
        time.sleep(WATCH_SECONDS)
        try:
            status = read_status(folder)
        except RaynasError as error:
            print(f"warning: {error}", file=sys.stderr)
            continue
        yield status


if __name__ == "__main__":
    sys.exit(main())
