"""One-shot searches within a run: trials that find architectures by themselves, which are then trained like any others.

Phase one runs `--trials` searches as Tune trials, with the seeds seed, seed + 1, ...; phase two trains every architecture that they
found from scratch, each once. `oneshot.json` in the run folder holds what is known of each search: `seed, status` (running, finished
or failed), `epoch, valid_accuracy` (of the supernet), `seconds, arch, error` and, while it runs, its newest `checkpoint`.
"""

import json
import time
from functools import partial
from typing import Any

from pyarrow.fs import FileType
from ray import tune
from rich.console import Console

from raynas import storage
from raynas.arch import Arch
from raynas.config import RunConfig
from raynas.errors import ResultsError
from raynas.registry import check_options, resolve
from raynas.run.checkpoints import EACH_REPORT, Checkpoints, checked, run_config
from raynas.run.display import percent
from raynas.run.failures import failure
from raynas.run.ray_private import kept
from raynas.run.retries import Retries
from raynas.run.settings import SHARED
from raynas.run.writer import Writer
from raynas.spaces import make_space
from searchers import OneShot

FILE, FOLDER = "oneshot.json", "oneshot"  # in the run folder: results, and what Tune writes while the searches run

_LINE_SECONDS = 10.0  # between two lines about a search under way


class Supernets:
    """The one-shot searches of one run.

    `searcher_options` are the options of the search; `data_dir` and `device` are those of the trainable unless they are among them.
    `max_epochs`, the recipe and the trainable are for the second phase.

    Raises:
        ConfigError: an option has a value that is not allowed.
        UnknownNameError: no such option.
    """

    def __init__(self, method: OneShot, config: RunConfig, uri: str, own: bool = True) -> None:
        self.config, self.uri, self.own = config, uri, own
        self.trainable = resolve({}, method.trial, "searcher")
        shared = {key: config.trainable_options[key] for key in SHARED if key in config.trainable_options}
        options = check_options(self.trainable.Options, shared | dict(method.options), f"searcher {config.searcher!r}")
        common = {"space": config.space, "space_options": config.space_options, "dataset": config.dataset}
        self.trainable.plan(**options | common, seed=config.seed)
        self.trial_config = options | common

    def search(self, slots: int, console: Console, store: Writer) -> list[Arch]:
        """Runs the searches that are not done yet, `slots` at once; the distinct architectures that all of them found, by seed.

        `store` writes the run folder.

        Raises:
            KeyboardInterrupt: it was interrupted; what is done, and the checkpoints of what is not, are kept.
        """
        seeds = range(self.config.seed, self.config.seed + self.config.trials)
        log = SearchLog(self.uri, seeds, store, console, Retries.of(self.config), self.own)
        if log.open:
            what = f"{self.config.searcher} searches {self.config.space}: {len(log.open)} searches"
            console.print(f"{what}, {slots} at once", highlight=False, soft_wrap=True)
            log.look_for_checkpoints()
            self._tune(log, slots)
        if log.open:
            raise KeyboardInterrupt
        log.delete_checkpoints()
        space, rows = make_space(self.config.space, self.config.space_options), [log.rows[seed] for seed in seeds]
        found = {arch.id: arch for arch in (space.from_config(row["arch"]) for row in rows if row["arch"])}
        errors = [row["error"] for row in rows if row["status"] == "failed"]
        failed = f", {len(errors)} failed ({errors[0]})" if errors else ""
        then = "each is trained once, from scratch" if found else "so there is nothing to train"
        what = f"searches: {len(rows)}, different architectures found: {len(found)}{failed}; {then}"
        console.print(what, highlight=False, soft_wrap=True)
        return list(found.values())

    def _tune(self, log: "SearchLog", slots: int) -> None:
        config = self.config
        tuner = tune.Tuner(
            tune.with_resources(self.trainable, {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}),
            param_space=self.trial_config | {"seed": tune.grid_search(log.open)},
            tune_config=tune.TuneConfig(max_concurrent_trials=slots, trial_dirname_creator=lambda trial: f"seed-{trial.config['seed']}"),
            run_config=run_config(self.uri, FOLDER, log, EACH_REPORT),
        )
        with kept(log.retries):
            tuner.fit()


_FIELDS = ("epoch", "valid_accuracy", "seconds", "arch", "error", "checkpoint")


def read_rows(uri: str) -> dict[int, dict[str, Any]]:
    """What `oneshot.json` in a run folder holds, by seed; without the file, nothing.

    Raises:
        ResultsError: it is damaged.
    """
    file = storage.join(uri, FILE)
    known = storage.read_json(uri, FILE) if storage.exists(uri, FILE) else []
    if not isinstance(known, list):
        raise ResultsError(f"{file} is damaged: it must hold a list, not {type(known).__name__}")
    for row in known:
        if not isinstance(row, dict) or not {"seed", "status", *_FIELDS} <= row.keys() or type(row["seed"]) is not int:
            raise ResultsError(f"{file} is damaged: {row!r} is no search")
        if row["status"] not in ("running", "finished", "failed"):
            raise ResultsError(f"{file} is damaged: the search of seed {row['seed']} has the status {row['status']!r}")
        if not isinstance(row["arch"], dict | None) or not isinstance(row["error"], str | None):
            raise ResultsError(f"{file} is damaged: what the search of seed {row['seed']} found is {row['arch']!r} and {row['error']!r}")
        if row["checkpoint"] is not None:
            checked(row["checkpoint"], f"the checkpoint of seed {row['seed']} in {file}")
    return {row["seed"]: row for row in known}


class SearchLog(tune.Callback):  # type: ignore[misc]  # ray has no types
    """The Tune callback that keeps `oneshot.json` up to date, and lets searches of an earlier session go on."""

    def __init__(self, uri: str, seeds: range, store: Writer, console: Console, retries: Retries | None = None, own: bool = True) -> None:
        self.uri, self.seeds, self.store, self.console, self.retries = uri, seeds, store, console, retries or Retries()
        self._fs, self._root = storage.filesystem(uri)
        self._checkpoints = Checkpoints(uri)
        self._checkpoints.own = own
        self.rows = read_rows(uri)
        self._shown = time.monotonic()
        empty = dict.fromkeys(_FIELDS)
        for seed in seeds:
            self.rows.setdefault(seed, {"seed": seed, "status": "running"} | empty)

    @property
    def open(self) -> list[int]:
        """Seeds of the searches that have not ended."""
        return [seed for seed in self.seeds if self.rows[seed]["status"] == "running"]

    def look_for_checkpoints(self) -> None:
        """Looks for those that searches of an earlier session go on from."""
        notes = [self.rows[seed]["checkpoint"] for seed in self.open]
        self.store.ask(partial(self._checkpoints.look, [saved for saved in notes if saved is not None]))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A search starts; one of an earlier session goes on from its checkpoint."""
        saved = self._row(trial)["checkpoint"]
        if saved is not None and trial.checkpoint is None and (problem := self._checkpoints.give_back(trial, saved)):
            self._say(f"seed {trial.config['seed']}: {problem}")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """An epoch of a search is over."""
        if result.get("warning"):
            self._say(f"seed {trial.config['seed']}: {result['warning']}")
        if time.monotonic() - self._shown >= _LINE_SECONDS:
            self._shown = time.monotonic()
            self._say(f"seed {trial.config['seed']}: epoch {result['epoch']}, supernet {percent(result['valid_accuracy'])}")

    def on_checkpoint(self, iteration: int, trials: list[Any], trial: Any, checkpoint: Any, **info: Any) -> None:
        """A checkpoint is complete; an older one goes once the file on disk points to this one."""
        if trial.last_result.get("done"):  # the search ends next
            return
        row = self._row(trial)
        before, row["checkpoint"] = row["checkpoint"], self._checkpoints.noted(checkpoint, trial.last_result)
        self._checkpoints.release_replaced(before, row["checkpoint"])
        self._write()
        if deletion := self._checkpoints.deletion():
            self.store.delete(deletion)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Once per turn of the control loop: looks whether the storage answers."""
        self.store.check()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A search has ended, having found an architecture or none."""
        result = trial.last_result
        row = {key: result.get(key) for key in ("epoch", "valid_accuracy")} | {"seconds": result["time_total_s"]}
        if result.get("arch"):
            self._end(trial, row | {"status": "finished", "arch": json.loads(result["arch"])})
        else:
            self._end(trial, row | {"status": "failed", "error": "its last report has no architecture"})

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A search failed and is tried again."""
        self._say(self.retries.recovering(f"seed {trial.config['seed']}", trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A search failed for good."""
        failed = failure(trial)
        file = f"errors/seed-{trial.config['seed']}.txt"
        self.store.put(file, failed.text.encode())
        self._end(trial, {"status": "failed", "error": f"{failed.reason}; see {file}"})

    def delete_checkpoints(self) -> None:
        """Removes what Tune has written; nobody needs it once all searches have ended."""

        def delete() -> None:
            path = f"{self._root}/{FOLDER}"
            if self._fs.get_file_info(path).type == FileType.Directory:
                self._fs.delete_dir(path)

        self.store.delete(delete)

    def _row(self, trial: Any) -> dict[str, Any]:
        return self.rows[trial.config["seed"]]

    def _end(self, trial: Any, outcome: dict[str, Any]) -> None:
        row = self._row(trial)
        row |= outcome | {"checkpoint": None}
        self._write()
        found = row["error"] or f"supernet {percent(row['valid_accuracy'])} after {row['seconds']:.0f} s, found {row['arch']['id']}"
        self._say(f"seed {row['seed']}: {found}")

    def _write(self) -> None:
        self.store.put_json(FILE, [dict(row) for row in self.rows.values()])  # as it is now

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks, which nobody ever unpickles; a thread does not travel."""
        return {"uri": self.uri}
