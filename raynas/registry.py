"""Names of spaces, searchers, encodings, ...: one visible dict per kind, one function that reads them."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from raynas.errors import UnknownNameError


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among `known`: lists them and suggests the nearest."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}{hint or '.'} Known: {', '.join(names) or 'none'}")


def resolve(registry: Mapping[str, Any], name: str, kind: str) -> Any:
    """The entry `name` of `registry`.

    An entry may be the text `module:attribute`, which is imported on first use. `name` itself may have that form too:
    this is how a user's own class, outside the package, is named on the command line and found again on every node.

    Raises:
        UnknownNameError: `name` is not in the registry, or `module:attribute` cannot be imported.
    """
    entry = registry.get(name, name if ":" in name else None)
    if entry is None:
        raise unknown(kind, name, registry)
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownNameError(f"{kind} {name!r} cannot be imported: {error}") from error


def check_options(function: Callable[..., Any], options: Mapping[str, Any], kind: str) -> None:
    """Raises UnknownNameError where `options` holds a keyword that `function` does not take."""
    known = set(keywords(function))
    for option in options:
        if option not in known:
            raise unknown(f"option of {kind}", option, known)


def keywords(function: Callable[..., Any]) -> Iterator[str]:
    """The keywords that `function` takes; where a class passes **options on, those of its bases too."""
    for owner in inspect.getmro(function) if inspect.isclass(function) else [function]:
        if owner is object or (owner is not function and "__init__" not in vars(owner)):
            continue
        parameters = inspect.signature(owner.__init__ if inspect.isclass(owner) else owner).parameters.values()
        yield from (p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self")
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return
