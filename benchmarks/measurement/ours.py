"""User CPU seconds of every plugin of the final pass on one detector."""

from __future__ import annotations

__all__ = ("Bill", "measure")

import dataclasses
from collections import defaultdict
from collections.abc import Callable

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.measurement.plugin import MeasurementPlugin
from secondlight.measurement.sources import MeasurementSources
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig, ReprocessVisitImageTask

from ..timing import peak_memory, time_subtasks, user_seconds
from .detector import Detector

_SHARED = {
    "PSF stamps": "psf_images",
    "PSF kernels": "psf_kernels",
    "adaptive moments of the PSF": "psf_shapes",
}
"""What the plugins share and whoever asks first works out."""


@dataclasses.dataclass(frozen=True)
class Bill:
    """What the final pass of one detector costs.

    Parameters
    ----------
    n_sources
        Sources measured.
    plugins, steps
        User CPU seconds of each plugin (and of what they share) and of each step of the task.
    total
        User CPU seconds of the whole task.
    memory_before, memory_peak
        Resident memory before and at most, GB.
    sources
        The catalog.
    """

    n_sources: int
    plugins: dict[str, float]
    steps: dict[str, float]
    total: float
    memory_before: float
    memory_peak: float
    sources: SourceCatalog


def measure(detector: Detector) -> Bill:
    """Run the final pass twice, the first time to compile or load the kernels, and time the second."""
    _run(detector)
    return _run(detector)


def _run(detector: Detector) -> Bill:
    config = ReprocessVisitImageConfig()
    task = ReprocessVisitImageTask(config=config)
    steps = time_subtasks(task, [n for n in config.toDict() if hasattr(getattr(task, n, None), "run")])
    plugins: dict[str, float] = defaultdict(float)
    for plugin in task.measurement.plugins:
        _time(plugin, plugins)
    inputs = detector.inputs()
    start = user_seconds()
    before, peak, result = peak_memory(lambda: task.run(**inputs))
    total = user_seconds() - start
    sources = result.sources_footprints
    return Bill(len(sources), dict(plugins), dict(steps), total, before, peak, sources)


def _time(plugin: MeasurementPlugin, spent: dict[str, float]) -> None:
    """Make a plugin add its CPU time to ``spent``, and work out before what is shared and not its own."""
    measure = plugin.measure

    def timed(sources: MeasurementSources) -> None:
        if plugin.order > 0:
            for name, attribute in _SHARED.items():
                spent[name] += _seconds(lambda attribute=attribute: getattr(sources, attribute))
        spent[plugin.name] += _seconds(lambda: measure(sources))

    plugin.measure = timed  # type: ignore[method-assign]


def _seconds(step: Callable[[], object]) -> float:
    start = user_seconds()
    step()
    return user_seconds() - start
