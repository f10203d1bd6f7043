"""What Piff is given: coordinates, weights and configuration."""

from __future__ import annotations

import numpy as np
import pytest

from secondlight.catalog.mask_planes import plane_name
from secondlight.psf._piff_config import PiffPsfDeterminerConfig
from secondlight.psf._piff_stars import star_weights
from secondlight.psf._piff_wcs import piff_coordinates, pixel_scale
from secondlight.psf.candidates import PsfStamps
from secondlight.psf.evaluation import kernel_stamps
from secondlight.psf.piff_determiner import PiffTooFewGoodStarsError

from ..scenes import PIXEL_SCALE, make_visit_image
from .piff_scenes import X0, Y0, grid, make_candidates, make_scene, make_task


def test_pixel_scale() -> None:
    image = make_visit_image(x0=X0, y0=Y0)
    assert pixel_scale(image) == pytest.approx(PIXEL_SCALE, rel=1e-6)
    coordinates = piff_coordinates(image, "pixel")
    assert coordinates.wcs.scale == coordinates.scale == pytest.approx(PIXEL_SCALE, rel=1e-6)


@pytest.mark.parametrize("scale", [0.2, 0.263, 0.396, 0.11, 1.0 / 3.0])
def test_model_fits_its_stamp_at_any_pixel_scale(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piff compares size * scale / scale with the size of the stamp; rounding must not exclude every star."""
    image = make_visit_image()
    monkeypatch.setattr("secondlight.psf._piff_wcs.pixel_scale", lambda _: scale)
    short = piff_coordinates(image, "pixel").scale
    assert short == pytest.approx(scale, rel=2e-7)
    assert all(n * short / short == n for n in range(1, 100))


@pytest.mark.parametrize(("kind", "size"), [("field", 15), ("sky", 23)])
def test_other_coordinates_give_the_same_psf(kind: str, size: int) -> None:
    image, candidates = make_scene(5)
    if size > candidates.size:
        candidates = candidates.with_size(image, size)
    pixel = make_task(stampSize=size).determine_psf(image, candidates).psf
    other = make_task(stampSize=size, useCoordinates=kind).determine_psf(image, candidates).psf
    assert other.piff_psf.interp_property_names == ["u", "v"]
    np.testing.assert_allclose(
        kernel_stamps(other, x=X0 + 30.0, y=Y0 + 30.0),
        kernel_stamps(pixel, x=X0 + 30.0, y=Y0 + 30.0),
        atol=1e-3 * kernel_stamps(pixel, x=X0, y=Y0).max(),
    )


def make_stamps(image: np.ndarray, variance: np.ndarray) -> PsfStamps:
    scene = make_visit_image()
    n, size, _ = image.shape
    mask = np.zeros((n, size, size, scene.mask.array.shape[-1]), dtype=np.uint8)
    zero = np.zeros(n, dtype=np.int64)
    return PsfStamps(zero, zero, np.float32(image), np.float32(variance), mask, scene.mask.schema)


def gaussian(flux: float, size: int = 25) -> np.ndarray:
    offset = np.arange(size) - size // 2
    profile = np.exp(-0.5 * (offset / 2.0) ** 2)
    stamp = np.outer(profile, profile)
    return flux * stamp / stamp.sum()


def weights_of(image: np.ndarray, variance: np.ndarray, **kwargs: object) -> tuple[np.ndarray, np.ndarray]:
    settings: dict[str, object] = {"zero_weight_planes": ["BAD", "INTRP"], "max_snr": np.inf}
    return star_weights(make_stamps(image[None], variance[None]), **(settings | kwargs))  # type: ignore[arg-type]


def test_weight_is_that_of_the_sky() -> None:
    """Photon noise of the star, variance = v + I / gain, must not enter."""
    image = gaussian(2e4)
    weight, fraction = weights_of(image, 64.0 + image / 1.7)
    np.testing.assert_allclose(weight, 1 / 64.0, rtol=1e-4)
    assert fraction == [1.0]
    weight, _ = weights_of(image, np.full_like(image, 50.0))
    np.testing.assert_allclose(weight, 1 / 50.0, rtol=1e-6)


def test_signal_to_noise_cap() -> None:
    image = gaussian(1e6)
    variance = np.full_like(image, 100.0)
    plain, _ = weights_of(image, variance)
    signal = (plain * np.float32(image) ** 2).sum()
    snr = (signal - image.size) / np.sqrt(signal)
    capped, _ = weights_of(image, variance, max_snr=200.0)
    np.testing.assert_allclose(np.sqrt(capped / plain) * snr, 200.0, rtol=1e-6)
    faint = gaussian(1000.0)
    np.testing.assert_array_equal(
        weights_of(faint, variance, max_snr=200.0)[0], weights_of(faint, variance)[0]
    )


def test_bad_pixels_have_no_weight() -> None:
    image, variance = gaussian(1e4), np.full((25, 25), 9.0)
    image[0, 0] = np.nan
    variance[0, 1] = 0.0
    variance[0, 2] = np.inf
    stamps = make_stamps(image[None], variance[None])
    stamps.mask[0, 0, 3] |= stamps.mask_schema.bitmask(plane_name("INTRP"))
    stamps.mask[0, 0, 4] |= stamps.mask_schema.bitmask(plane_name("DETECTED"))
    weight, fraction = star_weights(stamps, zero_weight_planes=["BAD", "INTRP", "NOPLANE"], max_snr=200.0)
    np.testing.assert_array_equal(weight[0] == 0, np.arange(625).reshape(25, 25) < 4)
    assert fraction[0] == 621 / 625
    assert np.isfinite(weight).all()


def test_negative_intercept_is_guarded() -> None:
    """A line fitted to a variance that does not follow the image can cross zero; weights stay positive."""
    image = 100.0 + gaussian(1e4)
    weight, _ = weights_of(image, image - 99.0)
    np.testing.assert_allclose(weight, 1 / np.median(np.float32(image - 99.0)), rtol=1e-6)
    empty, fraction = weights_of(np.full((25, 25), np.nan), image)
    assert not empty.any()
    assert fraction == [0.0]


def test_mostly_masked_stars_are_not_fitted() -> None:
    image, _ = make_scene(5)
    x, y = grid(5)
    bad = np.zeros(image.image.array.shape, dtype=bool)
    bad[: int(y[1] - Y0) + 20, int(x[1] - X0) - 9 : int(x[1] - X0) + 9] = True
    image.mask.set(plane_name("SAT"), bad)
    result = make_task().determine_psf(image, make_candidates(image, x, y))
    assert not result.used[1]
    assert len(result.psf.piff_psf.stars) == 4


@pytest.mark.parametrize(
    "settings",
    [
        {"stampSize": 26},
        {"stampSize": 25, "modelSize": 26},
        {"stampSize": 15, "modelSize": 15, "useCoordinates": "sky"},
        {"stampSize": 25, "modelSize": 25, "samplingSize": 0.5},
        {"interpolant": "Lanczos"},
        {"interpolant": "lanczos(3)"},
        {"interpolant": "galsim.Cubic()"},
        {"interpolant": "Cubic"},
        {"piffPsfConfigYaml": "[1, 2]"},
        {"piffPsfConfigYaml": "a: [1"},
    ],
)
def test_invalid_configuration(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"stampSize|interpolant|piffPsfConfigYaml"):
        make_task(**({"stampSize": 25, "modelSize": 25} | settings))


@pytest.mark.parametrize(
    "interpolant", ["Lanczos(7)", "galsim.Lanczos(3)", "galsim.Quintic", "galsim.Linear"]
)
def test_valid_interpolants(interpolant: str) -> None:
    make_task(interpolant=interpolant)


def test_defaults() -> None:
    config = PiffPsfDeterminerConfig()
    config.validate()
    assert (config.stampSize, config.modelSize, config.spatialOrder, config.maxCandidates) == (25, 25, 2, 300)


def test_stamps_follow_the_candidates() -> None:
    image, candidates = make_scene(4)
    assert make_task(stampSize=None).determine_psf(image, candidates).psf.kernel_bbox.x.size == 21
    assert make_task(stampSize=31).determine_psf(image, candidates).psf.kernel_bbox.x.size == 21


def test_configuration_in_yaml() -> None:
    image, candidates = make_scene(6)
    text = """
        type: Simple
        model: {type: PixelGrid, scale: 0.2, size: 11, interp: Lanczos(3)}
        interp: {type: BasisPolynomial, order: [1, 1], keys: [x, y]}
        max_iter: 3
    """
    psf = make_task(piffPsfConfigYaml=text).determine_psf(image, candidates).psf.piff_psf
    assert psf.model.size == 11
    assert list(psf.interp.kwargs["order"]) == [1, 1]
    too_few = candidates[:2]
    with pytest.raises(PiffTooFewGoodStarsError):
        make_task(piffPsfConfigYaml=text).determine_psf(image, too_few)
