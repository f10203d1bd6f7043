"""Steps are charged what they use themselves, and the bill adds up."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.bill.report import markdown, totals
from benchmarks.timing import Meter, peak_memory, time_subtasks
from lsst.pex.config import Config, ConfigurableField
from lsst.pipe.base import Task

from benchmarks import timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(timing, "user_seconds", lambda: now[0])
    return now


def test_steps_within_steps_count_once(clock: list[float]) -> None:
    meter = Meter()
    with meter.step("outer"):
        clock[0] += 1.0
        with meter.step("inner"):
            clock[0] += 2.0
        clock[0] += 4.0
        with meter.step("inner"):
            clock[0] += 8.0
    clock[0] += 16.0
    assert meter.seconds == {"outer": 5.0, "inner": 10.0}


def test_a_step_that_fails_is_charged(clock: list[float]) -> None:
    meter = Meter()

    def fail() -> None:
        clock[0] += 3.0
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        meter.measured("failing", fail)()
    with meter.step("next"):
        clock[0] += 1.0
    assert meter.seconds == {"failing": 3.0, "next": 1.0}


def test_peak_is_that_of_the_step() -> None:
    meter = Meter()
    with meter.step("small"):
        pass
    with meter.step("large"), meter.step("larger"):
        np.ones(25_000_000)
    if not meter.peaks:
        pytest.skip("The system does not tell the peak of a step.")
    assert meter.peaks["larger"] > meter.peaks["small"] + 0.15
    assert meter.peaks["large"] < meter.peaks["larger"] - 0.15
    before, peak, _ = peak_memory(lambda: np.ones(25_000_000).sum())
    assert 0.15 < peak - before < 0.4


class _Part(Task):
    ConfigClass = Config
    _DefaultName = "part"

    def run(self, clock: list[float]) -> str:
        """Take a second."""
        clock[0] += 1.0
        return "done"


class _WholeConfig(Config):
    early = ConfigurableField[_Part](target=_Part, doc="Made at once.")
    late = ConfigurableField[_Part](target=_Part, doc="Made when it is needed.")


class _Whole(Task):
    ConfigClass = _WholeConfig
    _DefaultName = "whole"
    early: _Part
    late: _Part

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("early")

    def run(self, clock: list[float]) -> list[str]:
        """Make what is missing, and run both."""
        self.makeSubtask("late")
        return [self.early.run(clock), self.late.run(clock), self.late.run(clock)]


def test_subtasks_are_timed_also_if_they_are_made_later(clock: list[float]) -> None:
    task = _Whole()
    spent = time_subtasks(task, ["early", "late"])
    assert task.run(clock) == ["done"] * 3
    assert spent == {"early": 1.0, "late": 2.0}


def _task(seconds: float, peak: float) -> dict[str, object]:
    run = {
        "seconds": {"imports": seconds, "measurement": 2.5, "tiny": 0.001},
        "peak_gb": {"imports": 0.3, "measurement": peak},
        "megabytes": {"pvi": 100.0, "a_log": 0.1},
        "rows": {"sources_detector": 3000, "finalized_src_detector_table": 200},
    }
    return {"cold": run, "warm": run}


def test_the_bill_adds_up() -> None:
    tasks = {"first": _task(1.0, 0.5), "second": _task(2.0, 0.75)}
    assert totals(tasks, "cold") == (pytest.approx(8.002), 0.75)
    peer = {"seconds": 14.5, "sources": 2578, "peak_gb": {"sex": 0.4, "psfex": 0.1}}
    text = markdown({"command": "bill", "scenes": {"ccd": {"tasks": tasks, "peer": peer}}})
    assert "ccd: 3000 rows of sources, 200 stars" in text
    assert "| **both**, own process, start-up included | **8.0** | **0.75** |" in text
    assert "2578 sources | 14.5 | 0.40 |" in text
    assert "| `second` | measurement | 2.50 | 2.50 | 0.75 |" in text
    assert "| `pvi` | 100.00 |" in text
    assert "a_log" not in text
