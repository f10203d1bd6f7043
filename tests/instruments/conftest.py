"""Repositories with real images, made once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

from secondlight.instruments.ingest import ingest
from secondlight.instruments.repository import make_repository
from secondlight.instruments.sdss import SdssImager


@dataclasses.dataclass
class Repository:
    """A repository and where it is."""

    root: Path
    butler: Butler


@pytest.fixture(scope="session")
def sdss_repository(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """All six SDSS visits."""
    root = tmp_path_factory.mktemp("sdss") / "repo"
    report = ingest(make_repository(root), SdssImager(), [data_dir / "sdss_stripe82"])
    assert len(report.ingested) == 6
    return Repository(root, Butler.from_config(str(root), collections="SDSS/images"))
