"""Whose run folder it is: what may be believed of one that may come from a stranger.

The configuration of a run names code (`module:attribute`), which a later session would import and call, and its checkpoints may hold
pickled objects. So a run that a user starts is signed: `signature` in `config.json` is a keyed hash (HMAC-SHA256) of the configuration. The
key is the user's: $XDG_CONFIG_HOME/raynas/key or ~/.config/raynas/key, made on first use, mode 0600. Where it cannot be kept runs are
not signed, and are a stranger's to every later session. The configuration alone is signed: what others have been able to write to since is
one's own no more, and its signature should be taken out.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raynas import storage
from raynas.errors import ConfigError

logger = logging.getLogger(__name__)

SIGNATURE = "signature"  # in config.json
_PATHS = frozenset(
    {"table", "out", "address", "warm_start", "data_dir", "device", "log_options"}
)  # settings that may hold a colon and name no code
_PLAIN = frozenset({"arch", "recipe", "metrics", "objective", "limit", "points_to_evaluate"})  # nothing in them is a name of anything


def named_code(values: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Every setting, by its path, whose text names code as `module:attribute`: {"searcher_options.predictor": "lab:Forest"}."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if key not in _PATHS | _PLAIN:
            found |= {path: text for path, text in _texts(value, f"{within}{key}") if ":" in text and not _folder(key, text)}
    return found


def _folder(key: str, text: str) -> bool:
    return key == "dataset" and text.startswith("folder:")


def _texts(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        yield from named_code(value, f"{path}.").items()
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _texts(item, f"{path}.{i}")


def modules(values: Mapping[str, Any]) -> set[str]:
    """The names of the modules of which a configuration names code."""
    return {text.partition(":")[0] for text in named_code(values).values()}


def signed(file: Mapping[str, Any]) -> dict[str, Any]:
    """What `config.json` is to hold, with the signature of its part `config`; without one where this user's key cannot be kept."""
    secret = key(make=True)
    return dict(file) | ({} if secret is None else {SIGNATURE: _sign(file["config"], secret)})


def is_own(uri: str) -> bool:
    """Whether this user has started the run in the folder `uri`, as its signature says."""
    file = storage.read_json(uri, "config.json") if storage.exists(uri, "config.json") else None
    if not isinstance(file, Mapping) or not isinstance(file.get(SIGNATURE), str):
        return False
    secret = key()
    return secret is not None and hmac.compare_digest(_sign(file.get("config"), secret).encode(), file[SIGNATURE].encode())


def vouched(uri: str, named: Mapping[str, Any]) -> bool:
    """Whether a run of the user's own, whose folder holds the file with these settings, has them too."""
    return is_own(uri) and named_code(named).items() <= named_code(storage.read_config(uri)).items()


def _sign(config: Any, secret: bytes) -> str:
    text = json.dumps(storage.finite(config), sort_keys=True, separators=(",", ":"))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def key(*, make: bool = False) -> bytes | None:
    """The secret of this user; None where there is none, and none can be kept."""
    file = Path(os.environ.get("XDG_CONFIG_HOME") or Path(os.path.expanduser("~"), ".config")) / "raynas" / "key"
    try:
        if make and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create(file)
        return file.read_bytes() or None
    except OSError as error:
        logger.debug("runs are not signed: %s", error)
        return None


def _create(file: Path) -> None:
    """The key appears complete, and once, however many processes make it at a time."""
    temporary = file.with_name(f".key-{secrets.token_hex(8)}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
        stream.write(secrets.token_hex(32))
    try:
        os.link(temporary, file)
    except FileExistsError:
        logger.debug("another process has made %s", file)
    finally:
        temporary.unlink()


def check_code(file: str, stored: Mapping[str, Any], given: Mapping[str, Any], own: bool) -> None:
    """Refuses to go on where a file that is not the user's own names code which the user has not named as well.

    Args:
        file: the one that `stored` comes from.
        given: what the user has named now.
        own: whether it is the user's own or trusted.

    Raises:
        ConfigError: it is neither.
    """
    if own:
        return
    if stored.get("address") is not None and "address" not in given:  # it would be shown our token, and what it sends be unpickled
        raise ConfigError(
            f"{file} names a Ray cluster ({stored['address']!r}), and was not written by you on this machine; "
            f"give --address yourself ('local' for one of your own), or pass --trust"
        )
    if stored.get("log_options") and "log_options" not in given:  # likewise what the environment knows of a tracker
        raise ConfigError(
            f"{file} says where trackers are (log_options), and was not written by you on this machine; "
            f"give --set log_options.tracking_uri=... and the like yourself, or pass --trust"
        )
    repeated = named_code(given)
    left = {path: text for path, text in named_code(stored).items() if repeated.get(path) != text}
    if left:
        shown = ", ".join(f"{path} = {text!r}" for path, text in left.items())
        flags = " ".join(f"--set {p}={t}" if "." in p else f"--{p.replace('_', '-')} {t}" for p, t in left.items())
        raise ConfigError(
            f"{file} names code of other modules ({shown}), and was not written by you on this machine; "
            f"if you trust it repeat {flags}, or pass --trust"
        )
