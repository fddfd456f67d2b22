"""Every error that raynas raises on purpose; a command turns each into one line and an exit code, 2 but for two of them."""

from typing import ClassVar


class RaynasError(Exception):
    """Base of all errors that a user can mend; the message says what was wrong, what is allowed and how to mend it."""


class OutOfSpaceError(RaynasError):
    """An architecture does not belong to the search space."""


class UnknownNameError(RaynasError):
    """A space, searcher, encoding, ... or an option of one does not exist."""


class ShapeError(RaynasError):
    """An array has the wrong shape; the message quotes both shapes."""


class TableError(RaynasError):
    """A benchmark table is missing, damaged, of another space, or does not hold what was asked."""


class ResultsError(RaynasError):
    """A run folder is missing, damaged, or already holds another run."""


class DamagedError(ResultsError):
    """A file of a run folder does not hold what it should; to read it again does not help."""


class ConfigError(RaynasError):
    """A configuration value or a combination of values is not allowed."""


class ResumeError(RaynasError):
    """A saved state cannot be restored."""


class RunLost(RaynasError):
    """What a run needs has gone: its cluster, its storage, or its folder, taken over by another process; the run can be resumed."""

    exit_code: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h


class RunFailed(RaynasError):
    """Something ended a run that no user can mend; exit code 1."""
