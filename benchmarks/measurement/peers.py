"""The same measurements by other programs, in the same run."""

from __future__ import annotations

__all__ = ("PEERS", "peer_times")

import tempfile
from collections.abc import Callable
from pathlib import Path

import galsim
import galsim.hsm
import numpy as np
from lsst.images import VisitImage

from secondlight.background.fields import render_background
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import image_box
from secondlight.psf.evaluation import kernel_stamps, psf_shapes, trace_radius

from ..accuracy.peers import PeerUnavailable, sep_peer, source_extractor
from ..accuracy.peers._common import Exposure
from ..accuracy.peers._programs import Programs, write_lines
from ..timing import user_seconds
from .detector import Detector

_SAMPLE = 300
_FWHM_PER_SIGMA = 2.35482
_RADII = (3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0)

_DETECTION = ["X_IMAGE", "Y_IMAGE"]
_FULL = [
    "XWIN_IMAGE",
    "YWIN_IMAGE",
    "ERRX2WIN_IMAGE",
    "X2WIN_IMAGE",
    "Y2WIN_IMAGE",
    "XYWIN_IMAGE",
    "FLUX_AUTO",
    "FLUXERR_AUTO",
    f"FLUX_APER({len(_RADII)})",
    f"FLUXERR_APER({len(_RADII)})",
    "FLAGS",
]

PEERS = (
    "piff.PSF.draw",
    "galsim.hsm.FindAdaptiveMom",
    "galsim.hsm.FindAdaptiveMom, PSF",
    "galsim.hsm.EstimateShear, REGAUSS",
    "sep, ten apertures",
    "sep, Kron flux",
    "sep, windowed centroid",
    "Source Extractor, ten apertures, Kron flux, windowed centroid and moments",
)


def peer_times(detector: Detector, sources: SourceCatalog) -> dict[str, float | None]:
    """Return microseconds of user CPU per source; None for a peer that is not here."""
    image = detector.image.copy()
    image.image.array[...] -= render_background(detector.background, image.bbox)
    sample = _sample(image, sources)
    times: dict[str, float | None] = dict(zip(PEERS[:4], _by_source(image, sample), strict=True))
    middle = [np.array([0.5 * (side.min + side.max)]) for side in (image.bbox.x, image.bbox.y)]
    (sigma,) = trace_radius(psf_shapes(image.psf, x=middle[0], y=middle[1]))
    exposure = Exposure.of(image, seeing_pixels=float(_FWHM_PER_SIGMA * sigma))
    times |= dict.fromkeys(PEERS[4:])
    try:
        times |= dict(zip(PEERS[4:7], _by_sep(exposure, sources), strict=True))
    except PeerUnavailable as reason:
        print(reason)
    try:
        times[PEERS[7]] = _by_source_extractor(exposure)
    except PeerUnavailable as reason:
        print(reason)
    return times


def _sample(image: VisitImage, sources: SourceCatalog) -> SourceCatalog:
    """Return sources without children, away from the border, taken at random."""
    x, y = sources["slot_Centroid_x"], sources["slot_Centroid_y"]
    x0, y0, x1, y1 = image_box(image)
    inside = (x > x0 + 40) & (x < x1 - 40) & (y > y0 + 40) & (y < y1 - 40)
    rows = np.flatnonzero(inside & (sources["deblend_nChild"] == 0) & ~sources["sky_source"])
    return sources[np.random.default_rng(1).choice(rows, min(_SAMPLE, len(rows)), replace=False)]


def _by_source(image: VisitImage, sample: SourceCatalog) -> list[float]:
    """Return times of Piff and GalSim, called once per source, on the boxes of the footprints."""
    x, y = np.array(sample["slot_Centroid_x"]), np.array(sample["slot_Centroid_y"])
    sigma = trace_radius(psf_shapes(image.psf, x=x, y=y))
    kernels = [galsim.Image(np.ascontiguousarray(k)) for k in kernel_stamps(image.psf, x=x, y=y)]
    boxes = sample.footprints.bounding_boxes()
    pixels = galsim.Image(image.image.array, xmin=image.bbox.x.start, ymin=image.bbox.y.start)
    stamps = [pixels[galsim.BoundsI(int(b[0]), int(b[2]), int(b[1]), int(b[3]))] for b in boxes]
    piff_psf = image.psf.piff_psf

    def moments(k: int) -> None:
        galsim.hsm.FindAdaptiveMom(
            stamps[k],
            guess_sig=2.5 * sigma[k],
            guess_centroid=galsim.PositionD(x[k], y[k]),
            strict=False,
            check=False,
        )

    def regauss(k: int) -> None:
        galsim.hsm.EstimateShear(
            stamps[k],
            kernels[k],
            sky_var=1.0,
            guess_sig_gal=2.5 * sigma[k],
            guess_sig_PSF=sigma[k],
            guess_centroid=galsim.PositionD(x[k], y[k]),
            strict=False,
            check=False,
        )

    calls: list[Callable[[int], object]] = [
        lambda k: piff_psf.draw(x[k], y[k], stamp_size=25),
        moments,
        lambda k: galsim.hsm.FindAdaptiveMom(kernels[k], guess_sig=sigma[k], strict=False, check=False),
        regauss,
    ]
    return [_per_source(lambda call=call: [call(k) for k in range(len(x))], len(x)) for call in calls]


def _by_sep(exposure: Exposure, sources: SourceCatalog) -> list[float]:
    """Return times of sep for all sources at once."""
    sep = sep_peer._import_sep()
    x, y = np.array(sources["slot_Centroid_x"]), np.array(sources["slot_Centroid_y"])
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    noise = np.sqrt(exposure.sky_variance)
    sigma = np.full(len(x), exposure.fwhm / _FWHM_PER_SIGMA)

    def kron() -> None:
        ones = np.ones(len(x))
        radius, _ = sep.kron_radius(exposure.counts, x, y, sigma, sigma, 0.0 * ones, 6.0)
        scale = np.clip(np.nan_to_num(2.5 * radius), 1.0, 20.0)
        sep.sum_ellipse(exposure.counts, x, y, sigma, sigma, 0.0 * ones, scale, err=noise, subpix=5)

    return [
        _per_source(step, len(x))
        for step in (
            lambda: [sep.sum_circle(exposure.counts, x, y, r, err=noise, subpix=5) for r in _RADII],
            kron,
            lambda: sep.winpos(exposure.counts, x, y, sigma),
        )
    ]


def _by_source_extractor(exposure: Exposure) -> float:
    """Return the time of Source Extractor with the measurements less that with detection alone."""
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs.find(Path(folder), exposure.name)
        source_extractor._write_inputs(exposure, programs)
        settings = source_extractor._extractor_settings(exposure, programs) | {
            "BACK_TYPE": "MANUAL",
            "BACK_VALUE": 0.0,
            "CATALOG_NAME": "found.cat",
            "CATALOG_TYPE": "ASCII",
            "PHOT_APERTURES": ",".join(str(2.0 * r) for r in _RADII),
        }
        seconds = []
        for columns in (_DETECTION, _FULL):
            write_lines(programs.folder / source_extractor._COLUMNS, columns)
            before = programs.cpu_seconds
            programs.extract(source_extractor._IMAGE, settings)
            seconds.append(programs.cpu_seconds - before)
        found = len((programs.folder / "found.cat").read_text().splitlines())
        return 1e6 * (seconds[1] - seconds[0]) / found


def _per_source(step: Callable[[], object], n: int) -> float:
    start = user_seconds()
    step()
    return 1e6 * (user_seconds() - start) / n
