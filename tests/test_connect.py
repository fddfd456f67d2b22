"""Which cluster is joined, and what becomes of pointers to clusters that are gone."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from raynas.errors import ConfigError
from raynas.run import connect as module
from raynas.run.connect import connect


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses for which Ray was started or joined; it is not, here."""
    addresses: list[str] = []
    monkeypatch.setattr(module.ray, "init", lambda address, **options: addresses.append(address))
    monkeypatch.setattr(module, "greet", lambda address: None)
    return addresses


@pytest.fixture
def pointer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `ray start` leaves the address of its cluster."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def dead() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_without_any_cluster_one_is_started(pointer: Path, started: list[str]) -> None:
    assert connect(None)
    assert started == ["local"]


def test_a_cluster_that_answers_is_joined(pointer: Path, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        pointer.write_text(address)
        assert not connect(None)
        assert not connect(address)
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert not connect(None)
    assert started == [address] * 3
    assert pointer.exists()


@pytest.mark.parametrize("left", ["an address", "no address"])
def test_a_pointer_to_what_is_gone_is_deleted_and_that_is_said_once(
    left: str, pointer: Path, started: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    pointer.write_text(dead() if left == "an address" else "127.0.0.1:many")
    for _ in range(2):
        assert connect(None)
    assert started == ["local"] * 2
    assert not pointer.exists()
    (said,) = caplog.messages
    assert "does not answer" in said
    assert str(pointer) in said


def test_a_pointer_of_somebody_else_is_left_alone_and_not_spoken_of(
    pointer: Path, started: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointer.write_text(dead())
    monkeypatch.setattr(os, "getuid", lambda: pointer.stat().st_uid + 1)
    assert connect(None)
    assert pointer.exists()
    assert not caplog.messages


def test_a_cluster_that_answers_but_takes_no_driver_keeps_its_pointer(
    pointer: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(address: str, **options: Any) -> None:
        if address != "local":
            raise RuntimeError("Version mismatch\nmore")

    monkeypatch.setattr(module.ray, "init", init)
    monkeypatch.setattr(module, "greet", lambda address: None)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pointer.write_text(f"127.0.0.1:{server.getsockname()[1]}")
        assert connect(None)
    assert pointer.exists()
    assert "takes no driver (Version mismatch)" in caplog.text


@pytest.mark.parametrize("source", ["flag", "environment"])
def test_a_cluster_that_was_asked_for_must_answer(source: str, pointer: Path, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    address = dead()
    if source == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=rf"^no Ray cluster answers at {address}: [^\n]*; leave --address out \(and RAY_ADDRESS\)"):
        connect(address if source == "flag" else None)
    assert started == []


def test_tests_do_not_meet_clusters_of_this_machine() -> None:
    assert "RAY_ADDRESS" not in os.environ
    assert os.environ["RAY_TMPDIR"].startswith("/tmp/rn-")


def test_what_keeps_ray_from_starting_is_one_line(pointer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str, **options: Any) -> None:
        raise OSError("AF_UNIX path length cannot exceed 107 bytes\nmore of it")

    monkeypatch.setattr(module.ray, "init", init)
    with pytest.raises(ConfigError, match=r"^no Ray cluster can be started here: AF_UNIX path length cannot exceed 107 bytes; mend that"):
        connect(None)
