"""Why trials failed, from the texts that Ray leaves."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from raynas.run.failures import failure, reason

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
