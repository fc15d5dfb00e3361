"""How much of a long loop to run: a seeded tenth in CI, all of it under `make test-all`."""

import os

RUN_ALL = os.environ.get("CRYOBASE_TEST_ALL") == "1"


def rounds(whole: int) -> int:
    """The number of rounds to run of a loop that has `whole` of them."""
    return whole if RUN_ALL else max(1, whole // 10)
