"""Why trials failed, from the texts that Ray leaves."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from raynas.errors import TableError
from raynas.run.failures import Blame, Hung, blame, failure, reason

HEAD = "Failure # {} (occurred at 2026-11-24_23-14-55)\n"
FRAMES = """\x1b[36mray::ResourceTrainable.train()\x1b[39m (pid=1, ip=127.0.0.1, repr=<T object at 0x7>)
  File "/ray/tune/trainable/trainable.py", line 326, in train
    result = self.step()
             ^^^^^^^^^^^
  File "/mine.py", line 9, in step
    raise error
"""
CAUSE = """\x1b[36mray::ResourceTrainable.train()\x1b[39m (pid=1, ip=127.0.0.1)
  File "/mine.py", line 3, in step
    1 / 0
ZeroDivisionError: division by zero

The above exception was the direct cause of the following exception:

"""
CUDA = "torch.AcceleratorError: CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later.\nFor debugging: x\n"
INNER = (
    "ray.exceptions.RayTaskError(KeyError): \x1b[36mray::work()\x1b[39m (pid=2)\n"
    + '  File "/work.py", line 1, in work\n'
    + "KeyError: 'x'\n"
)
DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: T\n\tpid: 7\nThe actor is dead because its process has died.\n"
)
OOM = "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: x, ID: y) was 9GB used"
LOST = DIED + "The actor died because its node has died. Node Id: 7\n"
KILLED = (
    DIED + "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: connection error\n"
)
IMPORT = (
    "The actor died because of an error raised in its creation task, \x1b[36mray::T.__init__()\x1b[39m (pid=1)\n           ^^^\n"
    "RuntimeError: The actor with name T failed to import on the worker. This may be because:\n\nray::T.__init__() (pid=1)\n"
    "                  ^^^\nModuleNotFoundError: No module named 'mine'\n"
)
CREATION = "The actor died because of an error raised in its creation task, \x1b[36mray::T.__init__()\x1b[39m (pid=1)\n"
TEXTS = {
    "an error of one line": (FRAMES + "ValueError: bad thing\n", "ValueError: bad thing"),
    "an error of several": (FRAMES + "ValueError: bad thing\nsecond: line\n third\n", "ValueError: bad thing"),
    "an error of CUDA": (FRAMES + CUDA, "AcceleratorError: CUDA error: device-side assert triggered"),
    "an error without a message": (FRAMES + "AssertionError\n", "AssertionError"),
    "an error with a cause": (CAUSE + FRAMES + CUDA, "AcceleratorError: CUDA error: device-side assert triggered"),
    "an error of another task": (FRAMES + INNER, "KeyError: 'x'"),
    "a constructor": (CREATION + FRAMES + "mine.MyError: no data\n", "MyError: no data"),
    "a process that died": (DIED, "The actor died unexpectedly before finishing this task."),
    "a process that was killed": (KILLED, "ActorDiedError: its process was killed, or crashed"),
    "a process that ended itself": (KILLED + "Worker exits with an exit code 2.", "ActorDiedError: its process ended with exit code 2"),
    "a node that was lost": (LOST, "NodeDiedError: its node was lost"),
    "a process out of reach": ("The actor 41 is unavailable: RpcError", "ActorUnavailableError: its process is out of reach"),
    "a node without memory": (OOM, "OutOfMemoryError: its node ran out of memory"),
    "a module that is missing": (IMPORT, "ModuleNotFoundError: No module named 'mine'"),
    "nothing": ("\n", "no reason is known"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_the_reason_is_the_type_and_the_first_line_of_the_message(case: str) -> None:
    text, expected = TEXTS[case]
    assert reason(text) == expected


def test_the_last_attempt_counts_and_the_text_has_all(tmp_path: Path) -> None:
    path = tmp_path / "error.txt"
    path.write_text(HEAD.format(1) + FRAMES + "ValueError: first\n" + HEAD.format(2) + DIED)
    found = failure(SimpleNamespace(error_file=str(path)))
    assert found.reason == "The actor died unexpectedly before finishing this task."
    assert "ValueError: first" in found.text
    assert "\x1b" not in found.text
    assert found.text.count("Failure #") == 2


def raised(error: Exception, frames: str = FRAMES) -> RayTaskError:
    """What Ray hands over where the method of a trial raised `error`."""
    return RayTaskError("train", f"{frames}{type(error).__name__}: {error}\n", error)


PERSIST = FRAMES + '  File "/ray/train/_internal/storage.py", line 100, in _pyarrow_fs_copy_files\n    copy()\n'
SHARED = "Unable to set up cluster storage with the following settings:"
BLAMED = {
    "an exception": (raised(ValueError("bad")), Blame("architecture")),
    "memory of the process": (raised(MemoryError("x")), Blame("architecture")),
    "memory of the GPU": (raised(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")), Blame("architecture")),
    "a file that is not there": (raised(FileNotFoundError(2, "no data")), Blame("architecture")),
    "what cannot be otherwise": (raised(TableError("no such row")), Blame("architecture", final=True)),
    "a constructor": (ActorDiedError(raised(ValueError("bad"))), Blame("architecture")),
    "a constructor that cannot work": (ActorDiedError(raised(TableError("no such row"))), Blame("architecture", final=True)),
    "a constructor on a full disk": (ActorDiedError(raised(OSError(28, "No space left"))), Blame("machine")),
    "a full disk": (raised(OSError(28, "No space left")), Blame("machine")),
    "a connection": (raised(ConnectionResetError(104, "reset")), Blame("machine")),
    "a GPU": (raised(RuntimeError("CUDA error: uncorrectable ECC error encountered")), Blame("machine")),
    "storage": (raised(OSError("AWS Error"), PERSIST), Blame("machine", storage=True)),
    "storage that a node lacks": (raised(RuntimeError(SHARED), PERSIST), Blame("machine", storage=True)),
    "a bug where checkpoints are made": (raised(TypeError("cannot pickle"), PERSIST), Blame("architecture")),
    "a process": (ActorDiedError(), Blame("machine")),
    "a process out of reach": (ActorUnavailableError("gone", None), Blame("machine")),
    "a node that was taken away": (RayActorError(preempted=True), Blame("machine", counts=False)),
    "a node, of a task of its own": (raised(NodeDiedError("node")), Blame("machine")),
    "memory of the node": (OutOfMemoryError("low on memory"), Blame("machine")),
    "an object": (ObjectLostError("00" * 28, None, "here"), Blame("machine")),
    "a hang": (Hung("TimeoutError: no report"), Blame("timeout")),
}


@pytest.mark.parametrize("case", BLAMED)
def test_whose_fault_a_failure_is(case: str) -> None:
    error, expected = BLAMED[case]
    assert blame(error) == expected


def test_what_storage_does_while_a_checkpoint_is_saved_is_the_machines() -> None:
    assert blame(raised(OSError("odd")), saving=True) == Blame("machine", storage=True)
    assert blame(raised(ValueError("odd")), saving=True) == Blame("architecture")
