"""Photometry fed with the catalogs of the reference system, compared with what that made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lsst.images import VisitImage

from secondlight.catalog.schema import Schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.photometry.ap_corr_names import add_ap_corr_name
from secondlight.photometry.apply_ap_corr import ApplyApCorrTask
from secondlight.photometry.calibrate import calibrate_catalog
from secondlight.photometry.catalog_calculation import CatalogCalculationTask
from secondlight.photometry.depth import limiting_magnitude
from secondlight.photometry.measure_ap_corr import MeasureApCorrConfig, MeasureApCorrTask
from secondlight.photometry.primary_flags import SetPrimaryFlagsTask
from secondlight.photometry.psf_statistics import distance_to_nearest_star, good_samples, grid_statistics
from secondlight.photometry.summary_stats import ComputeExposureSummaryStatsTask
from tests.parity.pack import ParityPack, load_finalize_pack, load_pack

pytestmark = pytest.mark.realdata

SAMPLED = ("psfTraceRadiusDelta", "psfApFluxDelta", "psfApCorrSigmaScaledDelta", "maxDistToNearestPsf")
# What the packs do not describe: the observatory and the electronics of the amplifiers.
UNKNOWN = ("zenithDistance", "magLim", "effTime")
# Electrons per count of the reference's made-up detector: one number that explains both limiting magnitudes.
GAIN = 1705.6065


@pytest.fixture(scope="module", params=["A", "B"])
def pack(request: pytest.FixtureRequest, data_dir: Path) -> ParityPack:
    return load_pack(data_dir, request.param)


def final_image(pack: ParityPack) -> VisitImage:
    """Return the image in counts with the mask that the reference had at the end."""
    image = pack.repaired_image()
    image.mask = pack.pvi().mask
    return replace_components(
        image,
        photometric_scaling=pack.photo_calib.to_field(image.bbox, image.unit),
        aperture_corrections=pack.aperture_corrections,
    )


def test_summary_statistics(pack: ParityPack) -> None:
    level = float(np.median(pack.background_stats))
    stats = ComputeExposureSummaryStatsTask().run(final_image(pack), pack.sources, level)
    corners = {"raCorners", "decCorners"}
    # The reference takes array indices for positions, which matters where the image does not start at 0.
    skip = {"version", *UNKNOWN, *corners} | (set(SAMPLED) if pack.xy0 != (0, 0) else set())
    if not np.isfinite(pack.summary_stats["effTimePsfSigmaScale"]):  # its image had no band
        skip |= {name for name in pack.summary_stats if name.startswith("effTime")}
    for name, expected in pack.summary_stats.items():
        if name not in skip:
            assert getattr(stats, name) == pytest.approx(expected, rel=3e-7, abs=1e-9, nan_ok=True), name
    for name in corners:
        np.testing.assert_allclose(getattr(stats, name), pack.summary_stats[name], rtol=1e-12)
    limit = limiting_magnitude(
        psf_area=stats.psfArea,
        sky_background=level,
        zero_point=stats.zeroPoint,
        read_noise=0.0,
        gain=GAIN,
    )
    assert limit == pytest.approx(pack.summary_stats["magLim"], abs=1e-6)


def test_sampled_statistics_at_the_positions_of_the_reference(pack: ParityPack) -> None:
    """With its origin of the image put back to 0, the reference's numbers come out."""
    image, expected = final_image(pack), pack.summary_stats
    config = ComputeExposureSummaryStatsTask.ConfigClass()
    planes = list(config.psfBadMaskPlanes)
    x0, y0 = pack.xy0
    x, y = good_samples(image.bbox, image.mask, step=96, bad_planes=planes)
    radius = 3 * expected["psfSigma"]
    result = grid_statistics(image.psf, x=x - x0, y=y - y0, radius=radius)
    for name, value in result.items():
        assert value == pytest.approx(expected[name], rel=2e-4, abs=1e-9), name
    field = image.aperture_corrections["base_PsfFlux_instFlux"]
    delta = np.ptp(field(x=x - x0, y=y - y0)) / expected["psfSigma"]
    assert delta == pytest.approx(expected["psfApCorrSigmaScaledDelta"], rel=1e-6)
    stars = ComputeExposureSummaryStatsTask().starSelector.select_sources(pack.sources)
    x, y = good_samples(image.bbox, image.mask, step=8, bad_planes=planes)
    star_x, star_y = (pack.sources[f"slot_Centroid_{axis}"][stars] for axis in "xy")
    distance = distance_to_nearest_star(x=x - x0, y=y - y0, star_x=star_x, star_y=star_y)
    assert distance == pytest.approx(expected["maxDistToNearestPsf"], rel=1e-9)


def without(catalog: SourceCatalog, dropped: tuple[str, ...]) -> SourceCatalog:
    """Return a catalog without the columns whose names end in certain ways."""
    schema = Schema()
    for field in catalog.schema:
        if not field.name.endswith(dropped):
            schema.add_field(field)
    schema.aliases = dict(catalog.schema.aliases)
    return catalog.with_schema(schema)


def test_calibrated_columns(pack: ParityPack) -> None:
    calibrated = ("_flux", "_fluxErr", "_mag", "_magErr")
    ours = calibrate_catalog(without(pack.sources, calibrated), pack.photo_calib)
    assert set(ours.schema.names) == set(pack.sources.schema.names)
    names = [name for name in pack.sources.schema.names if name.endswith(calibrated)]
    assert len(names) > 60
    for name in names:
        expected = pack.sources[name]
        if name.endswith("_magErr"):  # negative where the flux is; ours is NaN there
            expected = np.where(expected > 0, expected, np.nan)
        np.testing.assert_allclose(ours[name], expected, rtol=1e-12, err_msg=name)


def test_calculations_and_flags(pack: ParityPack) -> None:
    flags = ("detect_isPrimary", "detect_isDeblendedSource", "detect_fromBlend", "detect_isIsolated")
    columns = (
        "base_FootprintArea_value",
        "base_ClassificationExtendedness_value",
        "base_ClassificationExtendedness_flag",
    )
    ours = without(pack.sources, flags + columns)
    ours.footprints = pack.footprints.footprints
    calculation, primary = CatalogCalculationTask(ours.schema), SetPrimaryFlagsTask(ours.schema)
    calculation.run(ours)
    primary.run(ours)
    for name in flags + columns:
        np.testing.assert_array_equal(ours[name], pack.sources[name], err_msg=name)


def test_aperture_corrections(data_dir: Path) -> None:
    """Take the reference's corrections off its fluxes again, then measure and apply them anew."""
    pack = load_finalize_pack(data_dir)
    names = ("base_PsfFlux", "base_GaussianFlux", "ext_photometryKron_KronFlux")
    for name in names:
        add_ap_corr_name(name)
    added = ("_apCorr", "_apCorrErr", "_flag_apCorr", "_used")
    catalog = without(pack.finalized_src, added)
    x, y = catalog["slot_Centroid_x"], catalog["slot_Centroid_y"]
    for name in names:
        correction = pack.final_aperture_corrections[f"{name}_instFlux"](x=x, y=y)
        catalog[f"{name}_instFlux"] = catalog[f"{name}_instFlux"] / correction
        catalog[f"{name}_instFluxErr"] = catalog[f"{name}_instFluxErr"] / correction
    config = MeasureApCorrConfig()
    config.sourceSelector["science"].doFlags = False
    config.sourceSelector["science"].doUnresolved = False
    task = MeasureApCorrTask(catalog.schema, names=names, config=config)
    apply = ApplyApCorrTask(catalog.schema)
    ap_corr_map = task.run(pack.bbox, catalog).ap_corr_map
    for name in names:
        used = catalog[f"apcorr_{name}_used"]
        np.testing.assert_array_equal(used, pack.finalized_src[f"apcorr_{name}_used"], err_msg=name)
        expected = pack.final_aperture_corrections[f"{name}_instFlux"]
        np.testing.assert_allclose(
            ap_corr_map[f"{name}_instFlux"].coefficients, expected.coefficients, atol=1e-8, err_msg=name
        )
        ours = ap_corr_map[f"{name}_instFluxErr"](x=0.0, y=0.0)
        theirs = pack.final_aperture_corrections[f"{name}_instFluxErr"](x=0.0, y=0.0)
        # Ours is the scatter about the final fit, the reference's that before its last clip and fit.
        assert ours == pytest.approx(theirs, rel=0.1)
    apply.run(catalog, ap_corr_map)
    for name in names:
        for suffix in ("_instFlux", "_instFluxErr", "_flag", "_flag_apCorr"):
            column = name + suffix
            np.testing.assert_allclose(catalog[column], pack.finalized_src[column], rtol=1e-8, err_msg=column)
        assert np.isfinite(catalog[f"{name}_apCorr"]).all()
