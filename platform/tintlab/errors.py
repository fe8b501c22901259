"""Every error a user can cause, each with the exit code the command line ends with.

    TintlabError                 1    unexpected; never raised itself
    ├── ConfigError              2    usage or configuration
    ├── EnvironmentFault         3    no cluster, no GPU, no disk, no tracker, no such path
    ├── PartialFailure           4    finished, but some items failed
    ├── ConflictError            5    a lock is held, the champion changed, other parameters
    ├── GateRefused              6    the candidate is not good enough
    ├── IntegrityError           7    a hash does not match, a format version is not ours
    └── BudgetReached            8    the budget ended the work

A message is one line: what is wrong, what was got, what to do.
"""


class TintlabError(Exception):
    """A user's mistake or their machine's; printed as one line, never as a traceback."""

    exit_code = 1


class ConfigError(TintlabError):
    """A setting, argument or search space that cannot be used."""

    exit_code = 2


class EnvironmentFault(TintlabError):
    """Something outside tintlab is missing: a path, a device, a cluster, disk space."""

    exit_code = 3


class PartialFailure(TintlabError):
    """The work is finished, but some of its items failed."""

    exit_code = 4


class ConflictError(TintlabError):
    """Somebody else holds it, or it already exists with other parameters."""

    exit_code = 5


class GateRefused(TintlabError):
    """The candidate did not pass the promotion gate."""

    exit_code = 6


class IntegrityError(TintlabError):
    """A file is not what its manifest says, or is of a version this code does not read."""

    exit_code = 7


class BudgetReached(TintlabError):
    """The budget ended the work before it was complete."""

    exit_code = 8
