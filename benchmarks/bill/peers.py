"""Source Extractor and PSFEx on the same image: what they cost.

``python -m benchmarks.bill.peers REPO`` prints JSON.
"""

from __future__ import annotations

__all__ = ("measure",)

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lsst.daf.butler import Butler

from secondlight.simulate.repository import IMAGES_RUN, stored_scene

from ..accuracy.peers import PeerUnavailable, measure_with_source_extractor

_PAUSE = 0.02


def measure(root: str) -> dict[str, Any]:
    """Measure the image of a repository.

    Returns
    -------
    result
        ``seconds`` of user CPU of both programs, ``sources`` and ``peak_gb`` by program; or ``missing``,
        which says what is not installed.
    """
    with Butler.from_config(root) as butler:
        (ref,) = butler.query_datasets("postISRCCD", collections=IMAGES_RUN, explain=False)
        image = butler.get(ref)
        scene = stored_scene(butler)
    assert scene is not None
    zero_point = scene.zero_point(scene.visits[0])
    try:
        with _peaks_of_children() as peaks:
            measured = measure_with_source_extractor(image, zero_point=zero_point, seeing_pixels=None)
    except PeerUnavailable as error:
        return {"missing": str(error)}
    return {"seconds": measured.cpu_seconds, "sources": len(measured.x), "peak_gb": peaks}


@contextlib.contextmanager
def _peaks_of_children() -> Iterator[dict[str, float]]:
    """Watch the memory of child processes; the dict receives the peak of each program, GB.

    The system's own account of a child begins with the size of its parent.
    """
    peaks: dict[str, float] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_PAUSE):
            for children in Path("/proc/self/task").glob("*/children"):
                for child in children.read_text().split():
                    with contextlib.suppress(OSError, KeyError):
                        status = _status(Path("/proc") / child / "status")
                        name = status["Name"]
                        peaks[name] = max(peaks.get(name, 0.0), int(status["VmHWM"].split()[0]) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


def _status(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {name: value.strip() for name, _, value in lines}


if __name__ == "__main__":
    json.dump(measure(*sys.argv[1:]), sys.stdout)
