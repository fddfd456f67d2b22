"""Files on a local path or any URI that pyarrow or fsspec opens; every file appears complete or not at all."""

import errno
import json
import math
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import yaml

from raynas.errors import ConfigError, ResultsError

_OBJECT_STORES = frozenset(
    {"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2"}
)  # types of pyarrow, protocols of fsspec


def filesystem(uri: str) -> tuple[Any, str]:
    """The pyarrow filesystem of a path or URI, and the path inside it, without a slash at the end.

    Raises:
        ResultsError: nothing opens the scheme, or the storage does not answer.
    """
    uri = str(uri)
    if "://" not in uri:
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(uri))
    try:
        fs, path = _pyarrow(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # a scheme that pyarrow does not know
        fs, path = _fsspec(uri)
    except OSError as error:
        raise ResultsError(f"cannot open {uri}: {first_line(error)}") from error
    return fs, path.rstrip("/") or "/"


def _pyarrow(uri: str) -> Any:
    """S3 with single PUTs of small files, where the version of pyarrow can; else each is an upload of several requests."""
    option = "allow_delayed_open"
    if uri.startswith("s3://") and option not in uri:
        with suppress(pa.ArrowInvalid):
            return pafs.FileSystem.from_uri(f"{uri}{'&' if '?' in uri else '?'}{option}=true")
    return pafs.FileSystem.from_uri(uri)


def _fsspec(uri: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError, OSError) as error:
        raise ResultsError(f"cannot open {uri}: {first_line(error)}; allowed: a path, or a URI such as s3://, gs:// or file://") from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path


def join(uri: str, *names: str) -> str:
    """`uri` with further path components, placed before the options (`?...`) that a URI may carry."""
    head, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    return "/".join([head.rstrip("/"), *names]) + mark + options


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


_NAMES = "ECONNREFUSED ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH ENETDOWN EIO ENOSPC ESTALE EDQUOT"
_PASSING = {getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name)}
# In the words of pyarrow.
_TROUBLE = re.compile(r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|curlCode|[Tt]imed? ?out")


def may_pass(error: BaseException | None) -> bool:
    """Whether an error of the storage is one that time may mend, as of a network or a full disk; not what is missing or forbidden."""
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    return isinstance(error, OSError) and (error.errno in _PASSING or _TROUBLE.search(str(error)) is not None)


def make_folder(fs: Any, path: str) -> None:
    """Creates a folder and those above it, if need be.

    Raises:
        ResultsError: the storage refuses.
    """
    try:
        fs.create_dir(path, recursive=True)
    except OSError as error:
        raise ResultsError(f"cannot create the folder {path}: {first_line(error)}") from error


def is_object_store(fs: Any) -> bool:
    """Whether what is written appears as a whole when it is closed, as in S3; a rename is a copy and a deletion there."""
    if isinstance(fs, pafs.PyFileSystem):
        protocol = fs.handler.fs.protocol
        return not _OBJECT_STORES.isdisjoint({protocol} if isinstance(protocol, str) else protocol)
    return getattr(fs, "type_name", None) in _OBJECT_STORES


def list_files(fs: Any, folder: str) -> list[Any]:
    """Information about what is in a folder, as it is now; of one that does not exist, nothing."""
    if isinstance(fs, pafs.PyFileSystem):
        fs.handler.fs.invalidate_cache()  # fsspec may remember a listing that somebody has changed since
    infos: list[Any] = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return infos


def in_parallel(action: Callable[[Any], Any], items: Sequence[Any], at_once: int = 8) -> list[Any]:
    """What `action` returns of each, several at once, as on remote storage the time goes into waiting; the first error is raised.

    Unlike those of a ThreadPoolExecutor, threads that hang do not keep the process when it ends.
    """
    results: list[Any] = [None] * len(items)
    errors: list[Exception] = []
    left = iter(range(len(items)))  # `next` of it is atomic

    def work() -> None:
        for i in left:
            if errors:
                return
            try:
                results[i] = action(items[i])
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(items)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def write_bytes(fs: Any, path: str, data: Any, temporary_in: str | None = None) -> None:
    """Writes a file that appears complete or not at all.

    Object stores do so by themselves; elsewhere it is written under a temporary name in the folder `temporary_in`, or its own, and
    renamed then.

    Raises:
        ResultsError: the storage refuses.
    """
    direct = is_object_store(fs)
    temporary = path if direct else f"{temporary_in or path.rpartition('/')[0]}/.tmp-{secrets.token_hex(8)}"
    try:
        with fs.open_output_stream(temporary) as stream:
            stream.write(data)
        if not direct:
            fs.move(temporary, path)
    except OSError as error:
        if not direct:
            with suppress(OSError):  # a disk that is full needs the room
                fs.delete_file(temporary)
        raise ResultsError(f"cannot write {path}: {first_line(error)}") from error


def read_bytes(fs: Any, path: str) -> Any:
    """The content as a pyarrow buffer; FileNotFoundError is left to the caller, any other failure is a ResultsError."""
    try:
        with fs.open_input_file(path) as file:
            return file.read_buffer()
    except FileNotFoundError:
        raise
    except OSError as error:
        if _gone(fs, path):  # since it was opened, which S3 says in many ways
            raise FileNotFoundError(path) from error
        raise ResultsError(f"cannot read {path}: {first_line(error)}") from error


def _gone(fs: Any, path: str) -> bool:
    with suppress(OSError):
        return bool(fs.get_file_info(path).type == pafs.FileType.NotFound)
    return False


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity in it replaced by None."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, Real) and not math.isfinite(value) else value


def write_json(uri: str, name: str, value: Any) -> None:
    """Writes plain JSON as file `name` of a run folder, in one step; NaN and infinities become null.

    Raises:
        ResultsError: the storage refuses.
    """
    fs, root = filesystem(uri)
    make_folder(fs, root)
    write_bytes(fs, f"{root}/{name}", json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Plain JSON as it is written into files; NaN and infinities become null."""
    return json.dumps(finite(value), indent=2, allow_nan=False).encode() + b"\n"


def read_json(uri: str, name: str) -> Any:
    """The value that `write_json` wrote.

    Raises:
        ResultsError: the file is missing or damaged.
    """
    fs, root = filesystem(uri)
    try:
        return parse_json(read_bytes(fs, f"{root}/{name}").to_pybytes(), join(uri, name))
    except FileNotFoundError:
        raise ResultsError(f"{join(uri, name)} does not exist; is {uri} the folder of a run?") from None


_DEPTH = 50  # of lists and mappings within each other; nothing of ours needs more than ten


def parse_json(text: str | bytes, what: str) -> Any:
    """The value in a text that may have been damaged or made to do harm; `what` names it.

    Raises:
        ResultsError: it is no JSON, is nested too deeply, or holds what is no text (half a character).
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ResultsError(f"{what} is damaged: its JSON is nested too deeply") from None
    except ValueError as error:
        raise ResultsError(f"{what} is not valid JSON: {first_line(error)}") from error
    level = [value]
    for _ in range(_DEPTH):
        level = [item for outer in level for item in _items(outer)]
    if level:
        raise ResultsError(f"{what} is damaged: its JSON is nested too deeply")
    return value


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def read_mapping(uri: str, name: str) -> dict[str, Any]:
    """The mapping that `write_json` wrote.

    Raises:
        ResultsError: it is missing, damaged, or something else.
    """
    value = read_json(uri, name)
    if not isinstance(value, dict):
        raise ResultsError(f"{join(uri, name)} is damaged: it must hold a mapping, not {type(value).__name__}")
    return value


def read_config(uri: str) -> dict[str, Any]:
    """The configuration in the file `config.json` of a run folder.

    Raises:
        ResultsError: the file is missing, or holds no configuration.
    """
    value = read_json(uri, "config.json")
    config = value.get("config", {}) if isinstance(value, Mapping) else None
    if not isinstance(config, dict):
        raise ResultsError(f"{join(uri, 'config.json')} is damaged: it must hold a mapping with the configuration under the key 'config'")
    return config


def exists(uri: str, name: str) -> bool:
    """Whether a run folder holds the file or folder `name`.

    Raises:
        ResultsError: the storage does not answer.
    """
    fs, root = filesystem(uri)
    try:
        return bool(fs.get_file_info(f"{root}/{name}").type != pafs.FileType.NotFound)
    except OSError as error:
        raise ResultsError(f"cannot read {uri}: {first_line(error)}") from error


def delete(uri: str, name: str) -> None:
    """Deletes a file of a run folder.

    Raises:
        ResultsError: it is missing, or the storage refuses.
    """
    fs, root = filesystem(uri)
    try:
        fs.delete_file(f"{root}/{name}")
    except OSError as error:
        raise ResultsError(f"cannot delete {join(uri, name)}: {first_line(error)}") from error


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a local YAML file, which a user wrote.

    Raises:
        ConfigError: the file is missing, is no YAML, or holds no mapping.
    """
    try:
        values = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{path} must hold keys and values, such as 'trials: 150', not a {type(values).__name__}")
    return values or {}
