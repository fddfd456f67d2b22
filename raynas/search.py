"""`python -m raynas.search`: searches an architecture on a Ray cluster and leaves a run folder.

Without arguments: BANANAS, 150 trials, NAS-Bench-201's CIFAR-10 results from the installed package, on this machine.
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Tune's own tables would tear the live one apart; Tune reads these when it is imported.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # the recorder says in one line what failed
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")  # epochs may take less than the 5 s of this

import ray
from ray import tune
from rich.console import Console

from raynas import results, storage
from raynas.cli import DONE, FAILED, INTERRUPTED, Parser, add_flags, run_command
from raynas.config import RESUMABLE, RunConfig, assign, make_config, provenance, read_yaml
from raynas.errors import ConfigError, ResultsError, ResumeError
from raynas.outcome import VALID_ACCURACY, Objective
from raynas.registry import check_options, resolve
from raynas.results import Tables
from raynas.run.connect import connect
from raynas.run.display import Display, percent
from raynas.run.recorder import Recorder
from raynas.run.schedulers import make_scheduler, remembers, replay
from raynas.run.supernets import SEEDS, OneShot, is_oneshot
from raynas.spaces import make_space
from searchers import make_searcher
from searchers.tune import TuneSearcher
from trainables import TRAINABLES
from trainables.base import Plan

METRIC = VALID_ACCURACY.name


def parser() -> Parser:
    """The command line."""
    made = Parser(prog="python -m raynas.search", description=(__doc__ or "").partition("\n\n")[2], allow_abbrev=False)
    made.add_argument("--config", metavar="FILE", help="configuration as YAML; flags and --set override it")
    made.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any setting, e.g. searcher_options.pool=500")
    made.add_argument("--resume", metavar="DIR", help="goes on with the interrupted run in this folder")
    add_flags(made, RunConfig)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.search --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    flags = vars(parser().parse_args(argv))
    path, assignments, folder = flags.pop("config"), flags.pop("set"), flags.pop("resume")
    given = read_yaml(path) if path else {}
    assign(given, assignments)
    given = _absolute(given | flags)
    console = Console()
    if folder is None:
        config = make_config(given, RunConfig)
        if is_oneshot(config.trainable) and "trials" not in given:
            config = config.model_copy(update={"trials": SEEDS})
        uri = config.out or _new_folder(config)
        if storage.exists(uri, "config.json") or storage.exists(uri, "parts"):
            raise ResultsError(f"{uri} already holds a run; go on with it by --resume {uri}, or choose another --out")
        return Search(config, uri, console).run()
    stored = _absolute(storage.read_json(folder, "config.json").get("config", {}))
    _check_resume(stored, given, folder)
    return Search(make_config(stored | given, RunConfig), folder, console, results.read(folder)).run()


def _absolute(given: dict[str, Any]) -> dict[str, Any]:
    """The settings with paths that hold everywhere: trials have working directories of their own, and a run may go on from another."""

    def path(text: Any) -> Any:
        return str(Path(text).expanduser().resolve()) if isinstance(text, str) and "://" not in text else text

    changed = {"table": path(given["table"])} if "table" in given else {}
    dataset, options = given.get("dataset"), given.get("trainable_options")
    if isinstance(dataset, str) and dataset.startswith("folder:"):
        changed["dataset"] = "folder:" + path(dataset.removeprefix("folder:"))
    if isinstance(options, dict) and "data_dir" in options:
        changed["trainable_options"] = options | {"data_dir": path(options["data_dir"])}
    return given | changed


def _new_folder(config: RunConfig) -> str:
    method = config.trainable if is_oneshot(config.trainable) else config.searcher
    name = f"{config.space}-{method}".replace(":", "-")
    base = f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"
    return next(path for path in [base, *(f"{base}-{i}" for i in range(2, 100))] if not Path(path).exists())


def _check_resume(stored: dict[str, Any], given: dict[str, Any], folder: str) -> None:
    for key, value in given.items():
        if key not in RESUMABLE and key in RunConfig.model_fields and stored.get(key) != value:
            raise ResumeError(
                f"the run in {folder} has {key} = {stored.get(key)!r}, so it cannot go on with {value!r}; "
                "leave that out, or start a new run with another --out"
            )


class Search:
    """One session of one run: a new run, or with `before` the continuation of an interrupted one."""

    def __init__(self, config: RunConfig, uri: str, console: Console, before: Tables | None = None) -> None:
        self.given, self.uri, self.console, self.before = config, uri, console, before
        self.oneshot = OneShot(config, uri) if is_oneshot(config.trainable) else None  # finds the architectures; else the searcher does
        self.config = config = self.oneshot.retraining if self.oneshot else config
        self.space = make_space(config.space, config.space_options)
        self.trainable = resolve(TRAINABLES, config.trainable, "trainable")
        self.trial_config = self._trial_config()
        plan = getattr(self.trainable, "plan", None)
        if plan is not None:
            self.trial_config |= check_options(plan, config.trainable_options, f"trainable {config.trainable!r}")
        self.plan: Plan = plan(**self.trial_config) if plan else Plan(config.max_epochs)
        self.searcher = self._searcher()
        self.scheduler = make_scheduler(config.scheduler, METRIC, "max", self.plan.max_epochs, config.scheduler_options)

    def _trial_config(self) -> dict[str, Any]:
        config = self.config
        common = {"space": config.space, "space_options": config.space_options, "table": config.table, "dataset": config.dataset}
        return common | {"max_epochs": config.max_epochs, "seed": config.seed} | config.trainable_options

    def _train_command(self) -> str:
        command = f"python -m raynas.train --arch {shlex.quote(storage.join(self.uri, 'best.json'))}"
        if self.config.trainable != "lookup":
            command += f" --dataset {shlex.quote(self.config.dataset)}"
        if "recipe" in self.config.trainable_options:
            command += f" --recipe {shlex.quote(str(self.config.trainable_options['recipe']))}"
        return command

    def _searcher(self) -> TuneSearcher:
        seed = self.config.seed if self.before is None else (self.config.seed, len(self.before.trials))  # not the same draws again
        return make_searcher(
            self.config.searcher,
            self.space,
            self.config.searcher_options,
            metric=METRIC,
            mode="max",
            seed=seed,
            max_epochs=self.plan.max_epochs,
            # Beside trials that answer at once another process would always come too late.
            fitting="inline" if self.plan.instant else "process",
        )

    def run(self) -> int:
        """Runs to the end; returns the exit code."""
        done = 0 if self.before is None else len(self.before.trials)
        left = self.config.trials - done
        slots = self._slots(connect(self.config.address)) if left > 0 else 0
        if self.before is None:  # first of all: a folder with a configuration can be resumed, whatever happens next
            started = datetime.now(UTC).isoformat(timespec="seconds")
            storage.write_json(self.uri, "config.json", {"config": self.given.model_dump()} | provenance() | {"started_at": started})
        recorder = Recorder(
            self.uri,
            self.searcher,
            objective=Objective(),
            space=self.space,
            trials=self.config.trials,
            max_epochs=self.plan.max_epochs,
            command=self._train_command(),
            about={"space": self.config.space, "space_options": self.config.space_options},
            per_trial=self.config.tensorboard_trials,
            scheduler=self.scheduler if remembers(self.scheduler) else None,
            before=self.before,
        )
        if self.before is not None:
            self._recall(recorder)
        try:
            if left > 0 and self.oneshot is not None:
                archs = self.oneshot.search(slots, self.console)
                self.searcher.enqueue(archs)
                recorder.progress.trials, left = len(archs), len(archs) - done
            if left > 0:
                self._tune(recorder, left, slots)
        except KeyboardInterrupt:
            self.console.print("interrupted")
        finally:
            recorder.close()
            ray.shutdown()
        return self._finish(recorder)

    def _recall(self, recorder: Recorder) -> None:
        """Tells searcher and scheduler what earlier sessions found out, and puts unfinished trials first."""
        assert self.before is not None
        curves: dict[str, list[tuple[float, float]]] = {}
        for report in self.before.reports.to_pylist():
            if report[METRIC] is not None:
                curves.setdefault(report["trial_id"], []).append((report["epoch"], report[METRIC]))
        engine = self.searcher.engine
        engine.tell_many(
            engine.observation(
                self.space.from_config(json.loads(row["arch"])),
                row | {"epoch": row["epochs"]},
                curves.get(row["trial_id"], []),
                error=(row["error"] or "it failed") if row["status"] == "failed" else None,
            )
            for row in self.before.trials.to_pylist()
        )
        self.searcher.enqueue(self.space.from_config(json.loads(row["arch"])) for row in recorder.unfinished.values())
        if remembers(self.scheduler):
            replay(self.scheduler, self.before)
        if self._checkpoints().checkpoint_frequency:
            recorder.forget_checkpoints()

    def _tune(self, recorder: Recorder, left: int, slots: int) -> None:
        """Lets Tune run the trials that are left."""
        config, (filesystem, path) = self.config, storage.filesystem(storage.join(self.uri, "tune"))
        activity = f"{config.searcher} searches" if self.oneshot is None else "training architectures of"
        self.console.print(
            f"{activity} {config.space}: {left} trials, {slots} at once; results go to {self.uri}",
            highlight=False,
            soft_wrap=True,
        )
        tuner = tune.Tuner(
            tune.with_resources(self.trainable, {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}),
            param_space=self.trial_config,
            tune_config=tune.TuneConfig(
                search_alg=self.searcher,
                scheduler=self.scheduler,
                num_samples=left,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=f"{datetime.now(UTC):%Y%m%dT%H%M%S}",
                storage_path=path,
                storage_filesystem=filesystem,
                callbacks=[recorder],
                failure_config=tune.FailureConfig(max_failures=config.max_failures),
                checkpoint_config=self._checkpoints(),
                verbose=0,
            ),
        )
        recorder.display = Display(self.console)  # not before: Tune pickles the recorder in the line above
        tuner.fit()

    def _checkpoints(self) -> tune.CheckpointConfig:
        """After each report, so that a trial loses one epoch at most; two, as the newest may be half written when all is killed."""
        save = getattr(self.trainable, "save_checkpoint", None)  # a function has none, and writes checkpoints as it likes
        if self.plan.instant or save in (None, tune.Trainable.save_checkpoint):
            return tune.CheckpointConfig(checkpoint_at_end=False)
        return tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1, checkpoint_at_end=False)

    def _slots(self, local: bool) -> int:
        """How many trials run at once; says so where the cluster cannot do what was asked.

        Raises:
            ConfigError: on a machine of our own, where no further node will ever join, not even one trial fits.
        """
        slots = []
        for kind, flag, needed in (
            ("CPU", "--cpus-per-trial", self.config.cpus_per_trial),
            ("GPU", "--gpus-per-trial", self.config.gpus_per_trial),
        ):
            if not needed:
                continue
            there = [node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"]]
            if max(there, default=0.0) < needed:
                problem = f"{flag} {needed:g}: the largest node has {max(there, default=0.0):g} {kind}s, the whole cluster {sum(there):g}"
                if local:
                    raise ConfigError(f"{problem}; ask for less, or use a cluster with --address")
                self.console.print(f"warning: {problem}; trials wait until a larger node joins (Ctrl-C ends the wait)", soft_wrap=True)
                continue
            slots.append(sum(int(amount / needed + 1e-9) for amount in there))
        room = min(slots, default=1)
        if self.config.concurrency is not None and slots and room < self.config.concurrency:
            self.console.print(
                f"warning: {self.config.concurrency} trials at once were asked for, the cluster has room for {room} now", soft_wrap=True
            )
        return self.config.concurrency or room

    def _finish(self, recorder: Recorder) -> int:
        """Prints the summary; the exit code says whether the run is complete."""
        progress, resume = recorder.progress, f"python -m raynas.search --resume {shlex.quote(self.uri)}"
        show = self.console.out
        if recorder.best is not None:
            best = recorder.best
            show(f"\nBest architecture: {best['arch_id']}")
            show(f"  {json.dumps(json.loads(best['arch']), separators=(',', ':'))}")
            distance = ""
            if self.plan.optimum is not None:
                distance = (
                    f" ({100 * (self.plan.optimum - best[METRIC]):.3f} points below the best of the table, {percent(self.plan.optimum)})"
                )
            show(f"  validation accuracy {percent(best[METRIC])}{distance}")
            show(
                f"  test accuracy       {percent(best['test_accuracy'])}"
                if best.get("test_accuracy")
                else "  test accuracy       not known"
            )
            show(f"  parameters          {best['parameters']:,}, {best['flops'] / 1e6:,.1f} M multiply-accumulates")
        show(f"Results:     {self.uri} (trials.parquet, reports.parquet, best.json)")
        show(f"TensorBoard: tensorboard --logdir {shlex.quote(storage.join(self.uri, 'tensorboard'))}")
        if recorder.best is not None:
            show(f"Train it:    {recorder.command}")
        if progress.ended >= progress.trials:
            return DONE if progress.failed < progress.ended else FAILED
        if self.searcher.exhausted:
            show(f"The space holds no more architectures: {progress.ended} of {progress.trials} trials were possible.")
            return DONE
        show(f"Interrupted after {progress.ended} of {progress.trials} trials. Go on with: {resume}")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
