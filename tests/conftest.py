"""What every test needs: a cache of its own, so that none reads or writes the user's."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of downloads and prepared images, also of the commands that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DIFFDX_CACHE"] = str(folder)
    return folder
