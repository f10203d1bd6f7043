"""FITS images of a made-up camera through the whole chain, good ones next to hopeless ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import astropy.io.fits
import numpy as np
import pytest
from lsst.daf.butler import Butler

from secondlight.instruments.camera_description import CameraDescription
from secondlight.instruments.choice import camera_instrument
from secondlight.instruments.ingest import ingest
from secondlight.instruments.repository import make_repository
from secondlight.sky.registration import register_sky_map
from secondlight.sky.sky_map import RingsSkyMap, RingsSkyMapConfig

from ..scenes import make_visit_image
from .conftest import run_command, tool

pytestmark = pytest.mark.slow

GOOD = (11, 12)
MASKED, STARLESS = 13, 14
SKY, SIZE, N = 300.0, 450, 49
SIDE = 7
ZERO_POINT = 27.5


def star_field(visit: int) -> np.ndarray:
    """Return the pixels of one visit: the same stars, moved by a dither, over a flat sky."""
    rng = np.random.default_rng(3)
    grid = 40 + 60 * np.arange(SIDE)
    x, y = (a.ravel() + rng.uniform(-4, 4, N) for a in np.meshgrid(grid, grid))
    flux = np.exp(rng.uniform(np.log(6e3), np.log(2e5), N))
    dither = 5.3 * (visit - GOOD[0])
    if visit == STARLESS:
        x, y, flux = np.zeros((3, 0))
    image = make_visit_image(
        width=SIZE, height=SIZE, x=x + dither, y=y, flux=flux,
        noise=10.0, gain=2.0, background=SKY, seed=visit,
    )  # fmt: skip
    return image.image.array


def write_visit(folder: Path, visit: int) -> None:
    """Write the image, the weight map and the mask of one visit; all of the masked one is bad."""
    header = astropy.io.fits.Header(
        {
            "EXPNUM": visit, "CCD": 1, "FILTER": "r", "EXPTIME": 20.0, "MAGZP": ZERO_POINT,
            "DATE-OBS": f"2024-03-01T05:{visit:02d}:00", "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN",
            "CRVAL1": 30.0, "CRVAL2": -5.0, "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600,
            "CRPIX1": SIZE / 2 + 5.3 * (visit - GOOD[0]), "CRPIX2": SIZE / 2,
        }
    )  # fmt: skip
    pixels = star_field(visit)
    astropy.io.fits.PrimaryHDU(pixels, header).writeto(folder / f"v{visit}_sci.fits")
    weight = 1.0 / (100.0 + np.maximum(pixels - SKY, 0) / 2.0)
    astropy.io.fits.PrimaryHDU(weight.astype(np.float32)).writeto(folder / f"v{visit}_wht.fits")
    mask = np.full(pixels.shape, visit == MASKED, dtype=np.uint8)
    astropy.io.fits.PrimaryHDU(mask).writeto(folder / f"v{visit}_msk.fits")


@pytest.fixture(scope="module")
def butler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Butler]:
    """The outputs of the whole chain on two good visits, one all masked and one without stars."""
    folder = tmp_path_factory.mktemp("frames")
    for visit in (*GOOD, MASKED, STARLESS):
        write_visit(folder, visit)
    root = tmp_path_factory.mktemp("own") / "repo"
    description = {
        "name": "OwnCam", "files": "*_sci.fits", "visit": "EXPNUM", "detector": "CCD",
        "noise": {"file": "_sci->_wht"},
        "mask": {"file": "_sci->_msk"}, "zero_point": "MAGZP",
    }  # fmt: skip
    with make_repository(root) as repository:
        register_sky_map(RingsSkyMap(RingsSkyMapConfig(numRings=3)), repository, "rings3")
        camera = camera_instrument(CameraDescription.model_validate(description))
        assert len(ingest(repository, camera, [folder]).ingested) == 4
    run_command(
        tool("secondlight"), "run", root, "-i", "OwnCam/images,skymaps", "-o", "own/run",
        "-d", "skymap='rings3'", "--no-raise-on-partial-outputs",
        "-c", "calibrateImage:psf_measure_psf.psfDeterminer.active.modelSize=17",
        "-c", "finalizeCharacterizationDetector:psf_determiner.active.modelSize=17",
    )  # fmt: skip
    with Butler.from_config(str(root), collections="own/run") as result:
        yield result


def visits_with(butler: Butler, name: str) -> set[int]:
    refs = butler.query_datasets(name, explain=False)
    assert all(butler.stored(ref) for ref in refs)
    return {int(ref.dataId["visit"]) for ref in refs}


@pytest.mark.parametrize(
    "name", ["calexp", "src", "visitSummary", "finalVisitSummary", "pvi", "sources_detector"]
)
def test_only_good_visits_have_products_and_those_are_complete(butler: Butler, name: str) -> None:
    assert visits_with(butler, name) == set(GOOD)


def test_hopeless_images_end_with_a_recorded_reason(butler: Butler) -> None:
    reasons = {}
    for ref in butler.query_datasets("calibrateImage_metadata"):
        metadata = butler.get(ref).to_dict()
        if "failure" in metadata.get("calibrateImage", {}):
            reasons[int(ref.dataId["visit"])] = metadata["calibrateImage"]["failure"]["type"]
    assert set(reasons) == {MASKED, STARLESS}
    assert reasons[MASKED].endswith("TooManyMaskedPixelsError")


def test_calibrated_fluxes_are_those_put_in(butler: Butler) -> None:
    rng = np.random.default_rng(3)
    rng.uniform(-4, 4, (2, N))
    truth = np.sort(ZERO_POINT - 2.5 * np.log10(np.exp(rng.uniform(np.log(6e3), np.log(2e5), N))))
    for visit in GOOD:
        table = butler.get("sources_detector", instrument="OwnCam", visit=visit, detector=1)
        bright = table[np.asarray(table["base_PsfFlux_instFlux"] / table["base_PsfFlux_instFluxErr"]) > 20]
        magnitudes = np.sort(np.asarray(bright["base_PsfFlux_mag"]))
        assert len(magnitudes) == N
        assert abs(np.median(magnitudes - truth)) < 0.005


def test_isolated_stars_are_seen_in_both_visits(butler: Butler) -> None:
    cats = [butler.get(r) for r in butler.query_datasets("isolated_star_presource_associations")]
    counts = np.concatenate([np.asarray(c["nsource_r"]) for c in cats if len(c)])
    assert (counts == 2).sum() > 0.8 * N
