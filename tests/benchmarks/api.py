"""What a view of a feature set costs: PyTorch's loader beside the set's own batches.

Both sides hand over the same shuffled batches of 256 rows. PyTorch is not in the lock:
`pip install torch` first.
"""

from collections.abc import Callable

import cryobase
from tests.benchmarks.measure import NotHereError, speed_ratio
from tests.benchmarks.read import BATCH, ROWS, drain, stored


def torch_vs_batches() -> float:
    """Rows per second through `DataLoader`, against `batches`, both shuffled in runs of 16."""
    try:
        from torch.utils.data import DataLoader
    except ImportError:
        raise NotHereError("PyTorch is not installed") from None
    with cryobase.open(stored(ROWS)) as features:
        loader = DataLoader(
            features.to_torch_batches(size=BATCH, shuffle=True, block=16), batch_size=None
        )
        return speed_ratio(
            lambda: drain(loader),
            lambda: drain(features.batches(None, BATCH, shuffle=True, block=16)),
            rounds=41,  # of a twentieth of a second each: other work on the machine weighs much
        )


BENCHMARKS: dict[str, Callable[[], float]] = {"api.torch_vs_batches": torch_vs_batches}
