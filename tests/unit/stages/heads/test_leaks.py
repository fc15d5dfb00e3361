import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryobase.stages.heads import evidence as module
from cryobase.stages.heads.evidence import duplicates, leaks, near_duplicates
from cryobase.stages.heads.rows import ArrayRows


def digests_of(count):
    digests = np.zeros((count, 32), np.uint8)
    digests[:, :4] = np.arange(count, dtype=">u4").view(np.uint8).reshape(-1, 4)
    return digests


@pytest.fixture
def planted():
    """Features after a ReLU, so all much alike; 20 rows are copies with a little noise."""
    random = np.random.default_rng(0)
    features = np.maximum(random.normal(1, 1, (400, 64)), 0)
    features[200:220] = features[:20] + 0.02 * random.normal(size=(20, 64))
    rows = ArrayRows(features.astype("f4"), labels=np.zeros(400, np.int32), classes=("a", "b"))
    digests = digests_of(400)
    digests[300:310] = digests[50:60]
    return rows, digests


@pytest.mark.fault(15)
@pytest.mark.parametrize("block", [64, 1024])
def test_all_planted_pairs_are_found_and_no_other(planted, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    rows, digests = planted
    near = near_duplicates(rows, digests, np.arange(400))
    assert {(pair.first, pair.second) for pair in near} == {(k, 200 + k) for k in range(20)}
    same = duplicates(digests, np.arange(400))
    assert {(pair.first, pair.second) for pair in same} == {(50 + k, 300 + k) for k in range(10)}
    assert all(pair.exact for pair in same)


@pytest.mark.fault(15)
def test_a_leak_has_one_side_in_each_part(planted):
    rows, digests = planted
    pairs = near_duplicates(rows, digests, np.arange(400)) + duplicates(digests, np.arange(400))
    train, test = np.arange(205), np.arange(205, 400)
    found = {(pair.first, pair.second) for pair in leaks(pairs, train, test)}
    assert found == {(k, 200 + k) for k in range(5, 20)} | {(50 + k, 300 + k) for k in range(10)}
    assert leaks(pairs, test, train) == leaks(pairs, train, test)


def test_only_the_rows_asked_for_are_looked_at(planted):
    rows, digests = planted
    assert near_duplicates(rows, digests, np.arange(100, 400)) == []
    assert duplicates(digests, np.arange(100, 300)) == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_exact_duplicates_are_all_but_the_first_of_each_kind(kinds):
    digests = digests_of(6)[np.array(kinds, int)].reshape(-1, 32)
    pairs = duplicates(digests, np.arange(len(kinds)))
    assert len(pairs) == len(kinds) - len(set(kinds))
    assert all(kinds[pair.first] == kinds[pair.second] for pair in pairs)
