"""What is not used is not imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from secondlight.psf._late_imports import import_late

_CHECK = """
import sys
import secondlight.tasks.finalize_characterization, secondlight.tasks.reprocess_visit_image
heavy = {"sklearn", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
import piff.gp_interp
assert piff.gp_interp.treegp.GPInterpolation(kernel="RBF(200.0)").kernel_template.length_scale == 200.0
assert "sklearn" in sys.modules
"""


def test_tasks_leave_heavy_packages_alone() -> None:
    done = subprocess.run([sys.executable, "-c", _CHECK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_module_is_run_when_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "a_late_package"
    package.mkdir()
    (package / "__init__.py").write_text("import sys\nsys.late_runs.append(1)\nfrom .part import VALUE\n")
    (package / "part.py").write_text("VALUE = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    runs: list[int] = []
    monkeypatch.setattr(sys, "late_runs", runs, raising=False)
    import_late("a_late_package")
    early = importlib.import_module("a_late_package")
    assert early.__file__ == str(package / "__init__.py")
    assert importlib.import_module("a_late_package.part").VALUE == 5
    assert not runs
    assert early.VALUE == 5
    assert importlib.import_module("a_late_package").VALUE == early.VALUE
    import_late("a_late_package")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = early.nothing
    assert runs == [1]
    for name in ("a_late_package", "a_late_package.part"):
        del sys.modules[name]


def test_missing_package_is_left_missing() -> None:
    import_late("no_such_package_at_all")
    with pytest.raises(ImportError):
        __import__("no_such_package_at_all")
