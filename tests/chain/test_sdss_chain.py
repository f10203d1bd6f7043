"""Six SDSS visits through the whole chain, compared with independent measurements."""

from __future__ import annotations

from pathlib import Path

import astropy.table
import numpy as np
import pytest
from lsst.daf.butler import Butler
from scipy.spatial import KDTree

from secondlight.instruments.sdss import SdssImager
from secondlight.report.summary import held_out_sizes, repeatability, visit_numbers

from .conftest import OUTPUT, QUANTUM_GRAPH, run_command, tool

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

SKYMAP = "secondlight_rings"
BAD_FLAGS = (
    "base_SdssCentroid_flag",
    "base_PixelFlags_flag_edge",
    "base_PixelFlags_flag_interpolated",
    "base_PixelFlags_flag_saturated",
)


def sigma(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def tables_by_visit(butler: Butler, name: str) -> dict[tuple[int, str], astropy.table.Table]:
    refs = butler.query_datasets(name)
    return {
        (int(r.dataId["visit"]), str(butler.registry.expandDataId(r.dataId)["band"])): butler.get(r)
        for r in refs
    }


def test_every_visit_gives_an_image_and_a_table(repository: Path, butler: Butler) -> None:
    assert len(butler.query_datasets("pvi")) == 6
    assert len(butler.query_datasets("sources_detector")) == 6
    listed = run_command(
        tool("butler"), "query-datasets", repository, "sources_detector", "--collections", OUTPUT
    )
    assert sum("sources_detector" in line for line in listed.splitlines()) >= 6
    ref = butler.query_datasets("pvi")[0]
    image = butler.get(ref)
    assert str(image.unit) == "nJy"
    assert str(image.variance.unit) == "nJy2"


def test_report_of_the_middleware_finds_no_failure(repository: Path) -> None:
    report = run_command(
        tool("pipetask"), "report", repository, repository / QUANTUM_GRAPH, "--collections", OUTPUT
    )
    rows = {line.split()[0]: line.split()[1:] for line in report.splitlines() if line.strip()}
    # Columns of datasets: visible, shadowed, predicted only, unsuccessful, cursed, total, expected.
    for name in (
        "calexp",
        "src",
        "finalVisitSummary",
        "pvi",
        "sources_detector",
        "sources_detector_footprints",
    ):
        assert rows[name] == ["6", "0", "0", "0", "0", "6", "6"], report


def matched_to_expected(
    butler: Butler, data_dir: Path, band: str
) -> tuple[astropy.table.Table, astropy.table.Table]:
    """Return our sources and the independent ones of run 4192 in a band: unflagged, within 1 px, S/N > 50."""
    path = data_dir / "sdss_stripe82" / "expected" / "lsst_sources_4192_gri.ecsv"
    expected = astropy.table.Table.read(path)
    expected = expected[expected["band"] == band]
    tables = tables_by_visit(butler, "sources_detector")
    (ours,) = [t for (v, b), t in tables.items() if b == band and SdssImager.unpack_visit(v)[0] == 4192]
    ours = ours[np.asarray(ours["detect_isPrimary"])]
    x, y = "base_SdssCentroid_x", "base_SdssCentroid_y"
    finite = np.isfinite(np.asarray(expected[x]) + np.asarray(expected[y]))
    expected = expected[finite]
    tree = KDTree(np.column_stack([ours[x], ours[y]]))
    distance, nearest = tree.query(np.column_stack([expected[x], expected[y]]))
    ours = ours[nearest]
    ratio = np.asarray(expected["base_PsfFlux_instFlux"] / expected["base_PsfFlux_instFluxErr"])
    good = (distance < 1.0) & (ratio > 50) & ~np.asarray(ours["base_PsfFlux_flag"])
    for flag in BAD_FLAGS:
        good &= ~np.asarray(ours[flag]) & ~np.asarray(expected[flag])
    return ours[good], expected[good]


@pytest.mark.parametrize("band", ["g", "r", "i"])
def test_agrees_with_independent_measurements(butler: Butler, data_dir: Path, band: str) -> None:
    """Run 4192 against what another system measured on the same frames.

    Its centroids in g are off by 0.035 pixel along the diagonal, on average: they disagree with the centroid
    of the adaptive moments on the same pixels, with which ours agree, as theirs do in r and i.  (A PSF
    off centre would do that: it is their filter.  That table does not carry its PSF, so it is not proven.)
    In g only what is left after that common offset is compared.
    """
    ours, expected = matched_to_expected(butler, data_dir, band)
    assert len(ours) > 30

    def ratio(*names: str) -> np.ndarray:
        return sum(np.asarray(ours[n]) for n in names) / sum(np.asarray(expected[n]) for n in names)

    dx, dy = (np.asarray(ours[n] - expected[n]) for n in ("base_SdssCentroid_x", "base_SdssCentroid_y"))
    common = (np.median(dx), np.median(dy)) if band == "g" else (0.0, 0.0)
    offset = np.hypot(dx - common[0], dy - common[1])
    for axis in "xy":
        moments = np.asarray(
            ours[f"base_SdssCentroid_{axis}"] - ours[f"ext_shapeHSM_HsmSourceMoments_{axis}"]
        )
        assert abs(np.median(moments)) < 0.005
    aperture = ratio("base_CircularApertureFlux_6_0_instFlux")
    psf = ratio("base_PsfFlux_instFlux")
    gaussian = ratio("base_GaussianFlux_instFlux")
    trace = ratio("base_SdssShape_xx", "base_SdssShape_yy")
    print(
        f"\n{band}: {len(ours)} sources; centroid difference {np.median(np.hypot(dx, dy)):.4f} px, "
        f"{np.median(offset):.4f} px about ({common[0]:.4f}, {common[1]:.4f})"
    )
    for label, values in (("6 px", aperture), ("PSF", psf), ("Gaussian", gaussian), ("trace", trace)):
        print(f"   {label:8} ratio {np.median(values):.5f}, scatter {sigma(values):.5f}")
    assert np.median(offset) < 0.02
    assert abs(np.median(aperture) - 1) < 0.005
    assert sigma(aperture) < 0.01
    assert abs(np.median(psf) - 1) < 0.015
    assert sigma(psf) < 0.02
    assert abs(np.median(trace) - 1) < 0.02


def test_isolated_stars_are_seen_in_all_visits(butler: Butler) -> None:
    """About 117 are expected, by a definition that is not known.

    The association wants clean flags and a size within 30 % of the PSF's in every single visit, which the
    faintest do not have.  How many there are depends on the cuts: 95 to 237 detections above S/N 8 recur,
    from size measures below 0.1 to none at all. Stars in blends that were split are not isolated.
    """
    cats = [butler.get(r) for r in butler.query_datasets("isolated_star_presource_associations")]
    counts = np.concatenate([np.asarray(c["nsource"]) for c in cats])
    print(f"\n{(counts == 6).sum()} of {len(counts)} isolated stars are seen in all six visits")
    assert 70 <= (counts == 6).sum() <= 120
    assert counts.max() == 6


def test_reserved_stars_are_the_same_in_every_visit_of_a_band(butler: Butler) -> None:
    star_of = {
        source: (ref.dataId["tract"], star)
        for ref in butler.query_datasets("isolated_star_presources")
        for source, star in butler.get(ref)["sourceId", "obj_index"].iterrows()
    }
    flags: dict[str, dict[tuple[int, int], set[bool]]] = {}
    for (_, band), table in tables_by_visit(butler, "finalized_src_table").items():
        for source_id, reserved in zip(table["id"], table["calib_psf_reserved"], strict=True):
            flags.setdefault(band, {}).setdefault(star_of[source_id], set()).add(bool(reserved))
    for band, by_star in flags.items():
        assert all(len(values) == 1 for values in by_star.values()), band
        fraction = np.mean([values == {True} for values in by_star.values()])
        print(f"\n{band}: {len(by_star)} candidate stars, {fraction:.3f} of them held out")
        assert 0.02 < fraction < 0.25


def test_final_psf_is_about_as_good_as_the_first_on_stars_it_has_not_seen(butler: Butler) -> None:
    numbers = visit_numbers(butler, collections=OUTPUT)
    for n in numbers:
        print(
            f"\n{n.visit} {n.band}: {n.reserved_stars} held out; "
            f"dT/T final {n.size_residual:+.4f} +- {n.size_scatter:.4f}, "
            f"first {n.first_size_residual:+.4f} +- {n.first_size_scatter:.4f}"
        )
    assert len(numbers) == 6
    final, first = (
        np.concatenate([s[k] for s in held_out_sizes(butler, collections=OUTPUT)]) for k in (0, 1)
    )
    print(
        f"\nall visits, {len(final)} held-out stars: final {np.median(final):+.4f} +- {sigma(final):.4f}, "
        f"first {np.median(first):+.4f} +- {sigma(first):.4f}"
    )
    assert abs(np.median(final)) < 0.01
    # The first PSF was fitted to most of the stars that the final one did not see. Each scatter is of some
    # thirty stars and known to 15 %, so this tells only that the final one is not much worse.
    assert sigma(final) < 1.4 * sigma(first)


def test_repeatability_between_epochs(butler: Butler) -> None:
    scatter = {b.band: b for b in repeatability(butler, collections=OUTPUT, skymap=SKYMAP)}
    for b in scatter.values():
        print(f"\n{b.band}: {b.stars} stars, {1000 * b.scatter:.1f} mmag")
    assert scatter["r"].scatter < 0.015
    assert scatter["i"].scatter < 0.015
    assert scatter["g"].scatter < 0.025


def test_zero_points_fit_the_reference_stars(butler: Butler) -> None:
    for ref in butler.query_datasets("calibrateImage_metadata"):
        metadata = butler.get(ref).to_dict()["calibrateImage:photometry"]
        scatter = metadata["zero_point_scatter"]
        print(
            f"\n{ref.dataId['visit']}: {metadata['zero_point']:.4f}, scatter {1000 * scatter:.1f} mmag, "
            f"{metadata['zero_point_stars']} stars"
        )
        assert scatter < 0.022


def first_visit(butler: Butler) -> int:
    return min(int(r.dataId["visit"]) for r in butler.query_datasets("sources_detector"))


def final_pass_again(repository: Path, visit: int, pipeline: str, output: str) -> None:
    run_command(
        tool("pipetask"), "run", "-b", repository, "-i", OUTPUT, "-o", output,
        "-p", f"resource://secondlight/pipelines/sdss/{pipeline}", "--register-dataset-types",
        "-d", f"instrument='SDSS' AND visit={visit} AND skymap='{SKYMAP}'",
    )  # fmt: skip


def assert_same_tables(butler: Butler, visit: int, output: str) -> None:
    data_id = {"instrument": "SDSS", "visit": visit, "detector": 4}
    first = butler.get("sources_detector", data_id)
    again = butler.get("sources_detector", data_id, collections=output)
    assert first.colnames == again.colnames
    for name in first.colnames:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(again[name]), err_msg=name)


@pytest.mark.parametrize("pipeline", ["secondlight.yaml#final_pass", "final-pass-by-visit.yaml"])
def test_running_again_gives_identical_tables(repository: Path, butler: Butler, pipeline: str) -> None:
    """The same tasks once more, and a whole visit in one job instead of detector by detector."""
    visit = first_visit(butler)
    output = f"demo/again/{pipeline.split('.')[0]}"
    final_pass_again(repository, visit, pipeline, output)
    assert_same_tables(butler, visit, output)
