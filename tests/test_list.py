"""What there is by name, the commands by one name, and the completion of shells."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from raynas import __main__, list
from raynas.config import RunConfig
from raynas.run.settings import REGISTRIES
from raynas.search import GROUPS, parser


@pytest.mark.parametrize("kind", list.KINDS)
def test_every_kind_has_a_line_for_each_and_its_options(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert list.main([kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = {line.partition(": ")[0]: line.partition(": ")[2] for line in lines if not line.startswith(" ")}
    registry = REGISTRIES.get(kind.removesuffix("s"))
    assert registry is None or set(named) == set(registry)
    assert all(named.values())


def test_options_have_their_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    found = {entry.name: entry.options for entry in list.entries("searchers")}
    assert found["bananas"]["pool"] == 200
    assert found["bananas-paper"]["pool"] == 100
    assert found["evolution"]["population"] == 30
    assert found["darts"]["order"] == 2
    trainables = {entry.name: entry.options for entry in list.entries("trainables")}
    expected = {"data_dir": None, "batch_size": None, "device": "auto", "cuda_graphs": False, "latency": None}
    assert trainables["train"] == expected
    assert list.main([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*list.KINDS]


def test_what_is_listed_is_loaded_and_nothing_else() -> None:
    code = "import sys; from raynas.list import main; main(['spaces']); assert not {'ray', 'torch'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--version"]) == 0
    assert capsys.readouterr().out == f"raynas {version('raynas')}\n"


def test_every_flag_has_its_place_and_its_default_in_the_help() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    plain = {name for name, info in RunConfig.model_fields.items() if not str(info.annotation).startswith("dict")}
    assert sorted(grouped) == sorted(plain)
    text = " ".join(parser().format_help().split())
    for title in GROUPS:
        assert f"{title}:" in text
    for default in ("nasbench201", "bananas", "fifo", "150", "lookup", "0.5"):
        assert f"(default: {default})" in text


def test_the_help_comes_before_ray_is_loaded() -> None:
    code = "import sys, raynas.search as s; s.parser().format_help(); assert not {'ray', 'torch', 'pandas'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_bash_completes_commands_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    script = f"""
source {tmp_path / "completion"}
COMP_WORDS=(raynas search --sched) COMP_CWORD=2 COMP_LINE="raynas search --sched" COMP_POINT=21
$(complete -p raynas | sed 's/.*-F \\([^ ]*\\).*/\\1/') raynas --sched search
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "--norc", "-c", script], capture_output=True, text=True)
    assert "--scheduler" in done.stdout.split(), done.stdout + done.stderr
    assert __main__.main(["--completion", "cmd"]) == 2
    assert capsys.readouterr().err == "error: --completion takes one of bash, zsh, tcsh\n"


def test_the_console_script_is_called_by_its_name(tmp_path: Path) -> None:
    script = tmp_path / "raynas"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom raynas.__main__ import script\nsys.exit(script())\n")
    script.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "60"}
    shown = subprocess.run([script, "report", "--help"], capture_output=True, text=True, env=environment)
    assert shown.stdout.startswith("usage: raynas report ")
    assert max(map(len, shown.stdout.splitlines())) <= 60
    wrong = subprocess.run([script, "search", "--trails", "3"], capture_output=True, text=True, env=environment)
    assert (wrong.returncode, wrong.stderr) == (2, "error: unknown argument '--trails'; did you mean --trials?; see raynas search --help\n")
