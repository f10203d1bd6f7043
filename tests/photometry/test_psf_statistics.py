"""Statistics of the PSF and of its stars against plain numpy, on images that do not start at (0, 0)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from lsst.images import Box, Image, ObservationSummaryStats
from lsst.images.fields import ChebyshevField
from lsst.images.psfs import PointSpreadFunction

from secondlight.catalog.visit_image import replace_components
from secondlight.photometry.psf_statistics import (
    distance_to_nearest_star,
    ellipticities,
    good_samples,
    grid_statistics,
    higher_moment_statistics,
    median_of_finite,
    star_statistics,
)
from secondlight.photometry.summary_stats import ComputeExposureSummaryStatsTask
from tests.scenes import make_visit_image

X0, Y0 = 1700, -300
HALF = 15


class EllipticalPsf(PointSpreadFunction):
    """A Gaussian with moments that change over the image; not to be had where ``broken`` says so."""

    def __init__(self, *, ring: float = 0.0, broken: Any = lambda x, y: False) -> None:
        self.ring = ring
        self.broken = broken

    @staticmethod
    def moments(x: float, y: float) -> np.ndarray:
        """Return the covariance matrix at a position."""
        return np.array([[4.0 + 0.002 * (x - X0), 0.5], [0.5, 3.0 + 0.001 * (y - Y0)]])

    @property
    def bounds(self) -> Box:
        """Everywhere."""
        return Box.factory[-5000:5000, -5000:5000]

    @property
    def kernel_bbox(self) -> Box:
        """Box of the stamps."""
        return Box.factory[-HALF : HALF + 1, -HALF : HALF + 1]

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        """Return a centred stamp; a ring of negative light makes large apertures negative."""
        if self.broken(x, y):
            raise RuntimeError("no PSF here")
        dy, dx = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
        inverse = np.linalg.inv(self.moments(x, y))
        q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
        stamp = np.exp(-0.5 * q)
        stamp /= stamp.sum()
        r = np.hypot(dx, dy)
        stamp[(r > 5) & (r < 8)] -= self.ring
        stamp[r > 12] += self.ring
        return Image(stamp / stamp.sum(), bbox=self.kernel_bbox)

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Not needed here."""
        raise NotImplementedError

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        """Not needed here."""
        raise NotImplementedError


def make_image(psf: PointSpreadFunction | None = None, *, width: int = 500, height: int = 400):  # type: ignore[no-untyped-def]
    image = make_visit_image(x0=X0, y0=Y0, width=width, height=height)
    return replace_components(image, psf=psf or EllipticalPsf())


def mad(values: np.ndarray) -> float:
    return float(1.482602218505602 * np.median(np.abs(values - np.median(values))))


def statistics(image: Any, **values: Any) -> ObservationSummaryStats:
    stats = ObservationSummaryStats()
    ComputeExposureSummaryStatsTask().update_psf_stats(
        stats, image.psf, image.bbox, None, mask=image.mask, **values
    )
    return stats


def test_psf_at_the_centre() -> None:
    image = make_image()
    stats = statistics(image)
    x, y = X0 + 0.5 * 499, Y0 + 0.5 * 399
    expected = EllipticalPsf.moments(x, y)
    assert (stats.psfIxx, stats.psfIyy, stats.psfIxy) == pytest.approx(
        (expected[0, 0], expected[1, 1], expected[0, 1]), rel=2e-3
    )
    assert stats.psfSigma == pytest.approx(np.linalg.det(expected) ** 0.25, rel=1e-3)
    stamp = image.psf.compute_kernel_image(x=x, y=y).array
    assert stats.psfArea == pytest.approx(stamp.sum() ** 2 / (stamp**2).sum(), rel=1e-9)


def test_ranges_over_the_grid() -> None:
    """Of the pixels [::96, ::96], those without a bad mask plane."""
    image = make_image()
    bad = np.zeros(image.bbox.shape, dtype=bool)
    bad[:, 384] = True
    bad[192:193, :100] = True
    image.mask.set("SATURATED", bad)
    field = ChebyshevField(image.bbox, np.array([[1.0, 0.05], [0.03, 0.0]]))
    stats = statistics(image, ap_corr_map={"base_PsfFlux_instFlux": field})
    places = [
        (X0 + i, Y0 + j) for j in range(0, 400, 96) for i in range(0, 500, 96) if not bad[j, i]
    ]  # fmt: skip
    assert len(places) == 5 * 6 - 5 - 2
    radii = [math.sqrt(np.trace(EllipticalPsf.moments(x, y)) / 2) for x, y in places]
    assert stats.psfTraceRadiusDelta == pytest.approx(max(radii) - min(radii), rel=5e-3)
    sampled = [float(field(x=float(x), y=float(y))) for x, y in places]
    assert stats.psfApCorrSigmaScaledDelta == pytest.approx(np.ptp(sampled) / stats.psfSigma)
    dy, dx = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
    inside = np.hypot(dx, dy) <= 3 * stats.psfSigma
    fluxes = [image.psf.compute_kernel_image(x=x, y=y).array[inside].sum() for x, y in places]
    # The aperture of the statistic has exact edges, this one whole pixels.
    assert stats.psfApFluxDelta == pytest.approx(np.ptp(fluxes), abs=2e-3)
    assert stats.psfApFluxDelta > 0


def test_a_negative_aperture_flux() -> None:
    psf = EllipticalPsf(ring=0.012)
    x, y = np.array([X0 + 10.0, X0 + 200.0]), np.array([Y0 + 10.0, Y0 + 200.0])
    assert (
        psf.compute_kernel_image(x=x[0], y=y[0]).array[HALF - 9 : HALF + 10, HALF - 9 : HALF + 10].sum() < 0
    )
    result = grid_statistics(psf, x=x, y=y, radius=10.0)
    assert math.isnan(result["psfApFluxDelta"])
    assert math.isfinite(grid_statistics(psf, x=x, y=y, radius=3.0)["psfApFluxDelta"])


def test_a_psf_that_cannot_be_evaluated_everywhere() -> None:
    """Nothing fails; what would need the missing places is unknown."""
    image = make_image(EllipticalPsf(broken=lambda x, y: x < X0 + 50))
    stats = statistics(image)
    assert stats.psfSigma > 0
    assert stats.psfArea > 0
    assert math.isnan(stats.psfTraceRadiusDelta)
    assert math.isnan(stats.psfApFluxDelta)
    stats = statistics(make_image(EllipticalPsf(broken=lambda x, y: abs(x - X0 - 249.5) < 2)))
    assert math.isnan(stats.psfSigma)
    assert math.isnan(stats.psfArea)
    assert math.isnan(stats.psfApFluxDelta)  # its aperture follows the size
    assert stats.psfTraceRadiusDelta > 0
    stats = statistics(make_image(EllipticalPsf(broken=lambda x, y: True)))
    assert math.isnan(stats.psfSigma)
    assert math.isnan(stats.psfTraceRadiusDelta)


def test_without_a_psf_or_a_box_everything_is_unknown() -> None:
    image = make_image()
    task = ComputeExposureSummaryStatsTask()
    for psf, bbox in ((None, image.bbox), (image.psf, None)):
        stats = ObservationSummaryStats(psfSigma=1.0, nPsfStar=5, starEMedian=0.1, maxDistToNearestPsf=3.0)
        stats.psfTE1e1 = 0.25
        task.update_psf_stats(stats, psf, bbox, None)
        assert math.isnan(stats.psfSigma)
        assert math.isnan(stats.starEMedian)
        assert math.isnan(stats.maxDistToNearestPsf)
        assert stats.nPsfStar == 0
        assert stats.psfTE1e1 == 0.25  # of the visit, not of the detector


def test_shapes_and_their_differences() -> None:
    rng = np.random.default_rng(9)
    star = np.array([4.0, 3.5, 0.3]) + 0.1 * rng.normal(size=(41, 3))
    psf = np.array([4.1, 3.4, 0.2]) + 0.1 * rng.normal(size=(41, 3))
    e1 = (star[:, 0] - star[:, 1]) / (star[:, 0] + star[:, 1])
    e2 = 2 * star[:, 2] / (star[:, 0] + star[:, 1])
    size = np.sqrt((star[:, 0] + star[:, 1]) / 2)
    p1 = (psf[:, 0] - psf[:, 1]) / (psf[:, 0] + psf[:, 1])
    p2 = 2 * psf[:, 2] / (psf[:, 0] + psf[:, 1])
    psize = np.sqrt((psf[:, 0] + psf[:, 1]) / 2)
    expected = {
        "psfStarDeltaE1Median": np.median(e1 - p1),
        "psfStarDeltaE2Median": np.median(e2 - p2),
        "psfStarDeltaE1Scatter": mad(e1 - p1),
        "psfStarDeltaE2Scatter": mad(e2 - p2),
        "psfStarDeltaSizeMedian": np.median(size - psize),
        "psfStarDeltaSizeScatter": mad(size - psize),
        "psfStarScaledDeltaSizeScatter": mad(size - psize) / np.median(size),
        "starEMedian": np.median(np.sqrt(e1**2 + e2**2)),
        "starUnNormalizedEMedian": np.median(np.sqrt((star[:, 0] - star[:, 1]) ** 2 + 4 * star[:, 2] ** 2)),
    }
    assert star_statistics(star, psf) == pytest.approx(expected, rel=1e-6)
    # Stars of which something is unknown are left out of everything.
    more_star, more_psf = np.vstack([star, star[:2]]), np.vstack([psf, psf[:2]])
    more_star[-1, 0], more_psf[-2, 2] = np.nan, np.inf
    assert star_statistics(more_star, more_psf) == pytest.approx(expected, rel=1e-6)
    shapes = ellipticities(star)
    np.testing.assert_allclose((shapes.e1, shapes.e2, shapes.size), (e1, e2, size))


def test_no_star() -> None:
    none = np.zeros((0, 3))
    assert all(math.isnan(value) for value in star_statistics(none, none).values())
    assert all(
        math.isnan(value) for value in star_statistics(np.full((2, 3), np.nan), np.ones((2, 3))).values()
    )
    orders = ("30", "21", "12", "03", "40", "31", "22", "13", "04")
    empty = higher_moment_statistics({order: np.zeros(0) for order in orders})
    assert all(math.isnan(value) for value in empty.values())
    assert math.isnan(median_of_finite(np.array([np.nan, np.inf])))
    assert math.isnan(median_of_finite(np.zeros(0)))


def test_higher_moments_of_a_gaussian() -> None:
    moments = {order: np.zeros(3) for order in ("30", "21", "12", "03", "31", "13")}
    moments |= {"40": np.full(3, 0.75), "04": np.full(3, 0.75), "22": np.array([0.25, np.nan, 0.25])}
    result = higher_moment_statistics(moments)
    assert result.pop("starKurtosisMedian") == 2.0
    assert set(result.values()) == {0.0}


def test_distances_pixel_by_pixel() -> None:
    """Against the distance from every good pixel of the coarse grid to every star."""
    image = make_image(width=90, height=70)
    rng = np.random.default_rng(3)
    image.mask.set("COSMIC_RAY", rng.random(image.bbox.shape) < 0.5)
    star_x, star_y = X0 + rng.uniform(-20, 100, 5), Y0 + rng.uniform(0, 60, 5)
    good = ~image.mask.get("COSMIC_RAY")
    expected = max(
        min(math.hypot(X0 + i - sx, Y0 + j - sy) for sx, sy in zip(star_x, star_y, strict=True))
        for j in range(0, 70, 8)
        for i in range(0, 90, 8)
        if good[j, i]
    )
    x, y = good_samples(image.bbox, image.mask, step=8, bad_planes=["CR", "A_PLANE_IT_DOES_NOT_HAVE"])
    assert distance_to_nearest_star(x=x, y=y, star_x=star_x, star_y=star_y) == pytest.approx(expected)


def test_stars_of_no_size_are_left_out() -> None:
    rng = np.random.default_rng(3)
    star = np.column_stack([rng.uniform(2, 3, (5, 2)), rng.uniform(-0.2, 0.2, 5)])
    psf = star + 0.01
    unphysical = np.array([[0.0, 0.0, 0.0], [-3.0, 1.0, 0.0], [np.nan, 1.0, 0.0]])
    expected = star_statistics(star, psf)
    assert all(math.isfinite(value) for value in expected.values())
    assert star_statistics(np.vstack([star, unphysical]), np.vstack([psf, psf[:3]])) == expected
    assert star_statistics(np.vstack([psf, psf[:3]]), np.vstack([star, unphysical])).keys() == expected.keys()
    assert all(math.isnan(value) for value in star_statistics(unphysical, psf[:3]).values())
