"""Programs beside Python that tests drive."""

import os
import shutil

import pytest


def needed(*names: str, packages: str) -> list[str]:
    """Where the programs lie; without one the test is skipped, or fails where CI is set: nothing there may go unproven in silence."""
    found = [path for name in names if (path := shutil.which(name)) is not None]
    if len(found) < len(names):
        if os.environ.get("CI"):
            pytest.fail(f"CI must have {' and '.join(names)}: .ci/run installs what is missing")
        pytest.skip(f"needs {' and '.join(names)}, as `apt-get install {packages}` brings it")
    return found
