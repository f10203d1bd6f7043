"""From published pixels back to post-ISR counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from lsst.images import BackgroundMap, Box, Image, VisitImage
from lsst.images.fields import ChebyshevField, SumField
from lsst.images.serialization import read_archive, write_archive

from secondlight.background.fields import combine_backgrounds, make_background, render_background
from secondlight.catalog.arrow_tables import read_table, write_table
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.visit_image import replace_components
from secondlight.photometry.calibrate import calibrate_image
from secondlight.photometry.restore import (
    Flattening,
    restore_counts,
    subtract_background,
    unrestorable_pixels,
)
from tests.scenes import make_visit_image

X0, Y0, WIDTH, HEIGHT = 5, 4, 300, 281
SKY = 700.0


def make_post_isr(*, sky: float = SKY, flux: float = 4e5, seed: int = 1) -> VisitImage:
    """Stars, some far brighter than the sky, in pixels that use all of single precision."""
    rng = np.random.default_rng(seed)
    n = 25
    return make_visit_image(
        width=WIDTH, height=HEIGHT, x0=X0, y0=Y0, noise=20.0, gain=1.7, background=sky, seed=seed,
        x=X0 + rng.uniform(10, WIDTH - 10, n), y=Y0 + rng.uniform(10, HEIGHT - 10, n),
        flux=flux * 10 ** -rng.uniform(0, 2, n),
    )  # fmt: skip


def field(level: float, unit: u.UnitBase | None = u.adu, slope: float = 0.003) -> ChebyshevField:
    coefficients = level * np.array([[1.0, slope, 0.001], [-slope, 0.002, 0.0], [0.002, 0.0, 0.0]])
    return ChebyshevField(Box.factory[Y0 : Y0 + HEIGHT, X0 : X0 + WIDTH], coefficients, unit=unit)


def make_ratio(bbox: Box) -> Image:
    y, x = np.mgrid[0 : bbox.y.size, 0 : bbox.x.size]
    return Image((1 + 0.03 * np.sin(x / 90) * np.cos(y / 70)).astype(np.float32), bbox=bbox)


CONSTANT = PhotoCalib(12.3, 0.1)
VARYING = PhotoCalib(12.3, 0.1, field(12.3, None))
INITIAL = PhotoCalib(3.3, field=field(3.3, None, 0.02))


def case(name: str, sky: float = SKY) -> tuple[PhotoCalib, BackgroundMap, Flattening]:
    box = Box.factory[Y0 : Y0 + HEIGHT, X0 : X0 + WIDTH]
    steps = Flattening()
    level = field(sky)
    if "ratio" in name:
        steps["background_to_photometric_ratio"] = make_ratio(box)
    if "initial" in name:
        steps["initial_photo_calib"] = INITIAL
        level = field(3.3 * sky, u.nJy)
    return (VARYING if "varying" in name else CONSTANT), make_background(level), steps


CASES = ["constant", "varying", "ratio", "varying ratio", "initial", "varying initial ratio"]


def publish(image: VisitImage, calib: PhotoCalib, background: BackgroundMap, steps: Any) -> VisitImage:
    image = image.copy()
    subtract_background(image, background, **steps)
    return calibrate_image(image, calib)


def ulps(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.abs(values.astype(np.float64) - truth) / np.spacing(np.abs(truth))


@pytest.mark.parametrize("name", CASES)
def test_forward_and_back_one_pixel_at_a_time(name: str) -> None:
    image = make_post_isr()
    calib, background, steps = case(name)
    published = publish(image, calib, background, steps)
    restored = restore_counts(published, background, **steps)
    sky = render_background(background, image.bbox)
    ratio, initial = steps.get("background_to_photometric_ratio"), steps.get("initial_photo_calib")
    assert published.unit == u.nJy
    assert restored.unit == u.adu
    assert restored.variance.unit == u.adu**2
    for j, i in [(0, 0), (7, 100), (255, 30), (256, 31), (HEIGHT - 1, WIDTH - 1)]:
        position = {"x": np.array(float(X0 + i)), "y": np.array(float(Y0 + j))}
        factor = float(calib.evaluate(**position))
        level = float(sky[j, i])
        if initial is not None:
            level /= float(initial.evaluate(**position))
        flat = 1.0 if ratio is None else float(ratio.array[j, i])
        counts, variance = float(image.image.array[j, i]), float(image.variance.array[j, i])
        source = float(np.float32((counts - level) / flat))
        noise = float(np.float32(variance / flat**2))
        assert published.image.array[j, i] == pytest.approx(source * factor, rel=1e-7)
        assert published.variance.array[j, i] == pytest.approx(noise * factor**2, rel=1e-7)
        back = float(published.image.array[j, i]) / factor * flat + level
        assert restored.image.array[j, i] == pytest.approx(back, rel=1e-7)
        assert restored.variance.array[j, i] == pytest.approx(variance, rel=2e-7)


@pytest.mark.parametrize("name", CASES)
def test_exact_where_sources_are_faint_and_within_the_last_bit_elsewhere(name: str) -> None:
    image = make_post_isr()
    counts = image.image.array
    calib, background, steps = case(name)
    restored = restore_counts(publish(image, calib, background, steps), background, **steps).image.array
    level = render_background(background, image.bbox)
    if initial := steps.get("initial_photo_calib"):
        level = level / initial.render(image.bbox)
    faint = np.abs(counts - level) <= 0.25 * counts
    assert faint.mean() > 0.9
    np.testing.assert_array_equal(restored[faint], counts[faint])
    different = restored != counts
    assert 10 < different.sum() < 0.01 * counts.size
    assert ulps(restored, counts).max() <= 1.0


@pytest.mark.parametrize("name", CASES)
def test_every_pixel_comes_back_with_the_table(name: str) -> None:
    image = make_post_isr()
    image.image.array[40, 50] = np.nan
    image.image.array[60, 70] = 1e4
    counts = image.image.array.copy()
    calib, background, steps = case(name)
    subtract_background(image, background, **steps)
    image.image.array[60, 70] = 3.0
    image.image.array[61, 70] = np.nan
    published = calibrate_image(image, calib)
    table = unrestorable_pixels(counts, published, background, **steps)
    assert table.meta["exact"]
    where = {(x, y): replaced for x, y, replaced in table["x", "y", "replaced"].iterrows()}
    assert where[X0 + 70, Y0 + 60]
    assert where[X0 + 70, Y0 + 61]
    assert (X0 + 50, Y0 + 40) not in where
    assert sum(where.values()) == 2
    assert table["counts"].unit == u.adu
    restored = restore_counts(published, background, replaced_pixels=table, **steps)
    np.testing.assert_array_equal(restored.image.array, counts)
    without = restore_counts(published, background, **steps).image.array
    assert without[60, 70] < 0.2 * counts[60, 70]


def test_files_lose_nothing(tmp_path: Path) -> None:
    image = make_post_isr()
    counts = image.image.array.copy()
    calib, background, steps = case("varying")
    published = publish(image, calib, background, steps)
    table = unrestorable_pixels(counts, published, background, **steps)
    write_archive(published, tmp_path / "pvi.fits")
    write_archive(background, tmp_path / "background.fits")
    write_table(table, tmp_path / "replaced.parq")
    restored = restore_counts(
        read_archive(tmp_path / "pvi.fits", cls=VisitImage),
        read_archive(tmp_path / "background.fits", cls=BackgroundMap),
        replaced_pixels=read_table(tmp_path / "replaced.parq"),
    )
    np.testing.assert_array_equal(restored.image.array, counts)


def test_pixels_without_a_usable_ratio_come_back_with_the_table() -> None:
    """The ratio may be given as it is: with zeros where the image made with it has no value."""
    image = make_post_isr()
    calib, background, _ = case("constant")
    ratio = make_ratio(image.bbox)
    ratio.array[10:12], ratio.array[20], ratio.array[30] = 0.0, -1.0, np.nan
    used = Image(np.where(ratio.array > 0, ratio.array, np.nan), bbox=ratio.bbox)
    published = publish(image, calib, background, Flattening(background_to_photometric_ratio=used))
    steps = Flattening(background_to_photometric_ratio=ratio)
    table = unrestorable_pixels(image.image.array, published, background, **steps)
    restored = restore_counts(published, background, replaced_pixels=table, **steps)
    np.testing.assert_array_equal(restored.image.array, image.image.array)
    assert table["replaced"].sum() == 4 * WIDTH


def test_cutout() -> None:
    image = make_post_isr()
    calib, background, steps = case("varying ratio")
    published = publish(image, calib, background, steps)
    table = unrestorable_pixels(image.image.array, published, background, **steps)
    box = Box.factory[Y0 + 100 : Y0 + 200, X0 + 20 : X0 + 220]
    restored = restore_counts(published[box], background, replaced_pixels=table, **steps)
    assert restored.bbox == box
    np.testing.assert_array_equal(restored.image.array, image[box].image.array)


def test_no_sky_is_told_from_what_was_replaced() -> None:
    image = make_post_isr(sky=0.0)
    counts = image.image.array.copy()
    background = make_background(field(0.0))
    subtract_background(image, background)
    image.image.array[60, 70] = 1e5
    published = calibrate_image(image, CONSTANT)
    table = unrestorable_pixels(counts, published, background)
    assert not table.meta["exact"]
    assert list(table["x", "y"].iterrows()) == [(X0 + 70, Y0 + 60)]
    restored = restore_counts(published, background, replaced_pixels=table).image.array
    assert (restored != counts).mean() > 0.1
    assert ulps(restored, counts).max() <= 1.0


def test_backgrounds_one_after_another_or_together() -> None:
    first, second = make_background(field(SKY)), make_background(field(7.0, slope=0.3))
    both = combine_backgrounds(first, second)
    for one_by_one in (False, True):
        image = make_post_isr(flux=2e3)
        counts = image.image.array.copy()
        for background in (first, second) if one_by_one else (both,):
            subtract_background(image, background)
        restored = restore_counts(calibrate_image(image, CONSTANT), both)
        np.testing.assert_array_equal(restored.image.array, counts)


def test_image_in_counts_only_gets_its_background_back() -> None:
    image = make_post_isr()
    counts = image.image.array.copy()
    background = make_background(field(SKY))
    subtract_background(image, background)
    image = replace_components(image, backgrounds=background)
    restored = restore_counts(image, background)
    assert ulps(restored.image.array, counts).max() <= 1.0
    assert (restored.image.array != counts).mean() < 1e-3
    np.testing.assert_array_equal(restored.variance.array, image.variance.array)
    assert restored.backgrounds.subtracted is None
    assert list(restored.backgrounds) == list(background)
    assert image.backgrounds.subtracted is not None


def test_electrons_keep_their_unit() -> None:
    image = make_post_isr()
    counts = image.image.array.copy()
    image = replace_components(
        image, image=Image(image.image.array, bbox=image.bbox, unit=u.electron), variance=None
    )
    background = make_background(field(SKY, u.electron))
    published = publish(image, CONSTANT, background, {})
    restored = restore_counts(published, background)
    assert restored.unit == u.electron
    assert ulps(restored.image.array, counts).max() <= 1


@pytest.mark.parametrize("unit", [u.Jy, u.uJy])
def test_published_in_another_unit_of_flux(unit: u.UnitBase) -> None:
    image = make_post_isr()
    calib, background, _ = case("varying")
    published = publish(image, calib, background, {}).convert_unit(unit)
    restored = restore_counts(published, background)
    assert restored.unit == u.adu
    np.testing.assert_allclose(restored.image.array, image.image.array, rtol=3e-7)
    np.testing.assert_allclose(restored.variance.array, image.variance.array, rtol=1e-6)


def test_wrong_units_are_named() -> None:
    image = make_post_isr()
    published = calibrate_image(image, CONSTANT)
    in_njy = make_background(field(SKY, u.nJy))
    with pytest.raises(ValueError, match=r"background is in nJy, expected adu; is initial_photo_calib"):
        subtract_background(image, in_njy)
    with pytest.raises(ValueError, match=r"background is in nJy, expected adu; is initial_photo_calib"):
        restore_counts(published, in_njy)
    with pytest.raises(ValueError, match="background is in adu, expected nJy"):
        restore_counts(published, make_background(field(SKY)), initial_photo_calib=INITIAL)
    lost = replace_components(published, photometric_scaling=None)
    with pytest.raises(ValueError, match=r"visit 100.*carries no photometric scaling"):
        restore_counts(lost, make_background(field(SKY)))
    small = make_ratio(Box.factory[Y0 : Y0 + 20, X0 : X0 + 20])
    with pytest.raises(ValueError, match="background_to_photometric_ratio covers"):
        restore_counts(published, make_background(field(SKY)), background_to_photometric_ratio=small)


def test_background_in_larger_units() -> None:
    background = make_background(field(3.3e-3 * SKY, u.uJy))
    image = make_post_isr(flux=2e3)
    counts = image.image.array.copy()
    published = publish(image, CONSTANT, background, {"initial_photo_calib": INITIAL})
    assert abs(np.median(published.image.array)) < 0.02 * 12.3 * SKY
    restored = restore_counts(published, background, initial_photo_calib=INITIAL)
    np.testing.assert_array_equal(restored.image.array, counts)


def test_background_without_unit_is_taken_as_counts() -> None:
    image = make_post_isr(flux=2e3)
    background = make_background(SumField([field(SKY, None), field(2.0, None)]))
    published = publish(image, CONSTANT, background, {})
    np.testing.assert_array_equal(restore_counts(published, background).image.array, image.image.array)
