"""`python -m raynas.list KIND`: what there is by name, in a line each, and the options that it takes."""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from raynas.cli import DONE, Parser, program, run_command
from raynas.registry import keywords, resolve
from raynas.run.settings import SCHEDULERS
from raynas.run.train_command import IMAGES
from raynas.spaces import SPACES, make_space
from searchers import SEARCHERS
from trainables import TRAINABLES
from trainables.learning.recipes import RECIPES

_COMMON = (
    "self",
    "space",
    "space_options",
    "dataset",
    "table",
    "max_epochs",
    "seed",
    "recipe",
    "proxies",
    "others",
    "args",
    "kwargs",
    "kwds",
)
_TUNES = ("time_attr", "metric", "mode", "max_t", "stop_last_trials", "hard_stop")  # which the command sets, or Tune alone knows


@dataclasses.dataclass(frozen=True)
class Entry:
    """Something that has a name."""

    name: str
    about: str  # one line
    options: Mapping[str, Any]  # with their defaults; `...` where there is none


def entries(kind: str) -> Iterator[Entry]:
    """What there is of a kind, one of KINDS; loads what the kind is written in."""
    return KINDS[kind][1]()


def _registered(registry: Mapping[str, Any], kind: str, options_of: Callable[[Any], Any]) -> Iterator[Entry]:
    for name in registry:
        entry = resolve(registry, name, kind)
        yield Entry(name, _line(entry), _defaults(options_of(entry)))


def _line(entry: Any) -> str:
    """The first sentence of its docstring."""
    return (inspect.getdoc(entry) or "").partition("\n\n")[0].replace("\n", " ").partition(". ")[0].removesuffix(".")


def _defaults(function: Any) -> dict[str, Any]:
    """The options that a class or a function takes, but for those that have flags of their own."""
    if function is None:
        return {}
    found: dict[str, Any] = {}
    for owner in inspect.getmro(function) if inspect.isclass(function) else (function,):
        if owner is not object:
            try:
                parameters = inspect.signature(owner).parameters
            except ValueError:  # written in C
                continue
            found = {name: p.default for name, p in parameters.items()} | found
    if dataclasses.is_dataclass(function):
        made = {f.name: f.default_factory() for f in dataclasses.fields(function) if f.default_factory is not dataclasses.MISSING}
        found |= {name: value for name, value in made.items() if name in found}
    return {name: found.get(name, ...) for name in keywords(function) if name not in (*_COMMON, *_TUNES)}


def _recipes() -> Iterator[Entry]:
    for name, recipe in RECIPES.items():
        changed = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if f.name != "name"}
        yield Entry(name, f"{recipe.epochs} epochs, {changed.pop('source') or 'for small machines'}", changed)


def _datasets() -> Iterator[Entry]:
    for name in IMAGES:
        about = "of scikit-learn, 8 x 8 pixels" if name == "digits" else "of torchvision, downloaded on first use"
        yield Entry(name, about, {"data_dir": None})
    yield Entry("folder:PATH", "one folder of photographs for each class, or a CSV file with the columns file and label", {})
    yield Entry("module:function", "your own function, which returns the images", {})


def _networks() -> Iterator[Entry]:
    from trainables.learning.networks import network_factory  # loads torch

    for name in SPACES:
        space = make_space(name)
        if space.network is not None:
            network = inspect.unwrap(network_factory(space))
            given = ("arch", "choices", "classes", "image_size", "image_channels", "space")
            options = {key: value for key, value in _defaults(network).items() if key not in given}
            yield Entry(name, _line(network), options)


KINDS: dict[str, tuple[str, Callable[[], Iterator[Entry]]]] = {
    "spaces": ("--space, with space_options", lambda: _registered(SPACES, "space", lambda entry: entry)),
    "searchers": ("--searcher, with searcher_options", lambda: _registered(SEARCHERS, "searcher", lambda e: getattr(e, "Options", e))),
    "schedulers": ("--scheduler, with scheduler_options", lambda: _registered(SCHEDULERS, "scheduler", lambda entry: entry)),
    "trainables": ("--trainable, with trainable_options", lambda: _registered(TRAINABLES, "trainable", lambda entry: entry.plan)),
    "datasets": ("--dataset", _datasets),
    "recipes": ("--recipe, with --set recipe.KEY=VALUE", _recipes),
    "networks": ("those of spaces, with recipe.network_options", _networks),
}


def parser() -> Parser:
    """The command line."""
    made = Parser(prog=program("list"), description=__doc__, allow_abbrev=False)
    made.add_argument("kind", metavar="KIND", nargs="?", choices=list(KINDS), help=f"one of {', '.join(KINDS)}; without it, these")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m raynas.list --help`."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    console, kind = Console(soft_wrap=True), parser().parse_args(argv).kind
    if kind is None:
        for name, (use, _) in KINDS.items():
            console.out(f"{name:<11} {use}", highlight=False)
        return DONE
    for entry in entries(kind):
        console.out(f"{entry.name}: {entry.about}", highlight=False)
        options = (f"{name}={_shown(value)}" for name, value in entry.options.items())
        console.out("".join(f"    {option}\n" for option in options), highlight=False, end="")
    return DONE


def _shown(value: Any) -> str:
    if value in (..., inspect.Parameter.empty):
        return "(needed)"
    return repr(value)


if __name__ == "__main__":
    sys.exit(main())
