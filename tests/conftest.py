"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Compiling a kernel in the first example breaks any deadline; fixed examples make failures repeatable.
settings.register_profile("secondlight", deadline=None, derandomize=True)
settings.load_profile("secondlight")

_DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real-data files; the test is skipped where it is absent."""
    folder = Path(os.environ.get("SECONDLIGHT_TEST_DATA", _DEFAULT_DATA))
    if not folder.is_dir():
        pytest.skip(f"real-data folder {folder} is absent (set SECONDLIGHT_TEST_DATA)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run whole pipelines last: they start many processes, which are quick once all kernels are compiled."""
    items.sort(key=lambda item: "chain" in item.path.parts)
