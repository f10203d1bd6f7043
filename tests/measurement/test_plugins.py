from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from secondlight.catalog.mask_planes import ensure_planes
from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.visit_image import replace_components
from secondlight.measurement.plugins._sdss_centroid_kernels import derivative_noise, smoothed_block
from secondlight.measurement.task import SingleFrameMeasurementTask
from secondlight.photometry.ap_corr_names import ap_corr_names
from secondlight.photometry.calibrate import calibrate_image
from tests.measurement.scene import fixed_slots, make_catalog, make_config, measure_at, round_footprints
from tests.scenes import make_visit_image

FLUX = 1e4


def star(
    x: float = 60.0, y: float = 60.0, *, sigma: float = 2.0, noise: float = 1.0, size: int = 121, **kwargs
):
    """Return a noise-free image of one Gaussian star and unit variance (unless told otherwise)."""
    psf = GaussianPointSpreadFunction(sigma, Box.factory[0:size, 0:size], 41)
    return make_visit_image(
        width=size, height=size, x=[x], y=[y], flux=[FLUX], psf=psf, noise=noise, add_noise=False, **kwargs
    )


def centroid(exposure, x, y, *, radius=10, **settings):
    config = make_config("base_SdssCentroid", centroid="base_SdssCentroid")
    config.plugins["base_SdssCentroid"].update(**settings)
    config.doReplaceWithNoise = False
    schema = minimal_source_schema()
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(schema, round_footprints(x, y, radius))
    task.run(catalog, exposure)
    return catalog


@pytest.mark.parametrize(
    ("offset", "expected", "errors"),
    [
        ((0, 0), (0, 0), (0.002417, 0.002417)),
        ((0.3, -0.2), (0.301662, -0.201404), (0.002408, 0.002423)),
        ((0.45, 0.45), (0.450800, 0.450800), (0.002418, 0.002418)),
        ((0.499999, 0), (0.5, 0), (0.002381, 0.002454)),
    ],
)
def test_sdss_centroid_vectors(offset, expected, errors) -> None:
    """Published positions; published errors count the sky twice, ours follow the scatter of many trials."""
    catalog = centroid(star(60 + offset[0], 60 + offset[1]), [60], [60])
    assert not catalog["base_SdssCentroid_flag"][0]
    assert catalog["slot_Centroid_x"][0] - 60 == pytest.approx(expected[0], abs=2e-5)
    assert catalog["slot_Centroid_y"][0] - 60 == pytest.approx(expected[1], abs=2e-5)
    for axis, error in zip("xy", errors, strict=True):
        ours = float(catalog[f"slot_Centroid_{axis}Err"][0])
        assert 0.001 < ours < error
        assert ours == pytest.approx(0.002, rel=0.03)


@pytest.mark.parametrize(("sky", "gain"), [(25.0, None), (100.0, 1.0)])
def test_centroid_errors_match_the_scatter(sky: float, gain: float | None) -> None:
    rng = np.random.default_rng(11)
    pulls = []
    grid = np.arange(30, 470, 40)
    x, y = (g.ravel() + rng.uniform(-0.4, 0.4, g.size) for g in np.meshgrid(grid, grid))
    for seed in range(3):
        psf = GaussianPointSpreadFunction(2.0, Box.factory[0:500, 0:500], 25)
        exposure = make_visit_image(
            width=500, height=500, x=x, y=y, flux=np.full(x.size, FLUX), psf=psf, noise=sky**0.5, gain=gain,
            seed=seed,
        )  # fmt: skip
        catalog = centroid(exposure, x, y)
        pulls.append((catalog["slot_Centroid_x"] - x) / catalog["slot_Centroid_xErr"])
        pulls.append((catalog["slot_Centroid_y"] - y) / catalog["slot_Centroid_yErr"])
    assert np.std(np.concatenate(pulls)) == pytest.approx(1.0, abs=0.05)


def test_sdss_centroid_failures() -> None:
    exposure = star()
    exposure.image.array[20, 20] = -500.0
    x, y = [60, 20, 100, 3, 61, 118], [60, 20, 100, 60, 60, 118]
    catalog = centroid(exposure, x, y, maxDistToPeak=0.5)
    flags = {n: catalog[f"base_SdssCentroid_flag_{n}"] for n in
             ("notAtMaximum", "noSecondDerivative", "near_edge", "edge", "resetToPeak")}  # fmt: skip
    np.testing.assert_array_equal(flags["notAtMaximum"], [False, True, False, False, False, False])
    assert flags["noSecondDerivative"][2]
    assert flags["near_edge"][[3, 5]].all()
    assert flags["edge"][5]
    assert flags["resetToPeak"][4]
    np.testing.assert_array_equal(catalog["slot_Centroid_flag"], [False, True, True, True, True, True])
    assert catalog["slot_Centroid_x"].tolist()[1:] == [20, 100, 3, 61, 118]


def test_centroid_without_peak_and_outside() -> None:
    config = make_config("base_SdssCentroid", "base_NaiveCentroid", centroid="base_SdssCentroid")
    config.doReplaceWithNoise = False
    schema = minimal_source_schema()
    task = SingleFrameMeasurementTask(schema, config=config)
    footprints = round_footprints([60, 60, 500], [60, 60, 500], 1)
    peaks = footprints.all_peaks
    footprints = footprints.with_peaks(np.array([0, 1, 1, 2]), type(peaks)(*(p[[0, 2]] for p in peaks)))
    catalog = make_catalog(schema, footprints)
    task.run(catalog, star())
    for name in ("base_SdssCentroid", "base_NaiveCentroid"):
        np.testing.assert_array_equal(catalog[f"{name}_flag"], [False, True, True])
        assert np.isnan(catalog[f"{name}_x"][1])
        assert catalog[f"{name}_flag_edge"].tolist() == [False, False, True]


def test_naive_centroid() -> None:
    exposure = star(60.3, 59.8)
    part = exposure.image.array[59:62, 59:62].astype(float)
    config = make_config("base_NaiveCentroid", centroid="base_NaiveCentroid")
    config.doReplaceWithNoise = False
    schema = minimal_source_schema()
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(schema, round_footprints([60, 20], [60, 20]))
    task.run(catalog, exposure)
    expected = 60 + (part * [-1, 0, 1]).sum() / part.sum()
    assert catalog["slot_Centroid_x"][0] == pytest.approx(expected, rel=1e-6)
    assert catalog["base_NaiveCentroid_flag_noCounts"].tolist() == [False, True]


def test_sdss_shape_vectors() -> None:
    catalog = measure_at(star(), ["base_SdssShape"], x=[60.0], y=[60.0])
    row = {c: float(catalog[f"base_SdssShape_{c}"][0]) for c in
           ("xx", "yy", "xy", "xxErr", "yyErr", "xyErr", "instFlux", "instFluxErr", "instFlux_xx_Cov",
            "psf_xx")}  # fmt: skip
    assert row["xx"] == pytest.approx(3.999924, abs=2e-5)
    assert row["yy"] == pytest.approx(3.999924, abs=2e-5)
    assert row["xy"] == pytest.approx(0, abs=1e-6)
    assert row["instFlux"] == pytest.approx(9999.898, abs=0.02)
    assert row["instFluxErr"] == pytest.approx(10.02651, rel=2e-4)
    assert row["xxErr"] == pytest.approx(0.0080212, rel=2e-4)
    assert row["yyErr"] == pytest.approx(0.0080212, rel=2e-4)
    assert row["xyErr"] == pytest.approx(0.0056719, rel=2e-4)
    # The published number, of the other sign, is the covariance of the amplitude times the area.
    assert row["instFlux_xx_Cov"] == pytest.approx(0.0402124, rel=5e-4)
    assert row["psf_xx"] == pytest.approx(3.999924, abs=2e-5)
    assert not catalog["base_SdssShape_flag"][0]


@pytest.mark.parametrize(
    ("sigma", "error", "area"),
    [(1.5, 5.317362, 28.274334), (2.0, 7.089815, 50.265482), (2.5, 8.862269, 78.539816)],
)
def test_psf_flux_vectors(sigma: float, error: float, area: float) -> None:
    exposure = star(60.3, 59.8, sigma=sigma)
    catalog = measure_at(exposure, ["base_PsfFlux"], x=[60.3], y=[59.8])
    assert catalog["base_PsfFlux_instFlux"][0] == pytest.approx(FLUX, rel=1e-6)
    assert catalog["base_PsfFlux_instFluxErr"][0] == pytest.approx(error, rel=1e-6)
    assert catalog["base_PsfFlux_area"][0] == pytest.approx(area, rel=1e-6)
    assert catalog["base_PsfFlux_chi2"][0] == pytest.approx(0, abs=1e-3)
    assert catalog["base_PsfFlux_npixels"][0] == 41**2


def test_psf_flux_matches_slow_twin_and_leaves_out_bad_pixels() -> None:
    exposure = make_visit_image(
        width=80, height=70, x0=500, y0=300, x=[540.2], y=[330.7], flux=[5e3], noise=12.0
    )
    exposure.mask.set("SATURATED", np.mgrid[:70, :80][1] == 41)
    for planes in ([], ["SAT"]):
        catalog = measure_at(
            exposure,
            ["base_PsfFlux"],
            x=[540.2],
            y=[330.7],
            settings={"base_PsfFlux": {"badMaskPlanes": planes}},
        )
        phi = exposure.psf.compute_stellar_image(x=540.2, y=330.7)
        good = np.ones(phi.array.shape, bool)
        if planes:
            good[:, 541 - phi.bbox.x.start] = False
        m = phi.array[good]
        d, v = (part[phi.bbox].array[good].astype(float) for part in (exposure.image, exposure.variance))
        flux = (m * d).sum() / (m**2).sum()
        assert catalog["base_PsfFlux_instFlux"][0] == pytest.approx(flux, rel=1e-7)
        assert catalog["base_PsfFlux_instFluxErr"][0] == pytest.approx(
            np.sqrt((m**2 * v).sum()) / (m**2).sum()
        )
        assert catalog["base_PsfFlux_chi2"][0] == pytest.approx(((d - flux * m) ** 2 / v).sum(), rel=1e-6)
        assert catalog["base_PsfFlux_npixels"][0] == good.sum()


def test_psf_flux_at_edges() -> None:
    catalog = measure_at(star(), ["base_PsfFlux"], x=[60, 5, 300, np.nan], y=[60, 60, 60, 60])
    np.testing.assert_array_equal(catalog["base_PsfFlux_flag"], [False, True, True, True])
    np.testing.assert_array_equal(catalog["base_PsfFlux_flag_edge"], [False, True, True, False])
    np.testing.assert_array_equal(catalog["base_PsfFlux_flag_noGoodPixels"], [False, False, True, False])
    assert np.isfinite(catalog["base_PsfFlux_instFlux"][:2]).all()


def test_gaussian_flux() -> None:
    given = {"base_GaussianFlux": {"marginalizeShape": False}}
    catalog = measure_at(star(60.3, 59.8), ["base_GaussianFlux"], x=[60.3], y=[59.8], settings=given)
    assert catalog["base_GaussianFlux_instFlux"][0] == pytest.approx(FLUX, rel=2e-5)
    assert catalog["base_GaussianFlux_instFluxErr"][0] == pytest.approx(7.089815, rel=2e-5)
    catalog = measure_at(star(60.3, 59.8), ["base_GaussianFlux"], x=[60.3], y=[59.8])
    assert catalog["base_GaussianFlux_instFluxErr"][0] == pytest.approx(10.02651, rel=2e-4)
    wide = (6.0, 3.0, 1.5)
    exposure = star(60.3, 59.8)
    exposure.variance.array[...] = 1 + exposure.image.array
    catalog = measure_at(exposure, ["base_GaussianFlux"], x=[60.3], y=[59.8], moments=wide, settings=given)
    j, i = np.mgrid[:121, :121]
    inverse = np.linalg.inv([[6.0, 1.5], [1.5, 3.0]])
    dx, dy = i - 60.3, j - 59.8
    q = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy + inverse[1, 1] * dy**2
    half = 4 * 6**0.5
    w = np.exp(-q / 2) * (q <= 14) * (abs(dx) <= half + 0.5) * (abs(dy) <= half + 0.5)
    expected = 2 * (w * exposure.image.array).sum()
    assert catalog["base_GaussianFlux_instFlux"][0] == pytest.approx(expected, rel=1e-6)
    error = 2 * np.sqrt((w**2 * exposure.variance.array).sum())
    assert catalog["base_GaussianFlux_instFluxErr"][0] == pytest.approx(error, rel=1e-6)
    tiny = measure_at(star(), ["base_GaussianFlux"], x=[60.0], y=[60.0], moments=(0.1, 0.1, 0.0))
    assert 0 < tiny["base_GaussianFlux_instFlux"][0] < FLUX
    # The last one is so narrow that no pixel has any weight.
    for bad in ((np.nan, 4.0, 0.0), (4.0, 4.0, 4.0), (1 / 200, 1 / 200, 0.0)):
        failed = measure_at(star(), ["base_GaussianFlux"], x=[60.0], y=[60.0], moments=bad)
        assert failed["base_GaussianFlux_flag"][0]
        assert np.isnan(failed["base_GaussianFlux_instFlux"][0])


def test_circular_apertures() -> None:
    exposure = make_visit_image(width=201, height=201, noise=0.5, add_noise=False, background=1.0)
    radii = [3.0, 4.5, 12.0, 17.0, 70.0]
    settings = {"base_CircularApertureFlux": {"radii": radii, "maxSincRadius": 12.0}}
    names = ["base_CircularApertureFlux"]
    catalog = measure_at(exposure, names, x=[100, 10, np.nan], y=[100, 100, 100], settings=settings)
    for radius, naive in ((3.0, None), (4.5, None), (12.0, None), (17.0, 901), (70.0, 15373)):
        prefix = f"base_CircularApertureFlux_{radius:.1f}".replace(".", "_")
        flux = catalog[f"{prefix}_instFlux"]
        assert flux[0] == pytest.approx(naive or np.pi * radius**2, rel=1e-6)
        if naive:
            assert catalog[f"{prefix}_instFluxErr"][0] == pytest.approx(np.sqrt(naive * 0.25))
            assert f"{prefix}_flag_sincCoeffsTruncated" not in catalog
        truncated = radius > 10
        assert catalog[f"{prefix}_flag"].tolist() == [False, truncated, True]
        assert catalog[f"{prefix}_flag_apertureTruncated"].tolist()[:2] == [False, truncated]
        # Without a position the first peak is measured, and flagged.
        assert np.isfinite(flux[2]) == (radius < 50)


def test_pixel_flags() -> None:
    exposure = make_visit_image(width=100, height=100)
    exposure = replace_components(exposure, mask=ensure_planes(exposure.mask, ["STREAK"]))
    saturated = np.zeros((100, 100), bool)
    saturated[49:52, 49:52] = True
    exposure.mask.set("SATURATED", saturated)
    exposure.mask.set("COSMIC_RAY", np.mgrid[:100, :100][1] == 44)
    exposure.mask.set("STREAK", np.mgrid[:100, :100][0] == 50)
    settings = {"base_PixelFlags": {"masksFpAnywhere": ["STREAK"], "masksFpCenter": ["STREAK"]}}
    x, y = [50, 47, 80, -500, np.nan], [50, 50, 20, 50, 50]
    catalog = measure_at(exposure, ["base_PixelFlags"], x=x, y=y, settings=settings, radius=4)

    def flag(name: str) -> list[bool]:
        return catalog[f"base_PixelFlags_flag_{name}"].tolist()[:4]

    assert flag("saturated") == [True, True, False, False]
    assert flag("saturatedCenter") == [True, False, False, False]
    assert flag("saturatedCenterAll") == [True, False, False, False]
    assert flag("cr") == [False, True, False, False]
    assert flag("crCenter") == [False] * 4
    assert flag("streakCenter") == [True, True, False, False]
    assert flag("streakCenterAll") == [False] * 4
    assert flag("offimage") == [False, False, False, True]
    assert flag("edge") == [False, False, False, True]
    # Nothing is left of the central pixels of the last one: no plane is set in all of them but the edge.
    assert flag("badCenterAll") == [False] * 4
    assert flag("edgeCenterAll") == [False, False, False, True]
    assert catalog["base_PixelFlags_flag"].tolist() == [False, False, False, False, False]


def test_unknown_mask_plane_stops_the_measurement() -> None:
    settings = {"base_PixelFlags": {"masksFpAnywhere": ["NO_SUCH_PLANE"]}}
    with pytest.raises(RuntimeError, match="NO_SUCH_PLANE"):
        measure_at(make_visit_image(), ["base_PixelFlags"], x=[50.0], y=[50.0], settings=settings)


def test_size_extendedness() -> None:
    schema = fixed_slots()
    schema.add("p_xx", np.float64, "")
    schema.add("p_yy", np.float64, "")
    schema.add_flag("p_flag", "")
    schema.set_alias("slot_PsfShape", "p")
    config = make_config("base_ClassificationSizeExtendedness")
    config.doReplaceWithNoise = False
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(schema, round_footprints([50] * 4, [50] * 4))
    catalog["in_xx"], catalog["in_yy"] = 4.4, [4.4, 3.6, 4.4, 4.4]
    catalog["p_xx"], catalog["p_yy"] = 4.0, 4.0
    catalog["in_flag"], catalog["p_flag"] = [0, 0, 1, 0], [0, 0, 0, 1]
    task.run(catalog, make_visit_image())
    value = catalog["base_ClassificationSizeExtendedness_value"]
    assert value[:2] == pytest.approx([0.03921, 0], abs=1e-5)
    assert np.isnan(value[2:]).all()
    assert catalog["base_ClassificationSizeExtendedness_flag"].tolist() == [False, False, True, True]


def test_hsm_moments_of_source_and_psf() -> None:
    names = [f"ext_shapeHSM_{n}" for n in
             ("HsmSourceMoments", "HsmSourceMomentsRound", "HsmPsfMoments", "HsmShapeRegauss")]  # fmt: skip
    x, y = [60.3, 60.3, 30.0, np.nan], [59.8, 75.0, 30.0, 60.0]
    catalog = measure_at(star(60.3, 59.8), names, x=x, y=y)
    for name in names[:2]:
        assert catalog[f"{name}_xx"][0] == pytest.approx(4.0, abs=2e-3)
        assert catalog[f"{name}_xy"][0] == pytest.approx(0.0, abs=2e-3)
        assert catalog[f"{name}_x"][0] == pytest.approx(60.3, abs=1e-3)
        assert catalog[f"{name}_flag_galsim"].tolist()[2]
    assert catalog[f"{names[2]}_xx"][0] == pytest.approx(4.0, abs=2e-3)
    assert catalog[f"{names[2]}_x"][0] == pytest.approx(0.0, abs=1e-4)
    assert catalog["slot_ShapeRound_xx"][0] == pytest.approx(4.0, abs=2e-3)
    for name in names[:3]:
        assert catalog[f"{name}_flag"].tolist()[0] is False
        assert catalog[f"{name}_flag"].tolist()[3] is True


def test_regauss_of_a_wide_source() -> None:
    exposure = star(60.3, 59.8, sigma=3.0)
    exposure.psf = GaussianPointSpreadFunction(2.0, exposure.bbox, 41)
    catalog = measure_at(exposure, ["ext_shapeHSM_HsmShapeRegauss"], x=[60.3], y=[59.8], radius=18)
    prefix = "ext_shapeHSM_HsmShapeRegauss"
    assert not catalog[f"{prefix}_flag"][0]
    assert catalog[f"{prefix}_resolution"][0] == pytest.approx(1 - 4 / 9, abs=0.01)
    assert catalog[f"{prefix}_e1"][0] == pytest.approx(0, abs=1e-3)


def test_hsm_failures_name_their_reason() -> None:
    exposure = star()
    schema = fixed_slots()
    schema.add("deblend_nChild", np.int32, "")
    names = ["ext_shapeHSM_HsmSourceMoments", "ext_shapeHSM_HsmShapeRegauss"]
    config = make_config(*names)
    config.plugins[names[1]].deblendNChild = "deblend_nChild"
    config.doReplaceWithNoise = False
    task = SingleFrameMeasurementTask(schema, config=config)
    footprints = round_footprints([60, 60, -300], [60, 60, -300])
    catalog = make_catalog(schema, footprints, in_x=[60, 90, 60], in_y=60.0, deblend_nChild=[2, 0, 0])
    task.run(catalog, exposure)
    assert catalog[f"{names[0]}_flag_not_contained"].tolist() == [False, True, False]
    assert catalog[f"{names[0]}_flag_no_pixels"].tolist() == [False, False, True]
    assert catalog[f"{names[0]}_flag"].tolist() == [False, True, True]
    assert catalog[f"{names[1]}_flag_parent_source"].tolist() == [True, False, False]
    assert catalog[f"{names[1]}_flag"].tolist() == [True, True, True]


def test_sky_plugins() -> None:
    names = ["base_SkyCoord", "base_LocalWcs", "base_Jacobian", "base_FPPosition"]
    exposure = make_visit_image(width=200, height=180, x0=500, y0=300)
    config = {"base_Jacobian": {"pixelScale": 0.2}}
    x, y = [599.5, 640.0, np.nan], [389.5, 350.0, 350.0]
    schema = fixed_slots()
    schema.add("in_xErr", np.float32, "")
    schema.add("in_yErr", np.float32, "")
    c = make_config(*names)
    c.doReplaceWithNoise = False
    c.plugins["base_Jacobian"].update(**config["base_Jacobian"])
    task = SingleFrameMeasurementTask(schema, config=c)
    catalog = make_catalog(schema, round_footprints([599, 640, 640], [389, 350, 350]))
    catalog["in_x"], catalog["in_y"], catalog["in_xErr"], catalog["in_yErr"] = x, y, 0.1, 0.2
    task.run(catalog, exposure)
    assert np.rad2deg(catalog["coord_ra"][0]) == pytest.approx(150.0, abs=1e-9)
    assert np.rad2deg(catalog["coord_dec"][0]) == pytest.approx(2.0, abs=1e-9)
    assert np.isnan(catalog["coord_ra"][2])
    scale = np.deg2rad(0.2 / 3600)
    assert catalog["coord_raErr"][0] == pytest.approx(0.1 * scale, rel=1e-5)
    assert catalog["coord_decErr"][0] == pytest.approx(0.2 * scale, rel=1e-5)
    assert catalog["base_LocalWcs_CDMatrix_1_1"][0] == pytest.approx(-scale, rel=1e-7)
    assert catalog["base_LocalWcs_CDMatrix_2_2"][0] == pytest.approx(scale, rel=1e-7)
    # The local frame turns with right ascension: d(eta)/dx is minus sin(dec) d(ra)/dx per pixel off the axis.
    turn = scale * np.sin(np.deg2rad(2.0)) * (catalog["coord_ra"][1] - catalog["coord_ra"][0])
    assert abs(catalog["base_LocalWcs_CDMatrix_1_2"][1]) == pytest.approx(abs(turn), rel=1e-2)
    assert catalog["base_Jacobian_value"][:2] == pytest.approx([1, 1], rel=1e-6)
    for name in ("base_LocalWcs", "base_Jacobian", "base_FPPosition"):
        assert catalog[f"{name}_flag"].tolist()[:2] == [False, False]
    point = exposure.detector.to_focal_plane.apply_forward(x=640.0, y=350.0)
    assert catalog["base_FPPosition_x"][1] == pytest.approx(point.x)


def test_local_pixels() -> None:
    exposure = make_visit_image(width=300, height=300, noise=10.0, background=5.0, seed=3)
    exposure.variance.array[:, 150:] = 400.0
    exposure.mask.set("DETECTED", np.hypot(*(np.mgrid[:300, :300] - 75)) < 4)
    catalog = measure_at(
        exposure,
        ["base_Variance", "base_LocalBackground"],
        x=[75, 220, np.nan],
        y=[75, 220, 75],
        moments=(4, 4, 0),
    )
    assert catalog["base_Variance_value"][:2] == pytest.approx([100, 400])
    assert catalog["base_LocalBackground_instFlux"][0] == pytest.approx(5, abs=0.6)
    assert catalog["base_LocalBackground_instFluxErr"][0] == pytest.approx(10, rel=0.05)
    everywhere = np.ones((300, 300), bool)
    exposure.mask.set("BAD", everywhere)
    catalog = measure_at(exposure, ["base_Variance", "base_LocalBackground"], x=[75.0], y=[75.0])
    assert catalog["base_Variance_flag_emptyFootprint"][0]
    assert catalog["base_LocalBackground_flag_noGoodPixels"][0]
    assert catalog["base_Variance_flag"][0]
    assert catalog["base_LocalBackground_flag"][0]


def test_local_photo_calib() -> None:
    exposure = make_visit_image()
    schema = fixed_slots()
    config = make_config("base_LocalPhotoCalib")
    config.doReplaceWithNoise = False
    task = SingleFrameMeasurementTask(schema, config=config)
    catalog = make_catalog(schema, round_footprints([50, 50], [50, 50]), in_x=[50.0, np.nan], in_y=50.0)
    task.run(catalog, exposure, photo_calib=PhotoCalib(12.3, 0.4))
    np.testing.assert_array_equal(catalog["base_LocalPhotoCalib"], 12.3)
    np.testing.assert_array_equal(catalog["base_LocalPhotoCalibErr"], 0.4)
    task.run(catalog, exposure)
    assert catalog["base_LocalPhotoCalib_flag"].all()

    # What the image knows by itself: in counts, published in nJy, and converted to another unit.
    published = calibrate_image(exposure, PhotoCalib(12.3, 0.4))
    for unit, value in ((u.nJy, 1.0), (u.Jy, 1e9), (u.adu, 12.3)):
        image = published.convert_unit(unit)
        task.run(catalog, image)
        np.testing.assert_allclose(catalog["base_LocalPhotoCalib"], value)
        np.testing.assert_allclose(catalog["base_LocalPhotoCalibErr"], 0.4 / 12.3 * value)
        assert not catalog["base_LocalPhotoCalib_flag"].any()
    exposure.photometric_scaling = PhotoCalib(12.3).to_field(exposure.bbox, exposure.unit)
    task.run(catalog, exposure)
    np.testing.assert_array_equal(catalog["base_LocalPhotoCalib"], 12.3)
    assert np.isnan(catalog["base_LocalPhotoCalibErr"]).all()


def test_fluxes_take_part_in_aperture_correction() -> None:
    assert {"base_PsfFlux", "base_GaussianFlux"} <= ap_corr_names()
    assert "base_CircularApertureFlux" not in ap_corr_names()


def test_noise_of_the_centroid_derivatives() -> None:
    """The compiled propagation equals the variance of the same sums of independent pixels, written out."""
    rng = np.random.default_rng(8)
    kernel, variance = rng.random((5, 7)), rng.random((7, 9))
    noise = np.empty(4)
    derivative_noise(variance, kernel, noise)
    for along_x, ours in ((True, noise[:2]), (False, noise[2:])):
        weights = {}
        for step in (-1, 0, 1):
            dx, dy = (step, 0) if along_x else (0, step)
            padded = np.zeros((7, 9))
            padded[1 + dy : 6 + dy, 1 + dx : 8 + dx] = kernel
            weights[step] = padded
        slope = 0.5 * (weights[1] - weights[-1])
        curvature = 2 * weights[0] - weights[1] - weights[-1]
        expected = ((slope**2 * variance).sum(), (curvature**2 * variance).sum())
        assert ours == pytest.approx(expected)


@pytest.mark.parametrize(("bin_x", "bin_y"), [(1, 1), (2, 1), (2, 4)])
def test_binned_and_smoothed_block(bin_x: int, bin_y: int) -> None:
    rng = np.random.default_rng(9)
    image, variance = rng.random((80, 90)), rng.random((80, 90))
    kernel = rng.random((5, 7))
    binned, block = np.empty((2, 7, 9)), np.empty((3, 3))
    x, y = 40, 38
    assert smoothed_block(image, variance, x, y, bin_x, bin_y, kernel, binned, block)
    for b in (-1, 0, 1):
        for a in (-1, 0, 1):
            total = 0.0
            for j in range(5):
                for i in range(7):
                    first_x, first_y = x + (a + i - 3) * bin_x, y + (b + j - 2) * bin_y
                    cell = image[first_y : first_y + bin_y, first_x : first_x + bin_x]
                    total += kernel[j, i] * cell.mean()
            assert block[b + 1, a + 1] == pytest.approx(total)
    corner = variance[y - 3 * bin_y : y - 2 * bin_y, x - 4 * bin_x : x - 3 * bin_x]
    assert binned[1, 0, 0] == pytest.approx(corner.mean() / corner.size)
    assert not smoothed_block(image, variance, 4 * bin_x, y, bin_x, bin_y, kernel, binned, block)
    assert not smoothed_block(image, variance, x, 79, bin_x, bin_y, kernel, binned, block)


def test_psf_flux_errors_match_the_scatter() -> None:
    rng = np.random.default_rng(12)
    grid = np.arange(30, 770, 40)
    x, y = (g.ravel() + rng.uniform(-0.5, 0.5, g.size) for g in np.meshgrid(grid, grid))
    psf = GaussianPointSpreadFunction(2.0, Box.factory[0:800, 0:800], 25)
    exposure = make_visit_image(
        width=800, height=800, x=x, y=y, flux=np.full(x.size, FLUX), psf=psf, noise=8.0, gain=1.5, seed=2
    )
    catalog = measure_at(exposure, ["base_PsfFlux"], x=x, y=y, replace=True)
    flux, error = catalog["base_PsfFlux_instFlux"], catalog["base_PsfFlux_instFluxErr"]
    assert np.std((flux - FLUX) / error) == pytest.approx(1.0, abs=0.05)
    assert np.mean(flux) == pytest.approx(FLUX, rel=1e-3)
