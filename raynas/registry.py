"""Names of spaces, searchers, encodings, ...: one visible dict per kind, one function that reads them."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_type_hints

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from raynas.errors import ConfigError, UnknownNameError


def unknown(kind: str, name: str, known: Iterable[str], mend: str = "") -> UnknownNameError:
    """The error for a name that is not among `known`: lists them and suggests the nearest, or what else would `mend` it."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"unknown {kind} {name!r}{hint or '.'} Known: {', '.join(names) or 'none'}" + (f"; {mend}" if mend else ""))


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
    if name not in registry and "" not in sys.path:
        sys.path.append("")  # the current directory: `python -m` and workers of Ray have it on their path, a script has not
    module, _, attribute = entry.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownNameError(f"{kind} {name!r} cannot be imported: {' '.join(str(error).split())}") from error
    except (Exception, SystemExit) as error:  # a module may raise anything; an empty or relative name is a ValueError or TypeError
        raise UnknownNameError(f"{kind} {name!r} cannot be imported: {_told(error)}") from error


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def make(registry: Mapping[str, Any], name: str, options: Mapping[str, Any] | None, kind: str) -> Any:
    """What the entry `name` of `registry` makes of `options`.

    Raises:
        UnknownNameError: there is no such entry, or it does not take one of the options.
        ConfigError: an option has the wrong type, the entry is an unfinished class or nothing that can be called, or it refuses.
    """
    factory = resolve(registry, name, kind)
    if not callable(factory):
        raise ConfigError(f"{kind} {name!r} is of type {type(factory).__name__}, but must be a class or a function")
    if inspect.isabstract(factory):
        raise ConfigError(f"{kind} {name!r} is unfinished: it must define {', '.join(sorted(factory.__abstractmethods__))}")
    checked = check_options(factory, options or {}, f"{kind} {name!r}")
    try:
        return factory(**checked)
    except (TypeError, ValueError) as error:  # such as an option that is needed and not given
        raise ConfigError(f"{kind} {name!r} cannot be made with the options {checked}: {_told(error)}") from error


def check_options(function: Callable[..., Any], options: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """`options` as keywords for `function`: all of them known, and of the types that it declares (a list may become a tuple).

    Raises:
        UnknownNameError: `function` does not take one of them.
        ConfigError: a value has the wrong type.
    """
    known = keywords(function)
    checked = {}
    for option, value in options.items():
        if option not in known:
            raise unknown(f"option of {kind}", option, known)
        try:
            checked[option] = TypeAdapter(known[option], config={"arbitrary_types_allowed": True}).validate_python(value)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise ConfigError(f"option {option} of {kind} cannot be {value!r}: {problem[0].lower()}{problem[1:]}") from error
        except PydanticUserError:  # a model that brings a configuration of its own, or no type that can be checked
            checked[option] = value
    return checked


def keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """Keywords that `function` takes, and their types; where a class passes **options on, those of its bases too."""
    known: dict[str, Any] = {}
    for owner in inspect.getmro(function) if inspect.isclass(function) else [function]:
        if owner is object or (owner is not function and "__init__" not in vars(owner)):
            continue
        call = owner.__init__ if inspect.isclass(owner) else owner
        try:
            types = get_type_hints(call)
        except NameError:  # a type that is imported for type checkers only
            types = {}
        parameters = inspect.signature(call).parameters.values()
        for p in parameters:
            if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name != "self":
                known.setdefault(p.name, types.get(p.name, Any))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return known
