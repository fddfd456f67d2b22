"""SIGTERM, SIGHUP and SIGINT, once or twice: a command stops, says how to go on, leaves no process, and exits as shells count."""

import os
import secrets
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from processes import marked

ROOT = Path(__file__).resolve().parents[1]
ARCH = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
SEARCH = ["raynas.search", "--trials", "40", "--set", "trainable_options.seconds_per_report=0.2", "--out", "run"]
TRAIN = ["raynas.train", "--arch", ARCH, "--dataset", "digits", "--recipe", "quick", "--epochs", "300", "--device", "cpu", "--out", "run"]
COMPARE = ["raynas.compare", "--searchers", "random,bananas", "--seeds", "20", "--trials", "300", "--processes", "2", "--out", "run"]


def defaults() -> None:
    """What a terminal gives its commands, whatever the tests were given."""
    for number in (TERM, HUP, INT):
        signal.signal(number, signal.SIG_DFL)


def begin(command: list[str], folder: Path, marker: str) -> "subprocess.Popen[str]":
    env = os.environ | {"PYTHONPATH": str(ROOT), "MARKER": marker, "PYTHONUNBUFFERED": "1"}
    out = (folder / "out").open("w")
    with out:
        return subprocess.Popen(
            command, cwd=folder, env=env, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=defaults
        )


def stopped(command: list[str], ready: str, signals: list[signal.Signals], folder: Path, group: bool = False) -> tuple[int, str]:
    """The exit code and all output of a command that gets signals once there is what matches `ready`; it has 25 s to end, as in SLURM."""
    marker = secrets.token_hex(8)
    process = begin([sys.executable, "-m", *command], folder, marker)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not list(folder.glob(ready)):
        time.sleep(0.1)
    for number in signals:
        if group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        time.sleep(0.2)
    code = process.wait(60)
    deadline = time.monotonic() + 5  # Python's own helper of multiprocessing ends a moment after its parent
    while (remaining := marked("MARKER", marker)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not remaining
    return code, (folder / "out").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signals", "group"),
    [([TERM], False), ([TERM, TERM], True), ([HUP], True), ([INT, INT], False)],
    ids=["term", "term-twice-all", "hup-all", "int-twice"],
)
def test_a_search(signals: list[signal.Signals], group: bool, tmp_path: Path) -> None:
    code, out = stopped(SEARCH, "run/parts/trials-*", signals, tmp_path, group)
    assert code == 128 + signals[0]
    assert out.count("Go on with: python -m raynas.search --resume run") == 1
    assert "Traceback" not in out
    assert "***" not in out
    assert ", 0 failed" in out
    assert (tmp_path / "run" / "trials.parquet").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[TERM, INT], [INT]], ids=["term", "int"])
def test_a_training(signals: list[signal.Signals], tmp_path: Path) -> None:
    code, out = stopped(TRAIN, "run/checkpoint.pt", signals, tmp_path, group=True)
    assert code == 128 + signals[0]
    assert out.count("Go on with: python -m raynas.train --resume run") == 1
    assert "Traceback" not in out


@pytest.mark.slow
def test_a_training_whose_cluster_is_not_there_yet(tmp_path: Path) -> None:
    code, out = stopped([*TRAIN, "--workers", "2"], "run/config.json", [INT], tmp_path)
    assert code == 128 + INT
    assert out.splitlines() == ["Nothing is lost. Go on with: python -m raynas.train --resume run", "interrupted"]


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[HUP], [INT, INT]], ids=["hup", "int-twice"])
def test_a_comparison(signals: list[signal.Signals], tmp_path: Path) -> None:
    code, out = stopped(COMPARE, "run/parts/*.parquet", signals, tmp_path, group=signals[0] == INT)
    assert code == 128 + signals[0]
    assert out.count("the same command goes on") == 1
    assert "Traceback" not in out


@pytest.mark.parametrize("number", [TERM, HUP, INT])
def test_while_modules_load(number: signal.Signals, tmp_path: Path) -> None:
    """The signal comes in the middle of an import, as soon as the command has begun."""
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text(f"import os, time; os.kill(os.getpid(), {int(number)}); time.sleep(60)")
    for command in (["raynas.search"], ["raynas.train"], ["raynas.compare"], ["raynas", "search"]):
        process = subprocess.run(
            [sys.executable, "-m", *command], cwd=tmp_path, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, preexec_fn=defaults,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (process.returncode, process.stdout, process.stderr) == (128 + number, "", "interrupted\n")


BODY = """
import os, signal, sys
from raynas import signals
signals.install()
from raynas.cli import run_command
def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
def body():
{}
sys.exit(run_command(body))
"""


def run(body: str, *prefix: str) -> tuple[int, str]:
    script = BODY.format(textwrap.indent(textwrap.dedent(body), "    "))
    command = [*prefix, sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, preexec_fn=None if prefix else defaults
    )
    return done.returncode, done.stdout + done.stderr


def test_what_is_held_is_finished() -> None:
    assert run("with signals.held():\n    send(); send(); send(signal.SIGINT); print('done')\nprint('never')") == (
        143,
        "done\ninterrupted\n",
    )


def test_outside_it_is_raised_at_once_and_later_ones_do_nothing() -> None:
    body = """
    try:
        send(signal.SIGHUP)
        print("never")
    finally:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            send(number)
        print("closed")
    """
    assert run(body) == (129, "closed\ninterrupted\n")


def test_what_comes_when_all_is_done_changes_nothing() -> None:
    assert run("import atexit\natexit.register(send, signal.SIGINT)\nreturn 1") == (1, "")


def test_a_failure_while_held_is_told_as_what_it_is() -> None:
    body = "from raynas.errors import RunLost\nwith signals.held():\n    send()\n    raise RunLost('gone')"
    assert run(body) == (75, "error: gone\n")


def test_nohup_is_respected() -> None:
    assert run("send(signal.SIGHUP)\nprint('goes on')\nreturn 0", "sh", "-c", "trap '' HUP; exec \"$@\"", "sh") == (0, "goes on\n")


def test_without_a_command_nothing_is_held_or_checked() -> None:
    from raynas import signals

    handler = signal.getsignal(TERM)
    assert not signals.installed()
    with signals.held(), signals.raising():
        signals.check()
    assert signals.received() is None
    assert signal.getsignal(TERM) is handler
