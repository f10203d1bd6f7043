"""The packs load, and what they hold agrees with itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lsst.images.psfs import PointSpreadFunction

from secondlight.catalog.mask_planes import mask_of

from .pack import load_finalize_pack, load_pack

pytestmark = pytest.mark.realdata


def _check_stamps(psf: PointSpreadFunction, stamps: dict[str, np.ndarray], tolerance: float) -> None:
    for k in range(0, len(stamps["x"]), 3):
        x, y = float(stamps["x"][k]), float(stamps["y"][k])
        kernel = psf.compute_kernel_image(x=x, y=y)
        peak = stamps["peak"][k]
        np.testing.assert_allclose(kernel.array, stamps["kernel_image"][k], atol=tolerance * peak)
        star = psf.compute_stellar_image(x=x, y=y)
        assert (star.bbox.x.start, star.bbox.y.start) == tuple(stamps["image_xy0"][k])


@pytest.mark.parametrize("name", ["A", "B"])
def test_psf_reproduces_the_reference_stamps(data_dir: Path, name: str) -> None:
    pack = load_pack(data_dir, name)
    _check_stamps(pack.psf, pack.psf_stamps, 1e-6)


def test_finalize_psfs_reproduce_the_reference_stamps(data_dir: Path) -> None:
    pack = load_finalize_pack(data_dir)
    _check_stamps(pack.preliminary_psf, pack.preliminary_psf_stamps, 1e-6)
    _check_stamps(pack.final_psf, pack.final_psf_stamps, 1e-6)


@pytest.mark.parametrize("name", ["A", "B"])
def test_images_and_projection(data_dir: Path, name: str) -> None:
    pack = load_pack(data_dir, name)
    image = pack.input_image()
    assert (image.bbox.x.start, image.bbox.y.start) == tuple(pack.meta["xy0"])
    assert image.image.array.shape == tuple(pack.meta["shape"])
    rendered = pack.background_map()["subtracted"].field.render(image.bbox).array
    assert np.abs(rendered - pack.background).max() < 2.0**-9 + 1e-3
    repaired = pack.repaired_image()
    y, x, _ = pack.changed_pixels
    assert mask_of(repaired.mask, ["CR", "INTRP"])[y, x].all()
    rows = np.array(json.loads((pack.folder / "wcs_check.json").read_text())["rows"])
    sky = image.sky_projection.pixel_to_sky(x=rows[:, 0], y=rows[:, 1])
    np.testing.assert_allclose(sky.ra.deg, rows[:, 2], atol=1e-9)
    np.testing.assert_allclose(sky.dec.deg, rows[:, 3], atol=1e-9)
    expected = repaired.image.array * pack.photo_calib.mean
    np.testing.assert_allclose(pack.pvi().image.array, expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("name", ["A", "B"])
def test_catalogs(data_dir: Path, name: str) -> None:
    pack = load_pack(data_dir, name)
    assert np.array_equal(pack.footprints.ids, pack.sources["id"])
    assert np.array_equal(pack.footprints.parents, pack.sources["parent"])
    assert np.array_equal(
        pack.sources["slot_Centroid_x"], pack.sources["base_SdssCentroid_x"], equal_nan=True
    )
    assert "slot_Centroid_x" not in pack.sources.schema.names
    assert len(pack.detection.ids) == pack.meta["detection"]["numPos"]
    assert set(pack.noise_replaced.ids) <= set(pack.footprints.ids)
    assert len(pack.calib_sources)
    assert len(pack.truth)


def test_finalize_tables(data_dir: Path) -> None:
    pack = load_finalize_pack(data_dir)
    assert len(pack.src) == pack.meta["n_src"]
    assert len(pack.isolated_star_cat()) == pack.meta["n_isolated"]
    stars = pack.isolated_star_cat()["isolated_star_id"]
    assert np.isin(pack.isolated_concat_cat["isolated_star_id"], stars).all()
    assert pack.exposure().psf == pack.preliminary_psf
    stars = sum(len(pack.isolated_star_cat(t)) for t in pack.tracts)
    assert stars == len(pack.isolated_star_cat())
    assert np.isin(pack.selected_ids, pack.src["id"]).all()
    assert "base_PsfFlux_instFlux" in pack.final_aperture_corrections
    assert len(pack.finalized_src)
