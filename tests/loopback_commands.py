"""`ray` and `pip` of the nodes of loopback_provider.py: what would reach beyond a node is kept to it, the rest is as ever.

ray start  with the node's address, without a fixed port that all nodes would share, and marked, so that
ray stop   ends the Ray of this node alone
pip        fails when it is first called, as over a bad connection; then `-e FOLDER` makes the packages of FOLDER importable in the way of
           setuptools, for which a folder of the same name goes first; other packages must be there
"""

import importlib.metadata
import os
import re
import sys
from pathlib import Path

from loopback_provider import end

RAY = "RAYNAS_LOOPBACK_RAY"  # environment variable: the node whose Ray a process belongs to
FINDER = """
import importlib.util, os, sys
from importlib.machinery import PathFinder
class Installed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("raynas", "searchers", "trainables"):
            place = os.path.join({folder!r}, name)
            return importlib.util.spec_from_file_location(name, place + "/__init__.py", submodule_search_locations=[place])
sys.meta_path.insert(sys.meta_path.index(PathFinder) + 1, Installed)
"""


def ray(arguments: list[str]) -> None:
    home = os.environ["HOME"]
    if arguments[0] == "stop":
        end(RAY, home)
        return
    if arguments[0] == "start":
        os.environ[RAY] = home
        arguments = [word for word in arguments if not word.startswith("--object-manager-port")]
        arguments = [*arguments, f"--node-ip-address={os.environ['NODE_IP']}"]
    os.execv(sys.executable, [sys.executable, "-m", "ray.scripts.scripts", *arguments])


def pip(arguments: list[str]) -> None:
    home = Path(os.environ["HOME"])
    failed = home.parent / "pip-failed"
    if not failed.exists():
        failed.touch()
        sys.exit("pip: connection lost")
    if arguments[:2] == ["install", "-e"]:
        folder = Path(arguments[2])
        if not (folder / "pyproject.toml").is_file():
            sys.exit(f"pip: {folder} is no project")
        (home / "installed").mkdir(exist_ok=True)
        (home / "installed" / "sitecustomize.py").write_text(FINDER.format(folder=str(folder)))
    else:
        importlib.metadata.version(re.split("[<>=]", arguments[1])[0])


if __name__ == "__main__":
    {"ray": ray, "pip": pip}[Path(sys.argv[1]).name](sys.argv[2:])
