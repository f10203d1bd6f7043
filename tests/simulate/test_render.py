"""Drawn objects agree with GalSim's, in space and in frequency, wherever they are."""

from __future__ import annotations

import galsim
import numpy as np
import pytest

from secondlight.simulate.profiles import Atmosphere, Sersic, atmosphere_table, sersic_table
from secondlight.simulate.render import Light, add_light, draw_stamps, stamp_origin, stamp_sizes

ACCURATE = galsim.GSParams(
    folding_threshold=1e-5, maxk_threshold=1e-6, kvalue_accuracy=1e-7, maximum_fft_size=16384
)
FLUX = 2e4
SHAPE = np.array([[2.5, 0.6], [0.6, 1.6]])


def light(
    *,
    x: float = 50.3,
    y: float = 50.1,
    fwhm: float = 4.5,
    galaxy: bool = False,
    profile: str = "moffat",
    scale: float = 1.0,
    flux: float = FLUX,
) -> Light:
    """Return one star or one galaxy, with a bulge of 0.3 of its light."""
    shape = scale * SHAPE * galaxy
    return Light(
        x=np.array([x]),
        y=np.array([y]),
        flux=np.array([flux]),
        psf=np.array([[fwhm, 0.03, -0.02, 0.4, 0.3, 0.05]]),
        bulge_fraction=np.array([0.3 * galaxy]),
        bulge_matrix=0.7 * shape[None],
        disk_matrix=shape[None],
        profile=profile,
    )


def twin(one: Light) -> galsim.GSObject:
    """Return one object of a light as GalSim knows it, before the pixel."""
    fwhm, g1, g2, cxx, cyy, cxy = one.psf[0]
    if one.profile == "moffat":
        atmosphere = galsim.Moffat(one.beta, fwhm=fwhm, gsparams=ACCURATE)
    else:
        atmosphere = galsim.Kolmogorov(fwhm=fwhm, gsparams=ACCURATE)
    spot = mapped(galsim.Gaussian(sigma=1.0), np.linalg.cholesky([[cxx, cxy], [cxy, cyy]]))
    parts = [atmosphere.shear(g1=g1, g2=g2), spot]
    if np.any(one.disk_matrix):
        share = one.bulge_fraction[0]
        bulge = mapped(galsim.Sersic(one.bulge_index, half_light_radius=1, trunc=5), one.bulge_matrix[0])
        disk = mapped(galsim.Sersic(1.0, half_light_radius=1, trunc=5), one.disk_matrix[0])
        parts.append(share * bulge + (1 - share) * disk)
    return galsim.Convolve(parts, gsparams=ACCURATE).withFlux(one.flux[0])


def mapped(profile: galsim.GSObject, matrix: np.ndarray) -> galsim.GSObject:
    return galsim.Transform(profile.withGSParams(ACCURATE), jac=matrix.tolist()) / np.linalg.det(matrix)


CASES = {
    "star": {},
    "star on the edge of pixels": {"x": 49.5, "y": 50.5},
    "galaxy": {"galaxy": True},
    "galaxy on the edge of pixels": {"galaxy": True, "x": -3.5, "y": 12.5},
    "undersampled star": {"fwhm": 2.0, "x": 7.41, "y": 8.27},
    "undersampled galaxy": {"fwhm": 2.0, "galaxy": True, "scale": 0.6},
    "kolmogorov star": {"profile": "kolmogorov", "fwhm": 2.5, "x": 30.7},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_galsim(case):
    one = light(**case)
    size = 256
    x0, y0 = (int(v[0]) for v in stamp_origin(one, size))
    theirs = galsim.Image(galsim.BoundsI(x0, x0 + size - 1, y0, y0 + size - 1), scale=1.0, dtype=float)
    twin(one).drawImage(theirs, method="auto", center=galsim.PositionD(one.x[0], one.y[0]))
    ours = draw_stamps(one, size)[0]
    assert ours.sum() == pytest.approx(FLUX, rel=1e-9)
    np.testing.assert_allclose(ours, theirs.array, atol=1e-5 * ours.max(), rtol=0)
    rows, columns = np.mgrid[:size, :size]
    distance = np.hypot(columns + x0 - one.x[0], rows + y0 - one.y[0])
    for radius in (1.5, 3, 6, 12, 25, 50):
        inside = distance < radius
        assert ours[inside].sum() == pytest.approx(theirs.array[inside].sum(), abs=1e-4 * FLUX)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_small_stamps_lose_nothing_that_matters(case):
    one = light(**case)
    (size,) = stamp_sizes(one, surface_brightness=0.5)
    small, large = draw_stamps(one, size)[0], draw_stamps(one, 4 * size)[0]
    r = 4 * size // 2 - size // 2
    inside = large[r : r + size, r : r + size]
    assert small.sum() == pytest.approx(FLUX, rel=1e-9)
    assert inside.sum() > (1 - 1e-3) * FLUX
    assert np.abs(large[r - 1]).max() < 0.5
    rows, columns = np.mgrid[:size, :size] - size // 2
    for radius in (3, 6, 12):
        disk = np.hypot(rows, columns) < radius
        assert abs((small - inside)[disk].sum()) < 1e-3 * FLUX


@pytest.mark.parametrize("size", [24, 31])
@pytest.mark.parametrize("fwhm", [1.5, 3.0])
def test_spectrum_is_that_of_the_sampled_profile(fwhm, size):
    """The twin sums GalSim's exact transform over the aliases of every frequency."""
    one = light(fwhm=fwhm, galaxy=True, x=0.3, y=-0.45, scale=0.5)
    profile = galsim.Convolve(twin(one), galsim.Pixel(1.0)).shift(one.x[0], one.y[0])
    k = 2 * np.pi * np.fft.fftfreq(size)
    turns = 2 * np.pi * np.arange(-2, 3)
    expected = np.zeros((size, size), dtype=complex)
    for j, ky in enumerate(k):
        for i, kx in enumerate(k[: size // 2 + 1]):
            expected[j, i] = sum(profile.kValue(kx + p, ky + q) for p in turns for q in turns)
    middle = np.exp(-1j * (size // 2) * k)
    expected *= middle[:, None] * middle[None, :]
    expected = np.fft.irfft2(expected[:, : size // 2 + 1], s=(size, size))
    np.testing.assert_allclose(draw_stamps(one, size)[0], expected, atol=2e-6 * expected.max())


def test_stamps_are_centred_on_the_nearest_pixel():
    many = Light(
        x=np.array([10.49, 10.5, -0.5, -0.51]),
        y=np.array([3.0, 3.5, 4.5, -7.5]),
        flux=np.ones(4),
        psf=np.tile([4.0, 0.0, 0.0, 0.2, 0.2, 0.0], (4, 1)),
        bulge_fraction=np.zeros(4),
        bulge_matrix=np.zeros((4, 2, 2)),
        disk_matrix=np.zeros((4, 2, 2)),
    )
    x0, y0 = stamp_origin(many, 64)
    assert (x0 + 32).tolist() == [10, 11, 0, -1]
    assert (y0 + 32).tolist() == [3, 4, 5, -7]
    stamps = draw_stamps(many, 64)
    rows, columns = np.mgrid[:64, :64]
    np.testing.assert_allclose((stamps * columns).sum(axis=(1, 2)) + x0, many.x, atol=2e-3)
    np.testing.assert_allclose((stamps * rows).sum(axis=(1, 2)) + y0, many.y, atol=2e-3)


def field(n: int) -> Light:
    """Return stars and galaxies of many sizes on, at the edges of, and off a square of 200 pixels."""
    rng = np.random.default_rng(3)
    star = rng.uniform(size=n) < 0.4
    shape = rng.normal(size=(n, 2, 2)) + 2 * np.eye(2)
    shape *= (rng.uniform(0.2, 3.0, n) * ~star)[:, None, None]
    psf = np.column_stack(
        [rng.uniform(3, 5, n), rng.normal(0, 0.02, (n, 2)), rng.uniform(0.2, 1, (n, 2)), np.zeros(n)]
    )
    return Light(
        x=rng.uniform(-60, 260, n),
        y=rng.uniform(-60, 260, n),
        flux=10 ** rng.uniform(2, 6, n),
        psf=psf,
        bulge_fraction=np.where(star, 0.0, rng.uniform(0, 1, n).round(1)),
        bulge_matrix=shape,
        disk_matrix=1.3 * shape,
    )


def test_image_is_the_sum_of_stamps():
    many = field(60)
    sizes = stamp_sizes(many, surface_brightness=1.0)
    image = np.ones((200, 190))
    add_light(image, many, sizes=sizes)
    margin = 1200
    expected = np.zeros((200 + 2 * margin, 190 + 2 * margin))
    x0, y0 = stamp_origin(many, sizes)
    for i, size in enumerate(sizes):
        stamp = draw_stamps(many[i : i + 1], size)[0]
        expected[y0[i] + margin :, x0[i] + margin :][:size, :size] += stamp
    np.testing.assert_allclose(image - 1, expected[margin:-margin, margin:-margin], atol=1e-9)


def test_sizes_hold_the_light():
    many = field(60)
    sizes = stamp_sizes(many, surface_brightness=0.3)
    assert np.all(sizes % 2 == 0)
    for i, size in enumerate(sizes):
        large = draw_stamps(many[i : i + 1], 2 * size)[0]
        r = size // 2
        outside = many.flux[i] - large[r:-r, r:-r].sum()
        assert outside < 1e-3 * many.flux[i]
        assert max(large[r - 1].max(), large[:, r - 1].max()) < 0.3


def test_faint_objects_need_small_stamps_and_bright_ones_large():
    faint = light(flux=100.0)
    assert stamp_sizes(faint, surface_brightness=0.5).tolist() == [48]
    bright = light(flux=1e8, profile="kolmogorov")
    assert stamp_sizes(bright, surface_brightness=0.5).tolist() == [320]
    assert stamp_sizes(light(flux=1e12, profile="kolmogorov"), surface_brightness=0.5).tolist() == [2048]


def test_nothing_to_draw():
    image = np.zeros((20, 20))
    nobody = light()[:0]
    add_light(image, nobody, sizes=stamp_sizes(nobody, surface_brightness=1.0))
    add_light(image, light(x=5000.0), sizes=64)
    assert not image.any()


def test_columns_must_fit():
    with pytest.raises(ValueError, match=r"Light.flux: expected \(1,\), found \(2,\)"):
        Light(**(vars(light()) | {"flux": np.ones(2)}))
    with pytest.raises(ValueError, match=r"Light.psf: expected finite numbers"):
        light(fwhm=np.nan)


@pytest.mark.parametrize(
    ("table", "profile"),
    [
        (atmosphere_table("moffat", 3.2), galsim.Moffat(3.2, fwhm=1)),
        (atmosphere_table("moffat", 2.1), galsim.Moffat(2.1, fwhm=1)),
        (atmosphere_table("kolmogorov", 3.2), galsim.Kolmogorov(fwhm=1)),
        (sersic_table(4.0, 5.0), Sersic(4.0, 5.0).draw()),
        (sersic_table(1.0, 5.0), Sersic(1.0, 5.0).draw()),
        (sersic_table(0.5, 2.0), Sersic(0.5, 2.0).draw()),
    ],
)
def test_tables_interpolate_linearly(table, profile):
    k = np.concatenate([np.geomspace(1e-5, 1, 50), np.linspace(1, table.end, 500)])
    ours = np.interp(np.sqrt(k), np.arange(len(table.values)) * table.step, table.values)
    theirs = np.array([profile.kValue(value, 0.0).real for value in k])
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert table.values[0] == pytest.approx(1.0, abs=1e-12)


def test_radii_of_the_atmosphere():
    moffat = Atmosphere("moffat", 3.2)
    outside = 1e-3
    radius = moffat.radius_of_fraction(outside)
    profile = galsim.Moffat(3.2, fwhm=1)
    rings = np.linspace(0, radius, 20001)
    flux = np.array([profile.xValue(r, 0.0) for r in rings.tolist()])
    assert np.trapezoid(2 * np.pi * rings * flux, rings) == pytest.approx(1 - outside, abs=1e-6)
    assert profile.xValue(float(moffat.radius_of_brightness(np.array([1e-4]))[0]), 0.0) == pytest.approx(1e-4)


def test_wing_of_kolmogorov():
    kolmogorov = Atmosphere("kolmogorov")
    profile = galsim.Kolmogorov(fwhm=1, gsparams=galsim.GSParams(folding_threshold=1e-4))
    for radius in (4.0, 8.0):
        level = profile.xValue(radius, 0.0)
        assert kolmogorov.radius_of_brightness(np.array([level]))[0] == pytest.approx(radius, rel=0.05)


def test_radii_of_sersic():
    sersic = Sersic(4.0, 5.0)
    assert sersic.radius_of_fraction(np.array([0.5]))[0] == pytest.approx(1.0, rel=2e-3)
    assert sersic.radius_of_fraction(np.array([0.0]))[0] == pytest.approx(5.0)
    level = sersic.draw().xValue(2.2, 0.0)
    assert sersic.radius_of_brightness(np.array([level]))[0] == pytest.approx(2.2, rel=1e-3)
