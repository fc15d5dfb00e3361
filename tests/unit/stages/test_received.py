"""Files of somebody else are opened if they are files, and behind a link where one may stand."""

import os

import pytest

from cryobase.stages.errors import DataError
from cryobase.stages.received import opened


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "file"
    made.write_bytes(b"content")
    (tmp_path / "link").symlink_to(made)
    return made


def test_a_link_is_followed_where_a_user_names_it(path):
    with opened(path.with_name("link"), 7) as file:
        assert file.read() == b"content"


@pytest.mark.fault(32)
def test_a_link_in_a_cache_is_refused_before_it_is_opened(path):
    before = os.listdir("/dev/fd")
    refused = opened(path.with_name("link"), 7, follow=False)
    with pytest.raises(DataError, match=r"a symbolic link, not a regular file$"), refused:
        raise AssertionError("opened")
    assert os.listdir("/dev/fd") == before
    with opened(path, 7, follow=False) as file:
        assert file.read() == b"content"


def test_a_larger_file_is_refused(path):
    with pytest.raises(DataError, match="7 bytes, at most 6 are read"), opened(path, 6):
        raise AssertionError("opened")
