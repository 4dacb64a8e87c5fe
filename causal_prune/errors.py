"""The errors of the package: one base class and the kinds that the exit codes tell apart."""


class CausalPruneError(Exception):
    """Something that the caller can mend; `str(error)` is one line that names the argument and the fix."""

    exit_code = 2


class InputError(CausalPruneError):
    """Wrong usage, configuration or input: a file, a flag, a model or data that cannot be used."""

    exit_code = 2


class TargetError(CausalPruneError):
    """The target cannot be met, or nothing was pruned; the message states the reachable range."""

    exit_code = 3


class ParityError(CausalPruneError):
    """An exported network does not compute what the network that it came from computes."""

    exit_code = 1
