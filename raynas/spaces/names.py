"""Search spaces by name, and the facts by which an architecture finds its space."""

import inspect
from collections.abc import Mapping
from typing import Any

from raynas.arch import Arch
from raynas.errors import ConfigError, OutOfSpaceError
from raynas.registry import make, resolve, unknown
from raynas.spaces.base import Published, SearchSpace, json_object

SPACES: dict[str, Any] = {
    "nasbench101": "raynas.spaces.nasbench101:NASBench101Space",
    "nasbench201": "raynas.spaces.nasbench201:NASBench201Space",
    "darts": "raynas.spaces.darts:DARTSSpace",
    "mobile": "raynas.spaces.mobile:MobileSpace",
}


def make_space(name: str, options: Mapping[str, Any] | None = None) -> SearchSpace:
    """The space registered as `name` (or `module:Class`), made with `options`; or the space that `module:name` is itself.

    Raises:
        UnknownNameError: no such space, or it does not take one of the options.
        ConfigError: an option has a wrong value, or it is no complete search space.
    """
    entry = resolve(SPACES, name, "space")
    if inspect.isclass(entry) and not issubclass(entry, SearchSpace):
        raise ConfigError(f"{name} is no search space; one is a class that inherits from raynas.SearchSpace")
    if isinstance(entry, SearchSpace) and options:
        raise ConfigError(f"the space {name} is made already, so it takes no options; leave out {', '.join(options)}, or name its class")
    space = entry if isinstance(entry, SearchSpace) else make(SPACES, name, options, "space")
    if not isinstance(space, SearchSpace):
        raise ConfigError(f"{name} makes an object of type {type(space).__name__}, no search space; one inherits from raynas.SearchSpace")
    missing = [fact for fact in ("name", "num_paths") if not hasattr(space, fact)]
    if missing:
        raise ConfigError(f"space {name!r} lacks {' and '.join(missing)}; see raynas.SearchSpace for what these attributes mean")
    return space


def known_spaces() -> dict[str, type[SearchSpace]]:
    """The classes of all registered spaces, for the facts that they own; entries that are functions have none."""
    entries = {name: resolve(SPACES, name, "space") for name in SPACES}
    return {name: entry for name, entry in entries.items() if inspect.isclass(entry) and issubclass(entry, SearchSpace)}


def space_name(space: SearchSpace | str) -> str:
    """The name that architectures and tables of a space bear: of `module:Class` it is the class's own."""
    if isinstance(space, str):
        if ":" not in space:
            return space
        named = getattr(resolve(SPACES, space, "space"), "name", None)
        return named if isinstance(named, str) else make_space(space).name
    return space.name


def published() -> dict[str, Published]:
    """The published architectures of all registered spaces by name."""
    return {name: entry for space in known_spaces().values() for name, entry in space.published.items()}


def permissive(space: str, options: Mapping[str, Any] | None = None) -> SearchSpace:
    """The space, made with `options`, that admits what was published of it too unless they forbid it; errors as `make_space`."""
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"the options of the space {space!r} must be a mapping, not {options!r}")
    entry = resolve(SPACES, space, "space")
    return make_space(space, {**getattr(entry, "published_options", {}), **(options or {})})


def describe(value: Mapping[str, Any] | str, space: str | None = None, options: Mapping[str, Any] | None = None) -> Arch:
    """The architecture that a user describes.

    Args:
        value: the name of a published architecture, JSON or a text of a form of the space's own; or JSON as a mapping, of the
            architecture itself or of what holds it under the key `arch`, as best.json does.
        space: whose architecture it is, a name or `module:Class`; None: the registered space that it tells by its form.
        options: of the space.

    Raises:
        UnknownNameError: it is no name and no text of a known form, or its space is not known.
        OutOfSpaceError: it is not an architecture of the space.
        ConfigError: `space` is none, or an option has a wrong value.
    """
    config: Any = value
    if isinstance(value, str):
        spaces = known_spaces() if space is None else {space: resolve(SPACES, space, "space")}
        cells = {cell: name for name, known in spaces.items() for cell in getattr(known, "published", {})}
        forms = {known.text_start: name for name, known in spaces.items() if space is None and known.text_start}
        if value in cells:
            space = cells[value]
            config = spaces[space].published[value].config
        elif value.lstrip().startswith("{"):
            config = json_object(value, "architecture")
        else:
            name = space or next((name for start, name in forms.items() if value.startswith(start)), None)
            if name is None:
                raise unknown("architecture", value, [*cells, "JSON", "an arch string of NAS-Bench-201"])
            return permissive(name, options).from_text(value)
    if not isinstance(config, Mapping):
        raise OutOfSpaceError(f"an architecture is described by a JSON object, not by {config!r}")
    if isinstance(config.get("arch"), Mapping):
        config = config["arch"]
    if space is None:
        return permissive(_space_of(config), options).from_config(config)
    made = permissive(space, options)
    if config.get("space", made.name) not in (made.name, space):
        raise OutOfSpaceError(f"an architecture of space {config['space']!r} does not belong to {space!r}")
    return made.from_config(config)


def _space_of(config: Mapping[str, Any]) -> str:
    """The registered space whose architecture `config` describes, by its field `space` or else by the fields that it has."""
    spaces = known_spaces()
    if "space" not in config:
        told = [name for name, space in spaces.items() if not set(space.fields).isdisjoint(config)]
        if not told:
            fields = ", ".join(field for space in spaces.values() for field in space.fields)
            raise OutOfSpaceError(f"this JSON describes no architecture: it needs the field 'space' and one of {fields}")
        return max(told, key=lambda name: set(spaces[name].fields) <= config.keys())
    name = str(config["space"])
    if name not in spaces:  # it may come from a file: no module is imported because of what stands there
        raise unknown("space", name, SPACES, "a space of your own is named by --space module:Class")
    return name
