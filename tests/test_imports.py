"""Which module may import which: the architecture as a test."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A module imports only from what stands before its line, or from its own package. `spaces` is raynas.spaces and all that is in it.
ORDER = [
    "errors signals front",
    "registry",
    "arch",
    "spaces",
    "drawing plotting",
    "storage",
    "trust",
    "outcome",
    "history",
    "model",
    "tables",
    "columns",
    "results",
    "searchers trainables",
    "config",
    "run",
    "simulate",
    "cli",
    "comparing",
    "search compare convert train predict status list",
    "reporting",
    "report",
    "__init__ __main__",
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names.split()}
COMMANDS = {"search", "compare", "convert", "train", "predict", "status", "report"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {name_of(path): path for top in ("raynas", "searchers", "trainables") for path in sorted((ROOT / top).rglob("*.py"))}


def imports(name: str) -> set[str]:
    """All modules that one imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= inner or {node.module or ""}
    return found


IMPORTS = {name: imports(name) for name in FILES}


def step(name: str) -> str:
    """The name in ORDER under which a module of ours stands."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] or "__init__" if top == "raynas" else top


@pytest.mark.parametrize("name", FILES)
def test_modules_import_from_what_stands_before_them(name: str) -> None:
    assert step(name) in RANK, f"{name} has no place in ORDER"
    for imported in IMPORTS[name] & FILES.keys():
        if step(imported) != step(name):
            assert RANK[step(imported)] < RANK[step(name)], f"{name} imports {imported}"


def test_no_import_goes_round_in_a_circle() -> None:
    order = list(TopologicalSorter({name: IMPORTS[name] & FILES.keys() for name in FILES}).static_order())
    assert set(order) == set(FILES)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("torch", {"model", "trainables"} | COMMANDS),
        ("torchvision", {"trainables"} | COMMANDS),
        ("ray", {"searchers", "trainables", "run", "simulate"} | COMMANDS),
    ],
)
def test_who_may_import_what_is_heavy(package: str, allowed: set[str]) -> None:
    users = {name for name in FILES if any(imported.partition(".")[0] == package for imported in IMPORTS[name])}
    assert {step(name) for name in users} <= allowed
    if package == "ray":
        assert {name for name in users if step(name) == "searchers"} == {"searchers.tune"}  # alone speaks Tune's protocol


def test_no_label_reaches_what_a_searcher_thinks_with() -> None:
    graphs = "raynas.model.graphs"  # counted in one of the encodings
    seen = (IMPORTS["raynas.model.encodings"] | IMPORTS[graphs]) & FILES.keys() - {graphs}
    assert {step(name) for name in seen} <= {"errors", "registry", "arch", "spaces"}
    for name in FILES:
        if step(name) in {"spaces", "history", "model", "searchers"}:
            reached = {step(imported) for imported in IMPORTS[name] & FILES.keys()}
            assert not reached & {"tables", "results", "trainables"}, name


@pytest.mark.parametrize(
    ("statement", "unloaded"),
    [
        ("import raynas", "ray torch pyarrow numpy"),
        (
            "from raynas.model import acquisition, candidates, encodings, predictors, targets",
            "ray torch pyarrow",
        ),
        ("import raynas.tables, raynas.config", "ray torch"),
        ("from searchers import Engine, Evolution; Engine(Evolution(), 'darts').ask()", "ray torch pyarrow"),
        ("from searchers import Bananas, Engine; Engine(Bananas(), 'darts').ask()", "ray torch pyarrow"),
        ("from searchers import BananasSearch; BananasSearch.suggest", "torch"),
        ("import raynas; raynas.SPACES, raynas.Arch, raynas.History, raynas.Table, raynas.make_space('nasbench201')", "ray torch"),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, unloaded: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {unloaded.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    import raynas

    assert all(getattr(raynas, name) is not None for name in raynas.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Banana'"):
        raynas.Banana  # noqa: B018
