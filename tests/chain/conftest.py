"""One run of the whole chain on the six SDSS visits, shared by all tests of this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lsst.daf.butler import Butler

OUTPUT = "demo/run"
QUANTUM_GRAPH = "demo.qg"


def run_command(*arguments: str | Path) -> str:
    """Run a command line and return what it printed; fail with all of it if it does not succeed."""
    result = subprocess.run(
        [str(a) for a in arguments], capture_output=True, text=True, timeout=1500, check=False
    )
    assert result.returncode == 0, f"{arguments} failed:\n{result.stdout}\n{result.stderr}"
    return result.stdout


def tool(name: str) -> Path:
    """Return the path of a command installed beside the interpreter."""
    return Path(sys.executable).with_name(name)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A repository after `secondlight demo` on the six visits."""
    root = tmp_path_factory.mktemp("sdss") / "repo"
    print(run_command(tool("secondlight"), "demo", root, "--data", data_dir / "sdss_stripe82", "-j", "2"))
    return root


@pytest.fixture(scope="session")
def butler(repository: Path) -> Iterator[Butler]:
    """The outputs of the run."""
    butler = Butler.from_config(str(repository), collections=OUTPUT)
    yield butler
    butler.close()
