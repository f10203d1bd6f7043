"""How things are stored in a repository."""

from __future__ import annotations

import astropy.io.fits
import numpy as np
import pytest
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetType

from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.instruments.files import InputFileError
from secondlight.instruments.ingest import ingest
from secondlight.instruments.reference_catalog import ingest_reference_catalog, read_reference_catalog
from secondlight.instruments.repository import make_repository
from secondlight.psf.survey_psf import SurveyPsf
from tests.instruments.files import camera, write_image


def test_intermediates_are_plain_and_final_images_compressed(tmp_path):
    butler = make_repository(tmp_path / "repo")
    ingest(butler, camera(), [write_image(tmp_path)])
    data_id = {"instrument": "MyCam", "detector": 1}
    image = butler.get("postISRCCD", data_id, exposure=7, collections="MyCam/images")
    butler.collections.register("out")
    dimensions = ("instrument", "visit", "detector")
    for name, compressed in (("calexp", False), ("pvi", True)):
        butler.registry.registerDatasetType(
            DatasetType(name, dimensions, "VisitImage", universe=butler.dimensions)
        )
        ref = butler.put(image, name, data_id, visit=7, run="out")
        with astropy.io.fits.open(butler.getURI(ref).ospath, disable_image_compression=True) as hdus:
            assert ("ZIMAGE" in hdus["IMAGE"].header) is compressed
        back = butler.get(ref)
        np.testing.assert_array_equal(back.image.array, image.image.array)
        np.testing.assert_array_equal(back.variance.array, image.variance.array)
        assert back.mask == image.mask
        assert back.metadata["INPUT_FILE"] == "v7_d1_sci.fits"


def test_a_repository_is_not_overwritten(tmp_path):
    make_repository(tmp_path / "repo")
    before = (tmp_path / "repo" / "butler.yaml").read_text()
    with pytest.raises(FileExistsError, match="is a data repository already"):
        make_repository(tmp_path / "repo")
    assert (tmp_path / "repo" / "butler.yaml").read_text() == before


def test_storage_classes_come_with_the_repository(tmp_path):
    make_repository(tmp_path / "repo").close()
    butler = Butler.from_config(str(tmp_path / "repo"))
    for name, pytype in (("SourceCatalogV2", SourceCatalog), ("SurveyPsf", SurveyPsf)):
        assert butler.storageClasses.getStorageClass(name).pytype is pytype


@pytest.mark.realdata
def test_reference_catalog(tmp_path, data_dir):
    butler = make_repository(tmp_path / "repo")
    path = data_dir / "sdss_stripe82" / "refcat" / "stars.fits"
    assert ingest_reference_catalog(butler, path)
    assert not ingest_reference_catalog(butler, path)
    stored = butler.get("photometric_refcat", collections="refcats")
    original = Table.read(path)
    assert len(stored) == 2854
    np.testing.assert_array_equal(stored["mag_r"], original["r"])
    np.testing.assert_array_equal(stored["mag_err_g"], original["g_err"])
    np.testing.assert_array_equal(stored["is_star"], original["starnotgal"] == 1)
    assert str(stored["ra"].unit) == "deg"


def test_reference_catalog_errors(tmp_path):
    path = tmp_path / "table.ecsv"
    with pytest.raises(InputFileError, match=r"table.ecsv: the file does not exist"):
        read_reference_catalog(path)
    Table({"ra": [1.0], "mag_r": [20.0]}).write(path)
    with pytest.raises(InputFileError, match=r"table.ecsv: has no column dec"):
        read_reference_catalog(path)
    Table({"ra": [1.0], "dec": [2.0], "x": [3]}).write(path, overwrite=True)
    with pytest.raises(InputFileError, match="no magnitudes"):
        read_reference_catalog(path)
    Table({"ra": [1.0], "dec": [2.0], "mag_r": [20.0]}).write(path, overwrite=True)
    table = read_reference_catalog(path)
    assert table["is_star"].all()
    assert np.isnan(table["mag_err_r"]).all()
    path.write_text("this is no table\n{")
    with pytest.raises(InputFileError, match="cannot be read as a table"):
        read_reference_catalog(path)
