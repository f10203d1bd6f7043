"""The final pass killed again and again, and gone on with: as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy.exc
from lsst.daf.butler import Butler

from secondlight.cli import pipeline

from .comparison import differences
from .conftest import tool
from .interruption import (
    INPUTS,
    OUTPUT,
    PIPELINE,
    RUN,
    WHERE,
    Point,
    Stage,
    final_pass,
    half_done,
    prepare,
    temporary_files,
)

pytestmark = pytest.mark.slow

VISIT = "visit=1001"
KILLS = (
    Point("packages", Stage.IN_PLACE),
    Point("finalizeCharacterizationDetector", Stage.RUNNING, delay=0.3),
    Point("finalized_src_detector_table", Stage.HALF_WRITTEN),
    Point("finalized_src_table", Stage.IN_PLACE),
    Point("finalVisitSummary", Stage.COMMITTED),
    Point("pvi", Stage.HALF_WRITTEN),
    Point("sources_detector", Stage.RECORDED),
    Point("source_detector", Stage.WRITTEN),
)
"""Where the run is killed: in the order in which the points are reached."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that is ready for its final pass."""
    return prepare(tmp_path_factory.mktemp("prepared") / "repo")


@pytest.fixture(scope="module")
def reference(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final pass of both visits, which nobody interrupted."""
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("reference") / "repo")
    assert final_pass(root)[0] == 0
    return root


def test_killed_again_and_again(prepared: Path, reference: Path, tmp_path: Path) -> None:
    root = shutil.copytree(prepared, tmp_path / "repo")
    for kill in KILLS:
        code, _ = final_pass(root, where=VISIT, fatal=kill)
        assert code == -signal.SIGKILL, kill
        assert half_done(root, reference) == [], kill
    left = sum(kill.stage in (Stage.HALF_WRITTEN, Stage.WRITTEN) for kill in KILLS)
    assert len(temporary_files(root)) == left
    assert final_pass(root)[0] == 0
    assert differences(root, reference, RUN) == []
    assert final_pass(root)[0] == 0, "once more, though nothing is left to do"


def kill_in_a_transaction(repository: Path) -> None:
    """Leave the database as a process does that is killed while it writes."""
    code = f"""
import os, signal, sqlite3
database = sqlite3.connect({str(repository / "gen3.sqlite3")!r}, isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.execute("CREATE TABLE half_written (value)")
for _ in range(1000):
    database.execute("INSERT INTO half_written VALUES (randomblob(4000))")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


def test_killed_while_the_database_was_written(prepared: Path, tmp_path: Path) -> None:
    root = shutil.copytree(prepared, tmp_path / "repo")
    kill_in_a_transaction(root)
    with pytest.raises(sqlalchemy.exc.OperationalError, match="readonly"):
        Butler.from_config(str(root))
    pipeline.run_pipeline(
        str(root), pipeline=f"{PIPELINE}#final_pass", inputs=INPUTS, output=OUTPUT, where=WHERE,
        resume=True, extra=("--show", "pipeline"),
    )  # fmt: skip
    Butler.from_config(str(root)).close()
    with contextlib.closing(sqlite3.connect(root / "gen3.sqlite3")) as database:
        assert not database.execute("SELECT * FROM sqlite_master WHERE name = 'half_written'").fetchall()


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end(prepared: Path, reference: Path, tmp_path: Path, asked: signal.Signals) -> None:
    root = shutil.copytree(prepared, tmp_path / "repo")
    point = Point("finalizeCharacterizationDetector", Stage.RUNNING, delay=0.2, signal=asked)
    code, _ = final_pass(root, where=VISIT, fatal=point)
    assert code != 0
    assert half_done(root, reference) == []
    assert temporary_files(root) == []


def workers(command: subprocess.Popen[str]) -> list[int]:
    """Return the processes that work for a command: children of its fork server."""
    parents = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if os.getsid(int(folder.name)) == command.pid:
                after_name = (folder / "stat").read_text().rpartition(")")[2]
                parents[int(folder.name)] = int(after_name.split()[1])
    helpers = {pid for pid, parent in parents.items() if parent == command.pid}
    return [pid for pid, parent in parents.items() if parent in helpers]


def start(root: Path, *more: str) -> subprocess.Popen[str]:
    """Start the final pass with two processes, as a user does."""
    command = (
        tool("secondlight"), "run", root, "-p", f"{PIPELINE}#final_pass", "-i", INPUTS, "-o", OUTPUT,
        "-d", WHERE, "--output-run", RUN, "-j", "2", "--resume", *more,
    )  # fmt: skip
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_workers(command: subprocess.Popen[str], number: int) -> list[int]:
    until = time.monotonic() + 200
    while len(found := workers(command)) < number:
        assert command.poll() is None, command.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def test_a_worker_that_is_killed_stops_what_depends_on_it_only(
    prepared: Path, reference: Path, tmp_path: Path
) -> None:
    """Then all is asked to end, from outside and only once; and the run gone on with."""
    root = shutil.copytree(prepared, tmp_path / "repo")
    run = start(root)
    os.kill(wait_for_workers(run, 2)[0], signal.SIGKILL)
    said, _ = run.communicate()
    assert run.returncode == 1
    assert "killed by signal 9" in said
    assert half_done(root, reference) == []
    assert len(list((root / RUN).rglob("pvi_SimCam*.fits"))) == 1

    run = start(root)
    (worker, *_) = wait_for_workers(run, 1)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    assert not Path(f"/proc/{worker}").exists()
    assert half_done(root, reference) == []

    assert final_pass(root)[0] == 0
    assert differences(root, reference, RUN) == []
