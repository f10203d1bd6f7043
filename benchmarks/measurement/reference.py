"""What the reference system needs, from the timings that come with its runs."""

from __future__ import annotations

__all__ = ("reference_times",)

import json

from ..sdss import DATA


def reference_times() -> dict[str, dict[str, float]]:
    """Return microseconds of CPU per source by pack and plugin or step; empty, with a message, if absent."""
    result = {}
    for pack in "AB":
        path = DATA.parent / "parity" / pack / "timings.json"
        if not path.is_file():
            print(f"no timings of the reference: there is no {path} (set SECONDLIGHT_TEST_DATA)")
            continue
        timings = json.loads(path.read_text())
        result[pack] = {
            row["name"].removeprefix("plugin "): 1e6 * row["cpu_s"] / timings["nrecords"]
            for row in timings["rows"]
        }
    return result
