"""A simulated scene from nothing to published images, and the same bits whatever the number of processes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lsst.daf.butler import Butler
from scipy.spatial import KDTree

from secondlight.photometry.restore import restore_counts

from .conftest import OUTPUT, run_command, tool

pytestmark = pytest.mark.slow

IMAGES = "SimCam/images"
WHERE = list(itertools.product((1001, 1003), (0, 1)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after `secondlight demo` on the tiny scene, with two processes."""
    root = tmp_path_factory.mktemp("simulated") / "repo"
    print(run_command(tool("secondlight"), "demo", root, "--scene", "tiny", "-j", "2"))
    return root


@pytest.fixture(scope="module")
def butler(root: Path) -> Iterator[Butler]:
    with Butler.from_config(str(root), collections=[OUTPUT, IMAGES], instrument="SimCam") as butler:
        yield butler


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Butler]:
    """Another repository, simulated by a single process."""
    root = tmp_path_factory.mktemp("alone") / "repo"
    print(run_command(tool("secondlight"), "simulate", root, "--scene", "tiny"))
    with Butler.from_config(str(root), collections=IMAGES, instrument="SimCam") as butler:
        yield butler


@pytest.mark.parametrize(("visit", "detector"), WHERE)
def test_the_same_bits_from_any_number_of_processes(
    butler: Butler, alone: Butler, visit: int, detector: int
) -> None:
    one, two = (b.get("postISRCCD", exposure=visit, detector=detector) for b in (butler, alone))
    np.testing.assert_array_equal(one.image.array, two.image.array)
    np.testing.assert_array_equal(one.variance.array, two.variance.array)
    assert one.mask == two.mask
    assert butler.get("sim_artifacts", exposure=visit, detector=detector) == alone.get(
        "sim_artifacts", exposure=visit, detector=detector
    )
    truths = [b.get("sim_truth", visit=visit, detector=detector) for b in (butler, alone)]
    assert truths[0].colnames == truths[1].colnames
    for name in truths[0].colnames:
        np.testing.assert_array_equal(truths[0][name], truths[1][name])


@pytest.mark.parametrize("name", ["calexp", "pvi", "sources_detector", "sim_psf", "sim_background"])
def test_every_detector_of_every_visit_has_its_products(butler: Butler, name: str) -> None:
    refs = butler.query_datasets(name)
    assert sorted((int(r.dataId["visit"]), int(r.dataId["detector"])) for r in refs) == WHERE
    assert all(butler.stored(ref) for ref in refs)


@pytest.mark.parametrize(("visit", "detector"), WHERE)
def test_published_images_lead_back_to_every_pixel(butler: Butler, visit: int, detector: int) -> None:
    """Through files, with cosmic rays, and provenance that names the input."""
    where = {"visit": visit, "detector": detector}
    image, counts = butler.get("pvi", **where), butler.get("postISRCCD", exposure=visit, detector=detector)
    replaced = butler.get("pvi_replaced_pixels", **where)
    assert replaced.meta["exact"]
    restored = restore_counts(image, butler.get("pvi_background", **where), replaced_pixels=replaced)
    np.testing.assert_array_equal(restored.image.array, counts.image.array)
    np.testing.assert_allclose(restored.variance.array, counts.variance.array, rtol=3e-7)
    for metadata in (image.metadata, replaced.meta, butler.get("sources_detector", **where).meta):
        (exposure,) = json.loads(metadata["provenance_inputs"])["exposures"]
        assert exposure["type"] == "postISRCCD"
        assert exposure["id"] == str(butler.find_dataset("postISRCCD", exposure=visit, detector=detector).id)
        assert exposure["data_id"] == {"instrument": "SimCam", "exposure": visit, "detector": detector}
        assert metadata["provenance_calibration_psf"] == "finalized_psf_ap_corr_catalog"


@pytest.mark.parametrize(("visit", "detector"), WHERE)
def test_the_final_summary_has_the_statistics_of_the_published_image(
    butler: Butler, visit: int, detector: int
) -> None:
    """All but those of the last mask and of the visit; stars and noise differ by the repaired pixels."""
    summary = butler.get("finalVisitSummary", visit=visit)
    foretold = summary.find(detector).summary_stats
    found = butler.get("pvi.summary_stats", visit=visit, detector=detector)
    assert found.metadata == foretold.metadata
    compared = 0
    for name in type(found).model_fields:
        one, two = getattr(foretold, name), getattr(found, name)
        if name.startswith("psfTE"):
            assert all(getattr(r.summary_stats, name) == pytest.approx(one, nan_ok=True) for r in summary)
        elif isinstance(one, float | int) and not name.endswith(("version", "Delta", "NearestPsf")):
            of_pixels = "star" in name.lower() or name in ("skyNoise", "meanVar")
            rel = 1e-2 if of_pixels else 1e-9
            assert two == pytest.approx(one, rel=rel, nan_ok=True), name
            compared += math.isfinite(one)
    assert compared > 30
    assert np.isfinite([foretold.magLim, foretold.effTime, foretold.psfTE3e1]).all()


@pytest.mark.parametrize(("visit", "detector"), WHERE)
def test_stars_are_found_where_they_are(butler: Butler, visit: int, detector: int) -> None:
    """Bright, isolated stars: the true position and, within what few reference stars allow, the true flux."""
    parameters = {"strip_astropy_meta_yaml": False}
    truth = butler.get("sim_truth", visit=visit, detector=detector, parameters=parameters)
    assert (truth.meta["visit"], truth.meta["detector"], truth.meta["scene"]) == (visit, detector, "tiny")
    good = (
        truth["is_star"] & (truth["snr"] > 100) & ~truth["saturated"] & (abs(truth["contamination"]) < 0.01)
    )
    truth = truth[good & np.isfinite(truth["peak"])]
    sources = butler.get("sources_detector", visit=visit, detector=detector)
    sources = sources[np.asarray(sources["detect_isPrimary"]) & ~np.asarray(sources["base_PsfFlux_flag"])]
    tree = KDTree(np.column_stack([sources["slot_Centroid_x"], sources["slot_Centroid_y"]]))
    distance, nearest = tree.query(np.column_stack([truth["x"], truth["y"]]))
    found = distance < 1.0
    assert found.sum() >= 4
    assert found.mean() > 0.7
    assert np.median(distance[found]) < 0.05
    ratio = np.asarray(sources["base_PsfFlux_flux"][nearest] / truth["flux"])[found]
    assert abs(np.median(ratio) - 1) < 0.05


def test_again_there_is_nothing_to_do(root: Path) -> None:
    said = run_command(tool("secondlight"), "simulate", root, "--scene", "tiny", "-j", "2")
    assert "Scene tiny: 2 visits, 2 detectors; it was in the repository already." in said
