"""A repository of somebody else's."""

import subprocess
from pathlib import Path

import pytest

from tests.images import write_folder


@pytest.fixture
def git(quick_path, monkeypatch) -> Path:
    """A Git repository with a folder of photographs, the current directory."""
    root = quick_path / "theirs"
    root.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    write_folder(root / "photos", 4)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(quick_path / "site"))  # DVC's databases sync often
    return root
