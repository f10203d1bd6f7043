"""The bill: the final pass of one large detector, and Source Extractor with PSFEx on the same image."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import click

from .report import BAR_GB, BAR_SCENE, BAR_SECONDS, markdown, totals

_PACKAGES = ("secondlight", "lsst-images", "lsst-daf-butler", "numpy", "numba")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--scene", "scenes", multiple=True, default=("ccd", "ccd-dense"), show_default=True)
@click.option(
    "--repo", "folder", type=click.Path(path_type=Path),
    help="Folder for the repositories, one per scene; those that are there are used.  [default: temporary]",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/bill.json"))
@click.option(
    "--detectors", default=189, show_default=True, help="Detectors in the visit, all but one of them copies."
)
@click.option("--repeat", default=2, show_default=True, help="How often; the cheapest run counts.")
def main(scenes: tuple[str, ...], folder: Path | None, out: Path, detectors: int, repeat: int) -> None:
    """Measure and write a JSON file, and a Markdown file beside it."""
    with tempfile.TemporaryDirectory() as temporary:
        results = {
            scene: _measure((folder or Path(temporary)) / scene, scene, detectors, repeat) for scene in scenes
        }
    bill = {
        "command": f"python -m benchmarks.bill --detectors {detectors}",
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "scenes": results,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bill, indent=1) + "\n")
    text = markdown(bill)
    out.with_suffix(".md").write_text(text)
    click.echo(text)
    if BAR_SCENE in results:
        seconds, peak = totals(results[BAR_SCENE]["tasks"], "cold")
        kept = "kept" if seconds <= BAR_SECONDS and peak <= BAR_GB else "MISSED"
        click.echo(
            f"{BAR_SCENE}: {seconds:.1f} s, {peak:.2f} GB; bar {BAR_SECONDS:.0f} s, {BAR_GB} GB: {kept}"
        )


def _measure(repository: Path, scene: str, detectors: int, repeat: int) -> dict[str, Any]:
    """Return what both tasks and the peer cost on one scene."""
    from rich.console import Console

    from .repository import INPUTS, TASKS, prepare

    prepare(repository, scene, detectors=detectors, console=Console(stderr=True))
    tasks = {}
    for task in TASKS:
        runs = [
            _in_process("quantum", str(repository), task, INPUTS[task], f"bill/out/{uuid.uuid4().hex}")
            for _ in range(repeat)
        ]
        tasks[task] = {
            kind: min((run[kind] for run in runs), key=lambda run: sum(run["seconds"].values()))
            for kind in ("cold", "warm")
        }
    return {"tasks": tasks, "peer": _in_process("peers", str(repository))}


def _in_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this package in a process of its own and return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", f"{__package__}.{module}", *arguments],
        env=os.environ | _ONE_THREAD,
        stdout=subprocess.PIPE,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout, parse_float=lambda digits: round(float(digits), 4))
    return result


if __name__ == "__main__":
    main()
