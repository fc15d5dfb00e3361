"""Hostile weights, whole way: the documented exit code, one line, and nothing else."""

import numpy as np
import pytest

from pipeline.exits import exit_code
from tests.integration.received_models import RECEIVED
from tests.memory import peak_bytes
from tests.scale import rounds

NAMES = sorted(RECEIVED)
CHOSEN = np.random.default_rng(0).permutation(NAMES)[: rounds(len(NAMES))]


@pytest.mark.fault(56)
@pytest.mark.parametrize("name", sorted(CHOSEN.tolist()))
def test_what_was_received_ends_in_one_line(tmp_path, name):
    from stages.backbones.frameworks import load_keras

    load_keras()
    received = RECEIVED[name]
    path, before = received.write(tmp_path), peak_bytes()
    with pytest.raises(Exception) as refusal:  # noqa: PT011 (its exit code is what is asserted)
        received.use(path)
    assert exit_code(refusal.value) == received.code
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000
    assert peak_bytes() - before < 1 << 30
