"""Fast compression: every bit comes back, whoever reads, and configuration can choose another."""

from __future__ import annotations

import re
from pathlib import Path

import astropy.io.fits
import lsst.images.fits
import numpy as np
import pytest
from lsst.daf.butler import Butler, Config, DatasetType
from lsst.images import VisitImage
from lsst.images.serialization import read_archive

from secondlight.catalog.mask_planes import plane_name
from secondlight.instruments.fast_gzip import FastGzipOptions
from secondlight.instruments.ingest import ingest
from secondlight.instruments.repository import repository_config
from tests.instruments.files import camera, write_image
from tests.scenes import make_visit_image

_PLANES = ("image", "mask", "variance")


def _pixels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.normal(size=shape) * 1000).astype(dtype)


def _write(path, data, **options):
    hdu = FastGzipOptions(**options).make_hdu(data, "PIXELS")
    astropy.io.fits.HDUList([astropy.io.fits.PrimaryHDU(), hdu]).writeto(path)


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8", ">f4", "u1", "u2"])
@pytest.mark.parametrize("shape", [(300, 513), (256, 256), (1, 7)])
def test_every_pixel_comes_back(tmp_path, shape, dtype):
    data = _pixels(shape, "f8").clip(0).astype(dtype) if dtype[0] == "u" else _pixels(shape, dtype)
    _write(tmp_path / "a.fits", data)
    with astropy.io.fits.open(tmp_path / "a.fits") as hdus:
        hdus.verify("exception")
        np.testing.assert_array_equal(hdus["PIXELS"].data, data)


def test_every_bit_of_special_values_comes_back(tmp_path):
    data = _pixels((40, 50), "f4")
    data[0, :4] = [np.nan, np.inf, -np.inf, -0.0]
    data[1, 0] = np.array(0x7FC12345, "u4").view("f4")
    _write(tmp_path / "a.fits", data[:, ::2], tile_shape=(16, 11))
    with astropy.io.fits.open(tmp_path / "a.fits") as hdus:
        back = hdus["PIXELS"].data.astype("f4")
    np.testing.assert_array_equal(back.view("u4"), np.ascontiguousarray(data[:, ::2]).view("u4"))


@pytest.mark.parametrize("dtype", ["i4", "f4"])
def test_cfitsio_reads_it(tmp_path, dtype):
    fitsio = pytest.importorskip("fitsio")
    data = _pixels((300, 513), dtype)
    _write(tmp_path / "a.fits", data)
    np.testing.assert_array_equal(fitsio.read(str(tmp_path / "a.fits"), ext="PIXELS"), data)


@pytest.fixture(scope="module")
def image() -> VisitImage:
    """An image with a star, an origin, NaN pixels and mask planes."""
    made = make_visit_image(width=600, height=520, x0=5, y0=-3, x=[300.0], y=[250.0], flux=[1e5])
    made.variance.array[...] *= np.linspace(1, 1.1, 520, dtype=np.float32)[:, np.newaxis]
    made.image.array[7, 9] = np.nan
    made.mask.set(plane_name("SAT"), np.asarray(made.image.array > 500))
    made.mask.set(plane_name("BAD"), np.asarray(np.isnan(made.image.array)))
    made.metadata["NOTE"] = "kept"
    return made


def _assert_same(back: VisitImage, image: VisitImage) -> None:
    assert back.bbox == image.bbox
    assert back.unit == image.unit
    np.testing.assert_array_equal(back.image.array.view("u4"), image.image.array.view("u4"))
    np.testing.assert_array_equal(back.variance.array, image.variance.array)
    assert back.mask == image.mask
    assert back.metadata["NOTE"] == "kept"
    where = {"x": 300.0, "y": 250.0}
    expected = image.psf.compute_kernel_image(**where).array
    np.testing.assert_array_equal(back.psf.compute_kernel_image(**where).array, expected)


def test_an_image_comes_back_from_a_file_no_larger(tmp_path, image):
    sizes = []
    for name, options in (("usual", {}), ("fast", dict.fromkeys(_PLANES, FastGzipOptions()))):
        path = tmp_path / f"{name}.fits"
        lsst.images.fits.write(image, str(path), compression_options=options)
        _assert_same(read_archive(str(path), VisitImage), image)
        sizes.append(path.stat().st_size)
    assert sizes[1] < 1.02 * sizes[0]


def test_an_image_read_is_written_again(tmp_path, image):
    for path in (tmp_path / "a.fits", tmp_path / "b.fits"):
        options = dict.fromkeys(_PLANES, FastGzipOptions())
        lsst.images.fits.write(image, str(path), compression_options=options)
        image = read_archive(str(path), VisitImage)
    with (
        astropy.io.fits.open(tmp_path / "a.fits") as first,
        astropy.io.fits.open(tmp_path / "b.fits") as second,
    ):
        assert set(first["IMAGE"].header) == set(second["IMAGE"].header)


_RECIPES = """
datastore:
  formatters:
    write_recipes:
      secondlight.instruments.formatters.FastGzipFormatter:
        small:
          image:
            algorithm: RICE_1
            tile_shape: [32, 32]
            quantization: {dither: SUBTRACTIVE_DITHER_2, level: 64.0}
    pvi:
      formatter: secondlight.instruments.formatters.FastGzipFormatter
      parameters: {recipe: small}
    visit_image: lsst.images.formatters.GenericFormatter
"""


def test_configuration_chooses_a_compression(tmp_path):
    config = repository_config()
    config.update(Config.fromString(_RECIPES))
    root = str(tmp_path / "repo")
    butler = Butler.from_config(Butler.makeRepo(root, config=config), writeable=True)
    ingest(butler, camera(), [write_image(tmp_path)])
    data_id = {"instrument": "MyCam", "detector": 1}
    image = butler.get("postISRCCD", data_id, exposure=7, collections="MyCam/images")
    butler.collections.register("out")
    expected = {
        "pvi": ("RICE_1", 32, "RICE_1"),
        "visit_image": ("GZIP_2", 1, "GZIP_2"),
        "other_image": ("GZIP_2", 50, "RICE_1"),
    }
    for name, (algorithm, rows, mask_algorithm) in expected.items():
        dimensions = ("instrument", "visit", "detector")
        butler.registry.registerDatasetType(
            DatasetType(name, dimensions, "VisitImage", universe=butler.dimensions)
        )
        ref = butler.put(image, name, data_id, visit=7, run="out")
        with astropy.io.fits.open(butler.getURI(ref).ospath, disable_image_compression=True) as hdus:
            header = hdus["IMAGE"].header
            assert (header["ZCMPTYPE"], header["ZTILE2"]) == (algorithm, rows)
            assert hdus["MASK"].header["ZCMPTYPE"] == mask_algorithm
        back = butler.get(ref)
        step = np.sqrt(np.median(image.variance.array)) / 32 if algorithm == "RICE_1" else 0
        np.testing.assert_allclose(back.image.array, image.image.array, rtol=0, atol=step)
        np.testing.assert_array_equal(
            butler.get(ref.makeComponentRef("variance")).array, image.variance.array
        )
        assert back.mask == image.mask


def test_the_recipe_of_the_documentation_rounds_pixels_and_nothing_else(tmp_path, image):
    page = (Path(__file__).parents[2] / "docs" / "storage.md").read_text()
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    config = repository_config()
    config.update(Config.fromString(recipe))
    with Butler.from_config(Butler.makeRepo(str(tmp_path / "repo"), config=config), run="out") as butler:
        for name in ("pvi", "calexp"):
            butler.registry.registerDatasetType(
                DatasetType(name, (), "VisitImage", universe=butler.dimensions)
            )
            butler.put(image, name)
        small, plain = butler.get("pvi"), butler.get("calexp")
        assert butler.getURI("pvi").size() < 0.25 * butler.getURI("calexp").size()
    _assert_same(plain, image)
    assert small.mask == image.mask
    noise = np.sqrt(np.nanmedian(image.variance.array))
    difference = np.abs(small.image.array - image.image.array)
    assert 0 < np.nanmax(difference) < noise / 32
    assert np.isnan(small.image.array[7, 9])
