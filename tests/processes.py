"""Processes that a test has started, and theirs, found by what is in their environment."""

import psutil


def marked(name: str, value: str) -> list[psutil.Process]:
    """Those that live and have the variable `name` with this value."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # it went meanwhile, or is not ours
            continue
    return found
