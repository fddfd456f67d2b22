"""One session of a run on Ray: a new run, or the continuation of an interrupted one."""

import gc
import inspect
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np
import ray
from ray import tune
from ray.tune.schedulers import HyperBandScheduler, MedianStoppingRule
from rich.console import Console

from raynas import signals, storage
from raynas.columns import check_names
from raynas.config import RunConfig, provenance
from raynas.errors import ConfigError, RaynasError
from raynas.outcome import METRICS, Objective, as_number, budget_of, declare
from raynas.registry import check_options, keywords, resolve
from raynas.results import Tables
from raynas.run.checkpoints import EACH_REPORT, NEVER, run_config
from raynas.run.connect import cluster
from raynas.run.display import Display
from raynas.run.ending import closing, one_line
from raynas.run.memory import measured
from raynas.run.proxies import proxies_of
from raynas.run.ray_private import kept, unburdened
from raynas.run.recorder import Recorder
from raynas.run.resume import arch_of
from raynas.run.retries import Retries
from raynas.run.schedulers import BananasAsha, make_scheduler, remembers, replay
from raynas.run.slots import needs_of, slots
from raynas.run.summary import Run, read_run
from raynas.run.supernets import Supernets
from raynas.run.tensorboard import hyperparameters
from raynas.run.trackers import Trackers, check_trackers
from raynas.run.train_command import train_command
from raynas.run.warm_start import dataset_of, observations, other_runs
from raynas.spaces import SearchSpace, make_space
from raynas.trust import SIGNATURE, modules, signed
from searchers import Method, make_searcher, oneshot_method
from searchers.tune import TuneSearcher
from trainables import TRAINABLES
from trainables.base import Plan
from trainables.learning.blame import blamed

_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's own tables would tear the live one apart
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # else a report without the metric ends the run; here it fails its trial
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the recorder says in one line what failed
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",  # epochs may take less than the 5 s of this
}


class Session:
    """One session of one run: a new run, or with `before` the continuation of an interrupted one.

    Args:
        own: whether what earlier sessions left is the user's own, or trusted: pickled checkpoints are loaded then.

    Raises:
        RaynasError: something that the user asked for cannot work; nothing has been written then.
    """

    def __init__(self, config: RunConfig, uri: str, console: Console, before: Tables | None = None, own: bool = True) -> None:
        self.config, self.uri, self.console, self.before, self.own = config, uri, console, before, own
        self.file: dict[str, Any] = {}  # what config.json holds
        needs_of(config)
        check_trackers(config.log, config.log_options)
        self.whole_space = make_space(config.space, config.space_options)
        check_space(self.whole_space, config.space)
        self.trainable = resolve(TRAINABLES, config.trainable, "trainable")
        check_trainable(self.trainable, config.trainable)
        declared = {metric.name: metric for metric in getattr(self.trainable, "metrics", ())}
        self.metrics = declare(config.metrics, METRICS | declared)
        self.objective = Objective.parse(config.objective, config.limit, self.metrics)
        check_names(self.objective)
        self.trial_config = self._trial_config()
        self.plan = self._plan()
        self.space = self.plan.space or self.whole_space  # what trials can answer
        method = oneshot_method(config.searcher, config.searcher_options)
        self.supernets = None if method is None else Supernets(method, config, uri, own)  # they find the architectures of a one-shot search
        self.searcher = self._searcher(method)
        first = self.objective.first
        self.scheduler = make_scheduler(
            config.scheduler, first.name, first.direction or "max", self.plan.max_epochs, config.scheduler_options
        )
        if isinstance(self.scheduler, BananasAsha):
            self.scheduler.bind(self.searcher.engine)
        check_pauses(self.scheduler, self.trainable, config)
        self.others = other_runs(config, uri, self.plan.max_epochs)
        self.command, self.hint = train_command(uri, config, dataset_of(config))
        self.retries = Retries.of(config)

    def _trial_config(self) -> dict[str, Any]:
        config = self.config
        common = {"space": config.space, "space_options": config.space_options, "table": config.table, "dataset": config.dataset}
        common |= {"max_epochs": config.max_epochs, "seed": config.seed} | config.trainable_options
        if config.recipe is None:
            return common
        if "recipe" in config.trainable_options:
            raise ConfigError("the recipe is given twice, as recipe and as trainable_options.recipe; leave out one of them")
        return common | {"recipe": config.recipe}

    def _plan(self) -> Plan:
        config, plan = self.config, getattr(self.trainable, "plan", None)
        if plan is None:  # what nothing stops early is complete, whatever it reports
            return Plan(None if config.scheduler == "fifo" else config.max_epochs)
        if config.recipe is not None and "recipe" not in keywords(plan):
            raise ConfigError(f"the trainable {config.trainable!r} takes no recipe; leave --recipe out, or add --trainable train")
        given = {key: self.trial_config[key] for key in (*config.trainable_options, "recipe") if key in self.trial_config}
        self.trial_config |= check_options(plan, given, f"trainable {config.trainable!r}")
        made: Plan = plan(**self.trial_config)
        return made

    def _searcher(self, method: Method | None) -> TuneSearcher:
        config = self.config
        settings: dict[str, Any] = {
            "objective": self.objective,
            "seed": config.seed if self.before is None else (config.seed, len(self.before.trials)),  # not the same draws again
            "max_epochs": self.plan.max_epochs,
            # Trials that answer at once would not wait for a fit: so it is waited for.
            "fitting": "apart" if self.plan.instant else "process",
        }
        proxies = proxies_of(config, self.trainable, self.trial_config, self.space, self.objective, self.console)
        if method is not None:
            return TuneSearcher(self.space, method=method, **settings)
        try:
            return make_searcher(config.searcher, self.space, config.searcher_options | proxies, **settings)
        except RaynasError:
            raise
        except Exception as error:  # whatever a class of the user's own raises
            problem = f"{type(error).__name__}: {error}"
            raise ConfigError(f"searcher {config.searcher!r} cannot be made with {config.searcher_options}: {problem}") from error

    def run(self, guard: Callable[..., None] = lambda look=False: None) -> Run:
        """Runs to the end, or until Ctrl-C; what is known then is on disk. A Ray that was running before is left running.

        Args:
            guard: raises RunLost where the folder is ours no more.

        Raises:
            RunLost: the storage has not answered for too long.
        """
        done = 0 if self.before is None else len(self.before.trials)
        left, room = self.config.trials - done, 0
        if left <= 0:
            self.console.print(f"{done} trials are done, {self.config.trials} were asked for: nothing is left to do", highlight=False)
        if (method := self.searcher.engine.method).learns and left > 0 and not self.others and self.config.trials <= method.num_initial:
            what = f"{self.config.searcher} learns from {method.num_initial} random architectures first"
            self.console.print(
                f"{what}, so all {self.config.trials} will be random; --set searcher_options.num_initial=N changes that",
                highlight=False,
                soft_wrap=True,
            )
        with ExitStack() as stack:
            stack.callback(self.searcher.engine.close)
            stack.enter_context(_tune_environment())
            stack.enter_context(unburdened())
            self.file = (
                self._write_config()
            )  # before anything is known: a folder with a configuration can be resumed, whatever happens next
            if left > 0:
                self._load()
                room = self._join(stack)
            stack.enter_context(signals.held())  # what follows is left where `Halt` says, and closed in any case
            recorder = self._recorder(guard)
            recorder.checkpoints.own = self.own
            with one_line(self.uri), closing(recorder, self.file, lambda: self.searcher.exhausted), one_line(self.uri):
                try:
                    self._tell(recorder)
                    if left > 0 and self.supernets is not None:
                        archs = self.supernets.search(room, self.console, recorder.store)
                        self.searcher.enqueue(archs)
                        recorder.progress.trials, left = len(archs), len(archs) - done
                    if left > 0:
                        self._tune(recorder, left, room)
                except KeyboardInterrupt:
                    self.console.print("interrupted")
                except Exception:  # the processes of Ray may have got the signal too
                    if signals.received() is None or recorder.store.lost is not None:
                        raise
                    self.console.print("interrupted")
        if self.searcher.engine.problem is not None:
            name, problem = self.config.searcher, self.searcher.engine.problem
            self.console.print(f"warning: {name} never proposed anything, so this was random search: {problem}", soft_wrap=True)
        return read_run(self.uri, self.config, self.objective, recorder.progress, self.searcher.exhausted)

    def _load(self) -> None:
        """Loads what takes its time beside the start of a cluster, which leaves the processors idle half of the time."""
        self.searcher.engine.warm_up()
        threading.Thread(target=self.searcher.engine.method.load, name="raynas-load", daemon=True).start()

    def _join(self, stack: ExitStack) -> int:
        """Joins or starts a cluster for as long as `stack` is open, and notes which; how many trials have room there at once.

        Raises:
            ConfigError: there is none, or no room; of a new run nothing is left behind.
        """
        try:
            with self.console.status("Ray starts ..."):
                joined = stack.enter_context(cluster(self.config.address, modules(self.config.model_dump())))
                room = slots(self.config, [node["Resources"] for node in ray.nodes() if node["Alive"]], joined.grows)
            self.console.print(f"{joined}; {room} trial{'s' * (room != 1)} at once", highlight=False, soft_wrap=True)
        except RaynasError:
            if self.before is None:
                storage.delete(self.uri, "config.json")
            raise
        self.file |= {"cluster": joined.to_json(), "ended": None}
        storage.write_json(self.uri, "config.json", self.file)
        return room

    def _write_config(self) -> dict[str, Any]:
        """Writes config.json, and returns what it holds; what a resumed run was told to change counts for later sessions too."""
        config: dict[str, Any] = {"config": self.config.model_dump()}
        if self.before is None:
            config |= provenance() | {"started_at": datetime.now(UTC).isoformat(timespec="seconds")}
        else:
            config = storage.read_json(self.uri, "config.json") | config
        config.pop(SIGNATURE, None)
        if not isinstance(config.get("run_id"), str):  # of an earlier version, or a stranger's
            config["run_id"] = secrets.token_hex(8)
        if self.own:  # that a name was repeated makes it not one's own
            config = signed(config)
        storage.write_json(self.uri, "config.json", config)
        return config

    def _recorder(self, guard: Callable[..., None]) -> Recorder:
        config, settings, run_id = self.config, hyperparameters(self.config.model_dump()), self.file["run_id"]
        return Recorder(
            self.uri,
            self.searcher,
            objective=self.objective,
            space=self.whole_space,
            trials=config.trials,
            max_epochs=self.plan.max_epochs,
            command=self.command,
            about={"space": config.space, "space_options": config.space_options},
            columns={"run_id": run_id, "cpus": config.cpus_per_trial, "gpus": config.gpus_per_trial},
            device=f"{config.gpus_per_trial:g} GPU" if config.gpus_per_trial else "cpu",
            per_trial=config.tensorboard_trials,
            scheduler=self.scheduler if remembers(self.scheduler) else None,
            before=self.before,
            guard=guard,
            retries=self.retries,
            settings=settings,
            metrics=self.metrics,
            trackers=Trackers(config.log, config.log_options, run_id, settings),
        )

    def _tell(self, recorder: Recorder) -> None:
        """Tells searcher and scheduler what earlier sessions and other runs found out, and puts unfinished trials first."""
        engine = self.searcher.engine
        earlier = [*(other.tables for other in self.others if not other.differs), *([] if self.before is None else [self.before])]
        for other in self.others:
            if other.differs:
                results = engine.tell_prior(observations(engine, self.whole_space, other.tables))
                self.console.print(other.line(results, engine), highlight=False, markup=False, soft_wrap=True)
        engine.tell_many([told for tables in earlier for told in observations(engine, self.whole_space, tables)])
        if self.before is None:
            return
        for row in recorder.unfinished.values():
            self.searcher.enqueue([arch_of(row, self.whole_space)], row["budget"])
        engine.history.memory = recorder.memory
        if remembers(self.scheduler):
            replay(self.scheduler, self.before, self.objective.first.name)
        recorder.look_for_checkpoints(forget=bool(self._checkpoints().checkpoint_frequency))

    def _tune(self, recorder: Recorder, left: int, room: int) -> None:
        """Lets Tune run the trials that are left."""
        config = self.config
        if self.supernets is not None:
            self.console.print(f"training {left} architectures that were found", highlight=False)
        tuner = tune.Tuner(
            tune.with_resources(measured(self.trainable), {"cpu": config.cpus_per_trial, "gpu": config.gpus_per_trial}),
            param_space=self.trial_config,
            tune_config=tune.TuneConfig(
                search_alg=self.searcher,
                scheduler=self.scheduler,
                num_samples=left,
                max_concurrent_trials=room,
                reuse_actors=can_be_reused(self.trainable),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=run_config(self.uri, "tune", recorder, self._checkpoints(), self._stopper()),
        )
        recorder.display = Display(self.console)  # not before: Tune pickles the recorder in the line above
        with still_heap(), kept(self.retries):
            tuner.fit()

    def _stopper(self) -> Any:
        """Ends trials of a trainable without a plan at --max-epochs: they need not know it."""
        if hasattr(self.trainable, "plan") or self.config.max_epochs is None:
            return None
        return FullBudget(self.config.max_epochs)

    def _checkpoints(self) -> tune.CheckpointConfig:
        save = getattr(self.trainable, "save_checkpoint", None)  # a function has none, and writes checkpoints as it likes
        return NEVER if self.plan.instant or save in (None, tune.Trainable.save_checkpoint) else EACH_REPORT


def check_space(space: SearchSpace, name: str) -> None:
    """Tries what every search asks of a space, which may be a user's own.

    Raises:
        ConfigError: one of its methods fails, or a description does not lead back to its architecture.
    """
    with blamed(f"the space {name!r}"):
        arch = space.sample(np.random.default_rng(0))
        space.mutate(arch, np.random.default_rng(0))
        space.paths(arch)
        costs = space.cost(arch)._asdict()
        fits = space.from_config(json.loads(json.dumps(arch.to_config()))) == arch
    for key, cost in costs.items():
        if as_number(cost) is None or not float(cost).is_integer() or not 0 <= cost < 2**63:
            raise ConfigError(f"the space {name!r} does not work: {key} of cost(arch) must be a whole number from 0 to 2**63, not {cost!r}")
    if not fits:
        raise ConfigError(f"the space {name!r} does not work: from_config(arch.to_config()) is not the architecture {arch.id}")


def check_trainable(trainable: Any, name: str) -> None:
    """Refuses what Tune cannot run.

    Raises:
        ConfigError: it is neither a class of Tune's nor a function of a configuration.
    """
    if inspect.isclass(trainable):
        fits = issubclass(trainable, tune.Trainable)
    else:
        try:
            inspect.signature(trainable).bind({})
            fits = True
        except (TypeError, ValueError):  # nothing that can be called, or not with one argument
            fits = False
    if not fits:
        allowed = "a subclass of ray.tune.Trainable or a function of one configuration"
        raise ConfigError(f"the trainable {name!r} must be {allowed}, but is neither")


def check_pauses(scheduler: Any, trainable: Any, config: RunConfig) -> None:
    """Refuses a scheduler that pauses trials, which cannot go on.

    Raises:
        ConfigError: the trainable is a class without checkpoints.
    """
    pausing = isinstance(scheduler, (HyperBandScheduler, MedianStoppingRule))
    if pausing and getattr(trainable, "save_checkpoint", None) is tune.Trainable.save_checkpoint:
        mend = "define save_checkpoint and load_checkpoint there, or use asha"
        raise ConfigError(f"the scheduler {config.scheduler!r} pauses trials, but {config.trainable!r} cannot go on: {mend}")


class FullBudget(tune.Stopper):  # type: ignore[misc]  # ray has no types
    """Stops a trial that has spent a full budget."""

    def __init__(self, max_epochs: int) -> None:
        self.max_epochs = max_epochs

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return (budget_of(result) or 0.0) >= self.max_epochs

    def stop_all(self) -> bool:
        return False


def can_be_reused(trainable: Any) -> bool:
    """Whether an actor of the trainable can become another trial: a class must say how, by `reset_config`; Tune does it for functions."""
    reset = getattr(trainable, "reset_config", None)  # a function has none
    return reset is not tune.Trainable.reset_config


@contextmanager
def _tune_environment() -> Iterator[None]:
    """How Tune behaves during a run; what a user has set, counts."""
    wanted = _TUNE | ({"TUNE_DISABLE_SIGINT_HANDLER": "1"} if signals.installed() else {})
    changed = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(changed)
    try:
        yield
    finally:
        for key in changed:
            del os.environ[key]


@contextmanager
def still_heap() -> Iterator[None]:
    """Spares the garbage collector what is there already, as all modules: to look through that would hold up the control loop."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
