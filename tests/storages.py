"""Storages that misbehave, and a real S3 server on loopback."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class Trouble:
    """What is wrong with storages of `trouble://`."""

    refuses = False  # every call that writes, or lists
    hangs = threading.Event()  # cleared: every such call waits
    names = ""  # only of paths that have this in them


Trouble.hangs.set()


class TroubledFileSystem(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files in memory behind a storage that refuses or hangs when it is told to."""

    protocol = "trouble"
    store: dict[str, Any] = {}  # noqa: RUF012  # as in its base
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("trouble://", "memory://")))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "rb":
            _suffer(path)
        return super()._open(path, mode=mode, **options)

    def ls(self, path: str, **options: Any) -> Any:
        _suffer(path)
        return super().ls(path, **options)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        _suffer(path1)
        super().mv(path1, path2, **options)


def _suffer(path: str) -> None:
    if Trouble.names not in path:
        return
    Trouble.hangs.wait(120)
    if Trouble.refuses:
        raise OSError(f"no access to {path}")


fsspec.register_implementation("trouble", TroubledFileSystem, clobber=True)


@contextmanager
def trouble(*, refuses: bool = False, hangs: bool = False, names: str = "") -> Iterator[None]:
    """Lets `trouble://` refuse or hang, where paths have `names` in them, as long as the context lasts."""
    Trouble.refuses, Trouble.names = refuses, names
    if hangs:
        Trouble.hangs.clear()
    try:
        yield
    finally:
        Trouble.refuses, Trouble.names = False, ""
        Trouble.hangs.set()


@contextmanager
def s3_server() -> Iterator[str]:
    """The options for a URI of a server that runs here, which has a bucket `bucket`; credentials are any."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it would log each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    finally:
        server.stop()
