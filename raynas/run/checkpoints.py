"""The checkpoints of a run folder: how one is noted, given back to a trial that goes on, and deleted when nobody needs it."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pyarrow.fs import FileSelector, FileType
from ray.tune import Callback, Checkpoint, CheckpointConfig, RunConfig

from raynas import storage
from raynas.run.ray_private import start_from

logger = logging.getLogger(__name__)

NEVER = CheckpointConfig(checkpoint_at_end=False)
# After each report, so that a trial loses one epoch at most; two, as the newest may be half written when all is killed.
EACH_REPORT = CheckpointConfig(num_to_keep=2, checkpoint_frequency=1, checkpoint_at_end=False)

Saved = Mapping[str, Any]
"""What is kept of a checkpoint, as plain JSON: `path` in the run folder, `training_iteration` and `time_total_s`."""


def run_config(uri: str, folder: str, callback: Callback, checkpoints: Any, stop: Any = None) -> RunConfig:
    """What Tune needs to know to write the checkpoints of one session into a folder of the run folder."""
    filesystem, path = storage.filesystem(storage.join(uri, folder))
    return RunConfig(
        name=f"{datetime.now(UTC):%Y%m%dT%H%M%S}",
        storage_path=path,
        storage_filesystem=filesystem,
        callbacks=[callback],
        checkpoint_config=replace(checkpoints),  # Tune may change its own
        verbose=0,
        stop=stop,
    )


class Checkpoints:
    """Those that Tune has written into one run folder."""

    def __init__(self, uri: str) -> None:
        self._fs, self._root = storage.filesystem(uri)
        self._obsolete: set[str] = set()  # folders of trials, in the run folder

    def noted(self, checkpoint: Any, result: Mapping[str, Any]) -> Saved:
        """What to keep of a checkpoint that led to `result`."""
        return {"path": self._inside(checkpoint)} | {key: result[key] for key in ("training_iteration", "time_total_s")}

    def give_back(self, trial: Any, saved: Saved) -> str | None:
        """Lets a trial that is about to start go on from a checkpoint; returns what is wrong where it is gone."""
        path = f"{self._root}/{saved['path']}"
        if self._fs.get_file_info(path).type == FileType.NotFound:
            return f"its checkpoint {path} is gone, so it begins again"
        start_from(trial, Checkpoint(path, self._fs), {key: value for key, value in saved.items() if key != "path"})
        return None

    def release(self, checkpoint: Any) -> None:
        """Nobody needs the checkpoints of this one's trial any more: they go with the next `delete`."""
        self._obsolete.add(folder_of({"path": self._inside(checkpoint)}))

    def release_saved(self, saved: Saved) -> None:
        """The same for a checkpoint of which only the note is left."""
        self._obsolete.add(folder_of(saved))

    def release_replaced(self, before: Saved, now: Saved) -> None:
        """The same for those of an earlier session, once this one has written its first."""
        if folder_of(before) != folder_of(now):
            self.release_saved(before)

    def release_others(self, folder: str, used: Collection[Saved]) -> None:
        """The same for all in the sessions that `folder` holds, but for those of trials that go on from one of `used`."""
        kept = {folder_of(saved) for saved in used}
        for session in self._folders(folder):
            self._obsolete.update(trial for trial in self._folders(session) if trial not in kept)

    def delete(self) -> None:
        """Deletes what was released."""
        while self._obsolete:
            for path in self._folders(self._obsolete.pop()):
                try:
                    self._fs.delete_dir(f"{self._root}/{path}")
                except OSError as error:
                    logger.warning("the checkpoint %s cannot be deleted: %s", path, error)

    def _inside(self, checkpoint: Any) -> str:
        return str(checkpoint.path).removeprefix(f"{self._root}/")

    def _folders(self, path: str) -> list[str]:
        """Those in a folder, all as paths in the run folder."""
        infos = self._fs.get_file_info(FileSelector(f"{self._root}/{path}", allow_not_found=True))
        return [f"{path}/{info.base_name}" for info in infos if info.type == FileType.Directory]


def folder_of(saved: Saved) -> str:
    """The folder of all checkpoints of the trial, in the run folder."""
    return str(saved["path"]).rpartition("/")[0]
