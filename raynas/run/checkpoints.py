"""The checkpoints of a run folder: how one is noted, given back to a trial that goes on, and deleted when nobody needs it."""

import json
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pyarrow.fs import FileSelector, FileType, LocalFileSystem
from ray.tune import Callback, Checkpoint, CheckpointConfig, RunConfig

from raynas import storage
from raynas.errors import ResultsError
from raynas.outcome import as_number
from raynas.run.halt import Halt
from raynas.run.ray_private import start_from

logger = logging.getLogger(__name__)

NEVER = CheckpointConfig(checkpoint_at_end=False)
# After each report, so that a trial loses one epoch at most. Tune keeps all: which one the row on disk points to is not Tune's to know.
EACH_REPORT = CheckpointConfig(checkpoint_frequency=1, checkpoint_at_end=False)
KEPT = 2  # of a trial under way: the newest may be half written when all is killed

# Where Tune writes them: FOLDER/SESSION/TRIAL/CHECKPOINT. No part is empty, `.` or `..`.
_PATH = re.compile(r"(tune|oneshot)(/(?!\.\.?/|\.\.?$)[^/\\\0]+){3}")
_PICKLES = (".pkl", ".pickle")

Saved = Mapping[str, Any]
"""What is kept of a checkpoint, as plain JSON: `path` in the run folder, `training_iteration` and `time_total_s`."""


def run_config(uri: str, folder: str, callback: Callback, checkpoints: Any, stop: Any = None) -> RunConfig:
    """What Tune needs to know to write the checkpoints of one session into a folder of the run folder."""
    filesystem, path = storage.filesystem(storage.join(uri, folder))
    return RunConfig(
        name=f"{datetime.now(UTC):%Y%m%dT%H%M%S}",
        storage_path=path,
        storage_filesystem=filesystem,
        callbacks=[Halt(), callback],
        checkpoint_config=replace(checkpoints),  # Tune may change its own
        verbose=0,
        stop=stop,
    )


class Checkpoints:
    """Those that Tune has written into one run folder."""

    def __init__(self, uri: str) -> None:
        self._fs, self._root = storage.filesystem(uri)
        self.own = True  # whether the run is the user's own, or trusted
        self._obsolete: set[str] = set()  # folders of trials, in the run folder
        self._replaced: list[str] = []  # single checkpoints, likewise
        self._newest: dict[str, list[str]] = {}  # folder of a trial -> its newest checkpoints, the oldest first
        self._problems: dict[str, str | None] = {}  # checkpoint of an earlier session -> what is wrong with it
        # Architecture id -> note of the checkpoint of its trial, which was stopped and may go on; and whether it is ours to delete.
        self.waiting: dict[str, tuple[str, bool]] = {}

    def noted(self, checkpoint: Any, result: Mapping[str, Any]) -> Saved:
        """What to keep of a checkpoint that led to `result`."""
        return {"path": self._inside(checkpoint)} | {key: result[key] for key in ("training_iteration", "time_total_s")}

    def look(self, notes: Collection[Saved]) -> None:
        """Asks the storage what is wrong with checkpoints of earlier sessions, for `give_back`, which must not wait."""
        paths = [str(saved["path"]) for saved in notes]
        self._problems = dict(zip(paths, storage.in_parallel(self._problem, paths), strict=True))

    def give_back(self, trial: Any, saved: Saved) -> str | None:
        """Lets a trial that is about to start go on from a checkpoint; returns what is wrong where it cannot."""
        if problem := self._problems.get(saved["path"]):
            return problem
        checkpoint = Checkpoint(f"{self._root}/{saved['path']}", self._fs)
        start_from(trial, checkpoint, {key: value for key, value in saved.items() if key != "path"})
        return None

    def _problem(self, inside: str) -> str | None:
        path = f"{self._root}/{inside}"
        if not self._within(inside):
            return f"its checkpoint {path} is reached by a symbolic link, so it begins again"
        if self._fs.get_file_info(path).type == FileType.NotFound:
            return f"its checkpoint {path} is gone, so it begins again"
        if not self.own and any(file.base_name.endswith(_PICKLES) for file in self._fs.get_file_info(FileSelector(path, recursive=True))):
            return f"its checkpoint {path} holds pickled objects, and the run is not your own; --trust loads it; so it begins again"
        return None

    def release(self, checkpoint: Any) -> None:
        """Nobody needs the checkpoints of this one's trial any more: they go with the next `deletion`."""
        self._obsolete.add(folder_of({"path": self._inside(checkpoint)}))

    def release_saved(self, saved: Saved) -> None:
        """The same for a checkpoint of which only the note is left."""
        self._obsolete.add(folder_of(saved))

    def release_replaced(self, before: Saved | None, now: Saved) -> None:
        """The same for those that `now` replaces: older ones of this session, and all of an earlier one, from which `before` is."""
        newest = self._newest.setdefault(folder_of(now), [])
        newest.append(str(now["path"]))
        if len(newest) > KEPT:
            self._replaced.append(newest.pop(0))
        if before is not None and folder_of(before) != folder_of(now):
            self.release_saved(before)

    def release_others(self, folder: str, used: Collection[Saved]) -> None:
        """The same for all in the sessions that `folder` holds, but for those of trials that go on from one of `used`."""
        kept = {folder_of(saved) for saved in used}
        for session in self._folders(folder):
            self._obsolete.update(trial for trial in self._folders(session) if trial not in kept)

    def release_waiting(self) -> None:
        """The same for those of trials that did not go on."""
        for note, ours in self.waiting.values():
            if ours:
                self.release_saved(json.loads(note))
        self.waiting = {}

    def deletion(self) -> Callable[[], None] | None:
        """What deletes all that was released until now, once the rows allow it; None: nothing was."""
        folders, single = self._obsolete, self._replaced
        self._obsolete, self._replaced = set(), []
        for folder in folders:
            self._newest.pop(folder, None)
        return partial(self._delete, folders, single) if folders or single else None

    def _delete(self, folders: Collection[str], single: Collection[str]) -> None:
        single = [path for path in single if path.rpartition("/")[0] not in folders]
        storage.in_parallel(self._delete_one, [*single, *(path for folder in folders for path in self._folders(folder))])

    def _delete_one(self, path: str) -> None:
        try:
            self._fs.delete_dir(f"{self._root}/{path}")
        except FileNotFoundError:  # with all others of its trial
            return
        except OSError as error:
            logger.warning("the checkpoint %s cannot be deleted: %s", path, storage.first_line(error))

    def _inside(self, checkpoint: Any) -> str:
        return str(checkpoint.path).removeprefix(f"{self._root}/")

    def _within(self, path: str) -> bool:
        """Whether a path in the run folder leads where it says, and not through a symbolic link to somewhere else."""
        if not isinstance(self._fs, LocalFileSystem):
            return True
        return os.path.realpath(f"{self._root}/{path}") == f"{os.path.realpath(self._root)}/{path}"

    def _folders(self, path: str) -> list[str]:
        """Those in a folder, all as paths in the run folder; what links lead to is not in it."""
        if not self._within(path):
            return []
        infos = self._fs.get_file_info(FileSelector(f"{self._root}/{path}", allow_not_found=True))
        found = [f"{path}/{info.base_name}" for info in infos if info.type == FileType.Directory]
        return [inner for inner in found if self._within(inner)]


def checked(text: str | Saved, what: str) -> Saved:
    """A note of a checkpoint, as JSON or read from it, whose path cannot leave the folders that Tune writes into.

    Raises:
        ResultsError: it is none.
    """
    saved = storage.parse_json(text, what) if isinstance(text, str) else text
    if not isinstance(saved, dict) or not isinstance(saved.get("path"), str) or not _PATH.fullmatch(saved["path"]):
        raise ResultsError(f"{what} is damaged: {saved!r} leads to no checkpoint of this run")
    numbers = [as_number(saved.get(key)) for key in ("training_iteration", "time_total_s")]
    if saved.keys() != {"path", "training_iteration", "time_total_s"} or None in numbers:
        raise ResultsError(f"{what} is damaged: {saved!r} must have path, training_iteration and time_total_s, the latter numbers")
    return saved


def folder_of(saved: Saved) -> str:
    """The folder of all checkpoints of the trial, in the run folder."""
    return str(saved["path"]).rpartition("/")[0]
