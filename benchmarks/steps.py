"""User CPU seconds of every step of the first and the final pass on one SDSS frame, in memory, one thread.

Run twice in a process: the first time compiles or loads the kernels, the second is what counts.
"""

from __future__ import annotations

import resource
from typing import Any

from rich.console import Console
from rich.table import Table

from secondlight.tasks.calibrate_image import CalibrateImageTask
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageTask

from .sdss import final_pass_config, first_pass_config, frames, run_final_pass, run_first_pass
from .timing import time_subtasks, user_seconds


def run_both(observation: Any) -> tuple[dict[str, float], dict[str, float], int]:
    """Run both passes on a frame and return the times of their steps and the number of sources."""
    first = CalibrateImageTask(config=first_pass_config())
    first_steps = [n for n in first_pass_config().toDict() if hasattr(getattr(first, n, None), "run")]
    first_times = time_subtasks(first, first_steps)
    start = user_seconds()
    result = run_first_pass(first, observation)
    first_times["total"] = user_seconds() - start
    config = final_pass_config()
    final = ReprocessVisitImageTask(config=config)
    final_steps = [n for n in config.toDict() if hasattr(getattr(final, n, None), "run")]
    final_times = time_subtasks(final, final_steps)
    start = user_seconds()
    published = run_final_pass(final, observation, result)
    final_times["total"] = user_seconds() - start
    return first_times, final_times, len(published.sources)


def main() -> None:
    """Time both passes and print a table."""
    observation = next((o for name, o in frames() if "r4" in name), None)
    if observation is None:
        return
    run_both(observation)
    first, final, n = run_both(observation)
    table = Table(title=f"User CPU seconds on one SDSS frame (2048 x 1489, {n} sources)")
    for heading in ("pass", "step", "seconds"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left")
    for label, times in (("first", first), ("final", final)):
        for step, seconds in sorted(times.items(), key=lambda item: -item[1]):
            if seconds >= 0.005:
                table.add_row(label, step, f"{seconds:.2f}")
        table.add_section()
    console = Console()
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"Peak memory of the process, imports included: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
