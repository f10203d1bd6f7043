"""Time of the deblender per child, and of one huge blend, on made-up scenes, one thread.

The first run in a process compiles or loads the kernels; the second is what counts.
"""

from __future__ import annotations

import resource
import time

import astropy.units as u
import numpy as np
from lsst.images import Box, Image, Mask, VisitImage
from lsst.images.psfs import GaussianPointSpreadFunction
from rich.console import Console
from tests.scenes import make_obs_info, make_sky_projection

from secondlight.catalog.footprints import Footprints, Peaks
from secondlight.catalog.mask_planes import make_mask_schema
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.deblend.task import SourceDeblendTask
from secondlight.detection.task import SourceDetectionTask
from secondlight.instruments.camera import make_detector
from secondlight.psf.evaluation import stellar_stamps

NOISE = 10.0
SIGMA = 1.8


def scene(size: int, *, x: np.ndarray, y: np.ndarray, flux: np.ndarray, pedestal: float = 0.0) -> VisitImage:
    """Return a square image of stars with noise."""
    bbox = Box.factory[0:size, 0:size]
    psf = GaussianPointSpreadFunction(SIGMA, bounds=bbox, stamp_size=25)
    rng = np.random.default_rng(3)
    pixels = rng.normal(pedestal, NOISE, bbox.shape).astype(np.float32)
    stamps = stellar_stamps(psf, x=x, y=y)
    for image, x0, y0, f in zip(stamps.images, stamps.x0, stamps.y0, flux, strict=True):
        ys, xs = np.mgrid[y0 : y0 + 25, x0 : x0 + 25]
        inside = (xs >= 0) & (ys >= 0) & (xs < size) & (ys < size)
        pixels[ys[inside], xs[inside]] += (f * image[inside]).astype(np.float32)
    return VisitImage(
        Image(pixels, bbox=bbox, unit=u.adu),
        mask=Mask(schema=make_mask_schema(), bbox=bbox),
        variance=Image(np.full(bbox.shape, NOISE**2, np.float32), bbox=bbox, unit=u.adu**2),
        sky_projection=make_sky_projection(bbox),
        obs_info=make_obs_info(),
        psf=psf,
        detector=make_detector(
            instrument="TestCam",
            detector=4,
            name="D4",
            bbox=bbox,
            pixel_size=0.01,
            plate_scale=20.0,
        ),
        band="r",
    )


def pairs_and_triples(size: int = 2048, spacing: int = 40) -> VisitImage:
    """Return an image with a pair or a triple of stars on every point of a grid."""
    rng = np.random.default_rng(7)
    grid = np.arange(spacing // 2 + 5, size - spacing // 2, spacing, dtype=float)
    cx, cy = (c.ravel() for c in np.meshgrid(grid, grid))
    members = rng.integers(2, 4, len(cx))
    angle = rng.uniform(0, 2 * np.pi, len(cx))
    x, y, flux = [], [], []
    for k in range(3):
        rows = members > k
        phase = angle[rows] + 2 * np.pi * k / members[rows]
        radius = rng.uniform(4, 6, rows.sum())
        x.append(cx[rows] + radius * np.cos(phase))
        y.append(cy[rows] + radius * np.sin(phase))
        flux.append(10 ** rng.uniform(3.3, 4.5, rows.sum()))
    return scene(size, x=np.concatenate(x), y=np.concatenate(y), flux=np.concatenate(flux))


def huge_blend(
    side: int = 1000, n_peaks: int = 1000, *, pedestal: float = 0.0
) -> tuple[VisitImage, Footprints]:
    """Return an image and a square footprint over nearly all of it with many peaks."""
    rng = np.random.default_rng(5)
    size = side + 40
    x, y = rng.integers(30, size - 30, (2, n_peaks))
    x, y = np.unique(np.column_stack([x, y]), axis=0).T
    flux = np.sort(10 ** rng.uniform(3.3, 5, len(x)))[::-1]
    image = scene(size, x=x.astype(float), y=y.astype(float), flux=flux, pedestal=pedestal)
    footprint = Footprints.from_mask(np.ones((side, side), dtype=bool), x0=20, y0=20)
    peaks = Peaks(x, y, flux, flux, 1 + np.arange(len(x)))
    return image, footprint.with_peaks(np.array([0, len(x)]), peaks)


def run(image: VisitImage, footprints: Footprints) -> tuple[float, SourceCatalog]:
    """Deblend twice and return the user CPU seconds of the second time, and its result."""
    for _ in range(2):
        schema = minimal_source_schema()
        task = SourceDeblendTask(schema=schema)
        sources = SourceCatalog(schema, len(footprints), footprints=footprints)
        sources["id"] = 1 + np.arange(len(sources))
        start = time.process_time()
        result = task.run(image.copy(), sources)
        seconds = time.process_time() - start
    return seconds, result


def main() -> None:
    """Print milliseconds per child of small blends, and seconds of huge ones."""
    console = Console()
    image = pairs_and_triples()
    found = SourceDetectionTask(schema=minimal_source_schema()).run(image).sources
    seconds, result = run(image, found.footprints)
    children = int((result["parent"] != 0).sum())
    console.print(
        f"Pairs and triples: {children} children of {int((result['deblend_nChild'] > 0).sum())} blends in "
        f"{seconds:.2f} s, {1000 * seconds / children:.3f} ms per child"
    )
    for pedestal in (0.0, 100.0):
        image, footprints = huge_blend(pedestal=pedestal)
        seconds, result = run(image, footprints)
        children = int((result["parent"] != 0).sum())
        console.print(
            f"Huge blend, pedestal {pedestal:g}: {footprints.areas()[0]} pixels, {children} children of "
            f"{len(footprints.peak_x)} peaks in {seconds:.2f} s"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"Peak memory of the process, imports included: {peak:.0f} MiB")


if __name__ == "__main__":
    main()
