"""What the stages raise on purpose. A message names what was found, where, and the mend."""


class StageError(Exception):
    """Base of everything that `stages` raises on purpose."""


class DataError(StageError, ValueError):
    """The images, labels or splits cannot be used as they are (exit code 3)."""


class MissingWeightsError(StageError, FileNotFoundError):
    """Weights are missing; the message says which file to put where (exit code 5)."""


class NetworkError(StageError):
    """There is no network, or a server that cannot be read; trying later may help (exit code 5)."""


class ConfigError(StageError, ValueError):
    """A stage was asked for something that its params cannot mean (exit code 2)."""


class DriftError(StageError, ArithmeticError):
    """An engine does not reproduce the features that it is compared with (exit code 4)."""
