"""README.md and docs/ are true: their commands run, their links lead somewhere, and the site builds and opens without network.

A block of code without a comment before it is run here, in the order of its page, in one folder a page. A comment says what else holds:
`<!-- run by: FILE -->` or `FILE::TEST` names the test that runs it, `<!-- not run: WHY -->` says why none does (flags of raynas are
parsed all the same), `<!-- before: CODE -->` stands for what the reader brings. Blocks of `text` are what commands print.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import browser as browser
from browser import complaints, requested

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- (?P<comment>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code of a page, and what the comment before it says."""

    page: Path
    code: str
    python: bool
    says: str
    argument: str

    @property
    def commands(self) -> list[str]:
        """The commands of a block of the shell, one a line, without remarks."""
        return [line for line in re.sub(r"\s+#.*", "", self.code.replace("\\\n", " "), flags=re.M).splitlines() if line.strip()]


def blocks(page: Path) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if match["language"] != "text":
            says, _, argument = (match["comment"] or "").partition(": ")
            code = re.sub(r'--8<-- "(.*)"', lambda file: (ROOT / file[1]).read_text(encoding="utf-8"), match["code"])
            found.append(Block(page, code, match["language"] == "python", says, argument))
    return found


ALL = [block for page in PAGES for block in blocks(page)]
RUN = [page for page in PAGES if any(block.says in ("", "before") for block in blocks(page))]


def test_every_comment_is_understood_and_true() -> None:
    assert len(ALL) > 20
    for block in ALL:
        assert block.says in ("", "run by", "not run", "before"), f"{block.page.name}: {block.says}"
        if block.says == "run by":
            file, _, name = block.argument.partition("::")
            source = (ROOT / file).read_text(encoding="utf-8")
            assert block.page.name in source, f"{file} does not read {block.page.name}"
            assert f"def {name}(" in source or not name
        assert block.argument or not block.says, f"{block.page.name}: {block.says} what?"


def test_flags_of_commands_that_are_not_run_exist() -> None:
    checked = 0
    for block in ALL:
        if block.says in ("run by", "not run") and not block.python:
            for words in re.findall(r"python -m raynas\.(.*?)(?:[\"|;&]|$)", "\n".join(block.commands), re.M):
                command, *flags = shlex.split(words)
                parser = importlib.import_module(f"raynas.{command}").parser()
                parser.parse_args([flag for flag in flags if flag != "--help"])  # exits where one is not known
                checked += 1
    assert checked > 5


def run(command: list[str], folder: Path) -> str:
    """What a command prints that ends well, in a shell that has `python` and raynas."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path, "COLUMNS": "140"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_first_command_finds_what_the_readme_says(tmp_path: Path) -> None:
    """But for the installation, which .ci/run makes."""
    install, _, search = blocks(ROOT / "README.md")[0].commands[0].partition(" && ")
    assert install == "pip install -e ."
    printed = run(["bash", "-c", search], tmp_path)
    assert "150/150 trials (150 finished, 0 stopped early, 0 failed, 0 running), best validation accuracy 91." in printed
    assert re.search(r"^Best architecture: \|.*\|$", printed, re.MULTILINE)
    assert re.search(
        r"^ +validation accuracy 91\.\d{3} % \(\d\.\d{3} points below the best of the table, 91\.607 %\)", printed, re.MULTILINE
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.says in ("", "before"):
            before = block.argument.replace("; ", "\n") + "\n" if block.says else ""
            shell = [sys.executable, "-c"] if block.python else ["bash", "-euo", "pipefail", "-c"]
            run([*shell, before + block.code], tmp_path)


def test_links_of_the_readme_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_opens_without_network(tmp_path: Path, browser: Any) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in site.glob("*.html"):
        loaded = re.findall(r"<(?:script|img|link)[^>]* (?:src|href)=\"?(https?://[^\"\s>]+)", page.read_text(encoding="utf-8"))
        assert not loaded, f"{page.name} loads {loaded}"
    complaints(browser)
    requested(browser)
    for name in ("index", "how", "reference"):
        browser.get((site / f"{name}.html").as_uri())
        broken = browser.execute_script("return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)")
        assert broken == []
    assert browser.find_elements("css selector", "h3")
    assert complaints(browser) == []
    assert {address.partition(":")[0] for address in requested(browser)} <= {"file", "data", "blob"}
