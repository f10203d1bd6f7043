"""User CPU time per source of every measurement plugin, on large simulated detectors, one thread.

Run as ``python -m benchmarks.measurement``, or with the names of scenes.  Peers measure some of the sources,
or the whole image, in the same run.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from .detector import Detector
from .ours import Bill, measure
from .peers import PEERS, peer_times
from .reference import reference_times

SCENES = ("ccd", "ccd-dense")

BARS = {
    "PSF stamps": 30,
    "base_PsfFlux": 30,
    "base_CircularApertureFlux": 400,
    "base_SdssCentroid": 20,
    "base_SdssShape": 150,
    "ext_shapeHSM_HsmSourceMoments": 150,
    "ext_shapeHSM_HsmShapeRegauss": 500,
    "ext_photometryKron_KronFlux": 50,
    "measurement": 1500,
}
"""What each is meant to take at most, microseconds per source."""


def main(names: tuple[str, ...] = SCENES) -> None:
    """Measure scenes and print tables."""
    console = Console()
    bills, peers = {}, {}
    for name in names:
        console.print(f"{name}: simulating, fitting the PSF, measuring …")
        detector = Detector.simulate(name)
        bills[name] = measure(detector)
        peers[name] = peer_times(detector, bills[name].sources)
    console.print(_ours(bills))
    console.print(_whole(bills))
    console.print(_peers(peers))


def _ours(bills: dict[str, Bill]) -> Table:
    reference = reference_times()
    table = Table(title="microseconds of user CPU per source")
    table.add_column("plugin", no_wrap=True)
    for name, bill in bills.items():
        table.add_column(f"{name}, {bill.n_sources}", justify="right")
    table.add_column("at most", justify="right")
    for pack in reference:
        table.add_column(f"reference, {pack}", justify="right")

    def add(name: str, seconds: list[float]) -> None:
        per_source = [
            f"{1e6 * s / bill.n_sources:.1f}" for s, bill in zip(seconds, bills.values(), strict=True)
        ]
        bar = BARS.get(name)
        others = [f"{times[name]:.0f}" if name in times else "" for times in reference.values()]
        table.add_row(name, *per_source, "" if bar is None else str(bar), *others)

    first = next(iter(bills.values()))
    for name in sorted(first.plugins, key=lambda n: -first.plugins[n]):
        add(name, [bill.plugins[name] for bill in bills.values()])
    table.add_section()
    for name in first.steps:
        add(name, [bill.steps[name] for bill in bills.values()])
    table.add_section()
    add("all of the final pass", [bill.total for bill in bills.values()])
    return table


def _whole(bills: dict[str, Bill]) -> Table:
    table = Table("scene", "sources", "measurement (s)", "final pass (s)", "memory before (GB)", "peak (GB)")
    for name, bill in bills.items():
        row = (bill.steps["measurement"], bill.total, bill.memory_before, bill.memory_peak)
        table.add_row(name, str(bill.n_sources), *(f"{value:.2f}" for value in row))
    return table


def _peers(times: dict[str, dict[str, float | None]]) -> Table:
    table = Table("peer", *times, title="microseconds of user CPU per source")
    for peer in PEERS:
        values = [t.get(peer) for t in times.values()]
        table.add_row(peer, *("not here" if v is None else f"{v:.0f}" for v in values))
    return table


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SCENES)
