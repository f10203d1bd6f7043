"""The whole final pass on the packs with our own repair, detection, deblending and measurement."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from scipy import ndimage

from secondlight.catalog.footprints import Footprints
from secondlight.catalog.mask_planes import mask_of

from .end_to_end import EndToEnd, run_end_to_end
from .published import PLANES, changed_pixels, compare_pixels, compare_planes, compare_rows

pytestmark = pytest.mark.realdata

# Sources reach this far from the pixels that they are found on: half the smoothing kernel and the growth.
REACH = 6 + 4


@pytest.fixture(scope="module", params=["A", "B"])
def run(request: pytest.FixtureRequest, data_dir: Path) -> EndToEnd:
    return run_end_to_end(data_dir, request.param)


@pytest.fixture(scope="module")
def with_rules(run: EndToEnd, data_dir: Path) -> EndToEnd:
    """The same with the listed corrections taken back."""
    return run_end_to_end(data_dir, run.pack.folder.name, reference_rules=True)


def test_published_pixels(run: EndToEnd) -> None:
    """Image and variance are the reference's outside the pixels that either side repaired."""
    assert run.exposure.unit == u.nJy
    assert run.exposure.variance.unit == u.nJy**2
    found = compare_pixels(run)
    print(found)
    assert found.image_difference <= 1e-5
    assert found.variance_difference <= 1e-5
    assert found.elsewhere == run.exposure.image.array.size - (found.ours_and_theirs + found.theirs_only)


def test_repaired_pixels(run: EndToEnd) -> None:
    """We repair the pixels of rays that the reference repairs, and none that is of no ray."""
    ours, theirs = changed_pixels(run)
    assert not (ours & ~theirs).any()
    with np.load(run.pack.folder / "true_cr.npz", allow_pickle=False) as stored:
        true = np.zeros(ours.shape, dtype=bool)
        true[stored["y"] - run.pack.bbox.y.start, stored["x"] - run.pack.bbox.x.start] = True
    assert not (theirs & ~ours & true).any()
    assert not (ours & ~true).any()
    # What only the reference repairs has our image as it came.
    subtracted = run.pack.subtracted_image().image.array[theirs & ~ours]
    kept = run.exposure.image.array[theirs & ~ours]
    np.testing.assert_allclose(kept, subtracted * run.pack.photo_calib.mean, rtol=1e-6)


def test_values_of_repaired_pixels(run: EndToEnd) -> None:
    """Off sources both are like the sky around; on them only ours follow the source."""
    ours, theirs = changed_pixels(run)
    reference = run.pack.pvi()
    pixels, sigma = run.exposure.image.array, np.sqrt(reference.variance.array)
    on_source = mask_of(reference.mask, ["DETECTED"])
    sky, source = ours & theirs & ~on_source, ours & theirs & on_source
    pulls = {
        where: [(image / sigma)[rows] for image in (pixels, reference.image.array)]
        for where, rows in (("sky", sky), ("sources", source))
    }
    for where, (mine, others) in pulls.items():
        print(f"{where}: ours {mine.mean():+.2f}, theirs {others.mean():+.2f} sigma")
    for values in pulls["sky"]:
        assert abs(values.mean()) < 0.5
        assert values.std() < 1.3
    mine, others = pulls["sources"]
    assert abs(others.mean()) < 0.5
    assert mine.mean() > others.mean() + 0.3


@pytest.mark.parametrize("plane", PLANES)
def test_mask_planes(run: EndToEnd, with_rules: EndToEnd, plane: str) -> None:
    """Planes differ by the repair alone: pixels that are marked, and what is detected by their values."""
    ours, theirs = compare_planes(run)[plane]
    mine, others = changed_pixels(run)
    different = ours ^ theirs
    print(f"{plane}: {ours.sum()} and {theirs.sum()} pixels, {different.sum()} different")
    if plane in ("CR", "INTRP"):
        assert not (different & ~(mine ^ others)).any()
        before = mask_of(run.pack.input_image().mask, [plane])
        np.testing.assert_array_equal(ours, mine | before)
    elif plane == "DETECTED":
        near = ndimage.binary_dilation(mine | others, structure=np.ones((3, 3), bool), iterations=REACH)
        assert not (different & ~near).any()
        assert different.sum() < 1e-3 * theirs.sum()
    else:
        assert not different.any()
    same, reference = compare_planes(with_rules)[plane]
    np.testing.assert_array_equal(same, reference)


def test_rows(run: EndToEnd) -> None:
    """Every source of the reference is one of ours, in the same row: parents, sky sources, children."""
    rows = compare_rows(run)
    print(rows)
    for kind, (ours, theirs, matched) in rows.items():
        assert ours == theirs == matched, kind
    reference, catalog = run.pack.sources, run.catalog
    for column in (
        "id",
        "parent",
        "sky_source",
        "deblend_nChild",
        "deblend_parentNPeaks",
        "visit",
        "detector",
    ):
        np.testing.assert_array_equal(catalog[column], reference[column], err_msg=column)


def test_footprints(run: EndToEnd, with_rules: EndToEnd) -> None:
    """Footprints that are not split are the reference's but where a pixel was repaired differently."""
    stored = run.pack.footprints.footprints
    whole = (run.pack.sources["parent"] == 0) & (run.pack.sources["deblend_nChild"] == 0)
    different = np.array(
        [not _same_spans(run.catalog.footprints, stored, row) for row in np.flatnonzero(whole)]
    )
    flagged = (
        run.pack.sources["base_PixelFlags_flag_cr"][whole] | run.catalog["base_PixelFlags_flag_cr"][whole]
    )
    print(f"{different.sum()} of {whole.sum()} footprints differ, {flagged.sum()} have repaired pixels")
    assert not (different & ~flagged).any()
    assert all(_same_spans(with_rules.catalog.footprints, stored, row) for row in np.flatnonzero(whole))


def _same_spans(ours: Footprints, theirs: Footprints, row: int) -> bool:
    spans = [slice(f.span_offsets[row], f.span_offsets[row + 1]) for f in (ours, theirs)]
    return all(
        np.array_equal(getattr(ours, name)[spans[0]], getattr(theirs, name)[spans[1]])
        for name in ("span_y", "span_x0", "span_x1")
    )


def test_point_sources_of_blends(with_rules: EndToEnd) -> None:
    """With the faults of the reference's deblender its children come out: nothing else differs much."""
    catalog, reference = with_rules.catalog, with_rules.pack.sources
    children = np.flatnonzero(reference["parent"] != 0)
    as_psf = [c["deblend_deblendedAsPsf"][children] for c in (catalog, reference)]
    totals = [[c.footprints.heavy_pixels(row).sum() for row in children] for c in (catalog, reference)]
    off = np.abs(np.divide(*totals) - 1)
    same = np.mean([_same_spans(catalog.footprints, reference.footprints, row) for row in children])
    near = np.mean(off < 1e-4), np.mean(off < 1e-3)
    print(f"{len(children)} children: {same:.3f} have the same spans, fluxes within 1e-4, 1e-3: {near}")
    np.testing.assert_array_equal(*as_psf)
    assert same > 0.98
    assert near[1] > 0.96


def test_columns_exist(run: EndToEnd) -> None:
    """The two tables have the same columns, of the same types and units."""
    ours, theirs = run.sources, run.pack.sources.to_astropy()
    assert set(ours.colnames) == set(theirs.colnames)
    for name in theirs.colnames:
        assert ours[name].dtype == theirs[name].dtype, name
        assert theirs[name].unit is None or ours[name].unit == theirs[name].unit, name


def test_calibrated_columns(run: EndToEnd) -> None:
    """Fluxes and magnitudes are the instrumental fluxes times the calibration, in ours and in theirs."""
    mean = run.pack.photo_calib.mean
    for table in (run.sources, run.pack.sources.to_astropy()):
        names = [name.removesuffix("_instFlux") for name in table.colnames if name.endswith("_instFlux")]
        assert len(names) > 25
        for name in names:
            flux = np.asarray(table[f"{name}_instFlux"]) * mean
            positive = np.where(flux > 0, flux, np.nan)
            expected = {"_flux": flux, "_mag": 31.4 - 2.5 * np.log10(positive)}
            if f"{name}_instFluxErr" in table.colnames:
                error = np.asarray(table[f"{name}_instFluxErr"]) * mean
                expected |= {"_fluxErr": error, "_magErr": 2.5 / np.log(10) * error / positive}
            for suffix, values in expected.items():
                found = np.asarray(table[f"{name}{suffix}"])
                if suffix == "_magErr":  # the reference's is negative where the flux is
                    found = np.where(flux > 0, found, np.nan)
                np.testing.assert_allclose(found, values, rtol=1e-9, err_msg=f"{name}{suffix}")
