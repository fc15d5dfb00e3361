"""The errors that stages raise on purpose. A message names what is wrong, where, and the command
or setting that helps.
"""


class StageError(Exception):
    """Base of everything that `stages` raises on purpose."""


class DataError(StageError, ValueError):
    """The images, labels or splits cannot be used as they are (exit code 3)."""


class MissingWeightsError(StageError, FileNotFoundError):
    """Weights are missing; the message says which file to put where (exit code 5)."""


class NetworkError(StageError):
    """The network or a server does not answer; trying later may help (exit code 5)."""


class ConfigError(StageError, ValueError):
    """Params or arguments ask for something that does not exist or does not fit (exit code 2)."""


class DriftError(StageError, ArithmeticError):
    """An engine does not reproduce the features that it is compared with (exit code 4)."""
