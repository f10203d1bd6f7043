"""User CPU seconds and memory to simulate one large detector, one thread, and what GalSim takes per object.

Run as ``python -m benchmarks.simulation``, or with the names of scenes. Each scene is simulated twice in a
process: the first time compiles the kernels and makes the tables of profiles, the second is what counts.
"""

from __future__ import annotations

import resource
import sys

import galsim
import numpy as np
from rich.console import Console
from rich.table import Table

from secondlight.simulate.detector import simulate_detector
from secondlight.simulate.objects import make_objects
from secondlight.simulate.scene import load_scene

from .timing import user_seconds

SCENES = ("ccd", "ccd-dense", "ccd-crowded")
_GALSIM_OBJECTS = 200


def galsim_seconds_per_object(*, n: int, seed: int = 1) -> float:
    """Return the user CPU seconds GalSim takes to draw a faint bulge and disk galaxy, each from scratch."""
    random = np.random.default_rng(seed)
    start = user_seconds()
    for radius, g1, fwhm in random.uniform([0.2, -0.3, 0.9], [0.8, 0.3, 1.0], (n, 3)):
        bulge = galsim.Sersic(4.0, half_light_radius=0.6 * radius, trunc=3.0 * radius)
        disk = galsim.Sersic(1.0, half_light_radius=radius, trunc=5.0 * radius)
        galaxy = (0.25 * bulge + 0.75 * disk).shear(g1=g1, g2=0.1)
        psf = galsim.Convolve(
            galsim.Moffat(3.2, fwhm=fwhm), galsim.Gaussian(sigma=0.1).shear(g1=0.05, g2=0.0)
        )
        galsim.Convolve(galaxy, psf).drawImage(nx=48, ny=48, scale=0.2)
    return (user_seconds() - start) / n


def simulate(name: str) -> tuple[float, int, int]:
    """Simulate the first detector of a scene; return user CPU seconds, objects and detectable ones."""
    scene = load_scene(name)
    start = user_seconds()
    result = simulate_detector(scene, make_objects(scene), visit=scene.visits[0].id, detector=0)
    seconds = user_seconds() - start
    return seconds, len(result.truth), int(np.sum(result.truth["snr"] >= 5))


def main(names: tuple[str, ...] = SCENES) -> None:
    """Simulate scenes and print a table."""
    console = Console()
    table = Table(
        "scene", "objects", "above 5 sigma", "first (s)", "again (s)", "ms per object", "peak memory (GB)"
    )
    for name in names:
        first = simulate(name)[0]
        seconds, objects, detectable = simulate(name)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        table.add_row(
            name, str(objects), str(detectable), f"{first:.1f}", f"{seconds:.1f}",
            f"{1e3 * seconds / objects:.2f}", f"{memory:.2f}",
        )  # fmt: skip
    console.print(table)
    console.print(
        f"GalSim, object by object: {1e3 * galsim_seconds_per_object(n=_GALSIM_OBJECTS):.1f} ms per galaxy"
    )


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or SCENES)
