"""Detection of noisy scenes that are moved, rotated, reflected, turned over or searched twice."""

from __future__ import annotations

import numpy as np
import pytest
from lsst.images import VisitImage
from lsst.pipe.base import Struct

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.ids import IdGenerator
from secondlight.catalog.schema import minimal_source_schema
from secondlight.detection.task import SourceDetectionConfig, SourceDetectionTask
from tests.scenes import make_visit_image

SIDE = 240


def _detect(pixels: np.ndarray, variance: np.ndarray, **fields: object) -> tuple[Struct, VisitImage]:
    config = SourceDetectionConfig()
    config.reEstimateBackground = config.doTempLocalBackground = False
    config.thresholdValue = 3.5
    for name, value in fields.items():
        setattr(config, name, value)
    image = make_visit_image(width=pixels.shape[1], height=pixels.shape[0])
    image.image.array[...], image.variance.array[...] = pixels, variance
    task = SourceDetectionTask(schema=minimal_source_schema(), config=config)
    return task.run(image, sigma=2.0, id_generator=IdGenerator(9, 12)), image


def _scene(side: int = SIDE, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Stars of all kinds, some of them blended, with noise that grows across the image."""
    rng = np.random.default_rng(11)
    x, y = rng.uniform(0, side, (2, n))
    image = make_visit_image(width=side, height=side, x=x, y=y, flux=10 ** rng.uniform(2.5, 5, n))
    variance = 100.0 + np.add.outer(np.arange(side), 0.5 * np.arange(side))
    noise = (np.sqrt(variance) - 10.0) * rng.normal(size=variance.shape)
    return image.image.array + noise.astype(np.float32), variance.astype(np.float32)


def _sets(footprints: Footprints) -> set[tuple[bytes, frozenset[tuple[int, int]]]]:
    """Return every footprint as its pixels and its peaks."""
    return {
        (
            footprints.take([row]).to_mask((SIDE, SIDE)).tobytes(),
            frozenset(zip(*(v.tolist() for v in footprints.peaks(row)[:2]), strict=True)),
        )
        for row in range(len(footprints))
    }


def _sets_rotated(footprints: Footprints, turns: int) -> set[tuple[bytes, frozenset[tuple[int, int]]]]:
    """Return the same after turns by 90 degrees as `numpy.rot90` makes them."""
    result = set()
    for row in range(len(footprints)):
        x, y = footprints.peaks(row)[:2]
        for _ in range(turns):
            x, y = y, SIDE - 1 - x
        mask = np.rot90(footprints.take([row]).to_mask((SIDE, SIDE)), turns)
        peaks = frozenset(zip(x.tolist(), y.tolist(), strict=True))
        result.add((np.ascontiguousarray(mask).tobytes(), peaks))
    return result


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("isotropic", [True, False])
def test_rotated_image_gives_rotated_detections(turns: int, isotropic: bool) -> None:
    pixels, variance = _scene()
    here = _detect(pixels, variance, isotropicGrow=isotropic)[0].positive
    there = _detect(np.rot90(pixels, turns), np.rot90(variance, turns), isotropicGrow=isotropic)[0].positive
    assert len(here) > 20
    assert len(here.peak_x) > len(here) + 5
    assert _sets(there) == _sets_rotated(here, turns)
    np.testing.assert_allclose(np.sort(there.peak_value), np.sort(here.peak_value), rtol=1e-5)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (13, 29), (40, 7)])
def test_scene_moved_by_whole_pixels_gives_moved_detections(dx: int, dy: int) -> None:
    pixels, variance = _scene(SIDE + 60, 90)

    def inner(x: int, y: int) -> Footprints:
        """Return what is found in the window that starts there, away from its borders."""
        window = np.s_[y : y + SIDE, x : x + SIDE]
        found = _detect(pixels[window], variance[window])[0].positive.shifted(dx=x, dy=y)
        boxes = found.bounding_boxes()
        low = (boxes[:, 0] >= dx + 16) & (boxes[:, 1] >= dy + 16)
        return found.take(low & (boxes[:, 2] < SIDE - 16) & (boxes[:, 3] < SIDE - 16))

    here, there = inner(0, 0), inner(dx, dy)
    assert len(here) >= 8
    for name in ("span_offsets", "span_y", "span_x0", "span_x1", "peak_x", "peak_y", "peak_value"):
        assert np.array_equal(getattr(here, name), getattr(there, name)), name
    assert np.array_equal(here.peak_significance, there.peak_significance)


@pytest.mark.parametrize("threshold", ["pixel_stdev", "stdev", "variance", "value"])
def test_holes_are_the_peaks_of_the_negative_image(threshold: str) -> None:
    pixels, variance = _scene()
    fields = {"thresholdType": threshold, "thresholdValue": 10.0 if threshold == "value" else 3.5}
    peaks = _detect(pixels, variance, **fields)[0].positive
    holes = _detect(-pixels, variance, thresholdPolarity="negative", **fields)[0].negative
    assert len(peaks) > 20
    assert holes == peaks.with_peaks(
        peaks.peak_offsets,
        peaks.all_peaks._replace(value=-peaks.peak_value, significance=-peaks.peak_significance),
    )


@pytest.mark.parametrize("fields", [{}, {"thresholdPolarity": "both", "doTempLocalBackground": True}])
def test_two_runs_are_identical_to_the_last_bit(fields: dict[str, object]) -> None:
    pixels, variance = _scene()
    (one, first), (two, second) = (_detect(pixels, variance, **fields) for _ in range(2))
    assert one.sources.footprints == two.sources.footprints
    assert np.array_equal(one.sources["id"], two.sources["id"])
    for plane in ("image", "mask", "variance"):
        assert np.array_equal(getattr(first, plane).array, getattr(second, plane).array), plane
