from __future__ import annotations

import logging

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box, VisitImage
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import NoWorkFound

from secondlight.catalog.photo_calib import PhotoCalib
from secondlight.catalog.schema import minimal_source_schema
from secondlight.catalog.source_catalog import SourceCatalog
from secondlight.catalog.visit_image import replace_components
from secondlight.photometry.source_table import stack_source_tables
from secondlight.tasks.consolidate_visit_summary import ConsolidateVisitSummaryTask
from tests.scenes import make_visit_image

VISIT = 321


class Handle:
    """A deferred dataset that refuses to read the pixels of an image."""

    def __init__(self, value: object) -> None:
        self.value = value

    def get(self, *, component: str | None = None) -> object:
        """Return the dataset or a component of it."""
        if component is None:
            assert not isinstance(self.value, VisitImage), "pixels were read"
            return self.value
        return getattr(self.value, component)


def make_catalog(n: int, *, first_id: int, extra: bool = False) -> SourceCatalog:
    schema = minimal_source_schema()
    schema.add("deblend_nChild", np.int32, "children")
    for name in ("x", "y", "xErr", "yErr"):
        schema.add(f"base_SdssCentroid_{name}", np.float64, "position", unit="pix")
    schema.add_flag("base_SdssCentroid_flag", "bad centroid")
    for name in ("base_PsfFlux", "base_CircularApertureFlux_12_0", "base_NormalizedCompensatedTophatFlux"):
        schema.add(f"{name}_instFlux", np.float64, f"flux of {name}", unit="ct")
        schema.add(f"{name}_instFluxErr", np.float64, "error", unit="ct")
        schema.add_flag(f"{name}_flag", "bad")
    schema.add_flag("base_PixelFlags_flag", "bad")
    schema.add_flag("base_PixelFlags_flag_edge", "edge")
    if extra:
        schema.add_flag("base_PixelFlags_flag_streak", "trail")
    schema.add_flag("detect_isPrimary", "primary")
    schema.set_alias("slot_Centroid", "base_SdssCentroid")
    catalog = SourceCatalog(schema, n)
    catalog["id"] = first_id + np.arange(n)
    catalog["coord_ra"] = np.radians(150.0 + 0.01 * np.arange(n))
    catalog["coord_dec"] = np.radians(2.0)
    catalog["base_CircularApertureFlux_12_0_instFlux"] = 7.0
    catalog["base_PixelFlags_flag_edge"] = np.arange(n) == 1
    return catalog


def run(**inputs: object):  # type: ignore[no-untyped-def]
    return ConsolidateVisitSummaryTask().run(visit=VISIT, band="r", physical_filter="test_r", **inputs)  # type: ignore[arg-type]


def test_consolidates() -> None:
    images = {d: make_visit_image(visit=VISIT, detector=d) for d in (9, 4)}
    scaling = ChebyshevField(images[9].bbox, np.array([[3.0, 0.1]]), unit=u.nJy / u.adu)
    images[9] = replace_components(images[9], photometric_scaling=scaling, bounds=Box.factory[0:50, 0:60])
    result = run(
        instrument="TestCam",
        calexps={d: Handle(image) for d, image in images.items()},
        srcs={9: Handle(make_catalog(2, first_id=900)), 4: Handle(make_catalog(3, first_id=400))},
        initial_photo_calibs={4: Handle(PhotoCalib(12.3, 0.1))},
    )
    summary = result.visit_summary
    assert (summary.visit, summary.instrument, summary.band) == (VISIT, "TestCam", "r")
    assert summary.detectors == [4, 9]
    record = summary.find(4)
    assert record.psf is images[4].psf
    assert record.bbox == images[4].bbox
    assert record.sky_projection == images[4].sky_projection
    assert record.photo_calib == PhotoCalib(12.3, 0.1)
    assert record.valid_polygon is None
    assert record.obs_info.detector_num == 4
    assert summary.find(9).photo_calib.mean == pytest.approx(3.0)
    assert summary.find(9).photo_calib.field is not None
    assert summary.find(9).valid_polygon == Box.factory[0:50, 0:60]
    assert record.calibration_sources == {
        "psf": "calexp", "sky_projection": "calexp", "photo_calib": "initial_photoCalib_detector",
    }  # fmt: skip
    assert summary.find(9).calibration_sources["photo_calib"] == "calexp"

    table = result.source_table
    assert table["sourceId"].tolist() == [400, 401, 402, 900, 901]
    assert table["detector"].tolist() == [4, 4, 4, 9, 9]
    assert set(table["visit"]) == {VISIT}
    assert set(table["band"]) == {"r"}
    assert set(table["physical_filter"]) == {"test_r"}
    np.testing.assert_allclose(table["ra"], [150, 150.01, 150.02, 150, 150.01])
    assert table["ra"].unit == u.deg
    assert table["apFlux_12_0_instFlux"].unit == u.ct
    assert set(table["apFlux_12_0_instFlux"]) == {7.0}
    assert table["pixelFlags_edge"].tolist() == [False, True, False, False, True]
    wanted = {
        "x", "y", "xErr", "yErr", "centroid_flag", "parentSourceId", "deblend_nChild", "detect_isPrimary",
        "pixelFlags", "psfFlux_instFlux", "psfFlux_instFluxErr", "psfFlux_flag", "normCompTophatFlux_flag",
        "normCompTophatFlux_instFlux", "normCompTophatFlux_instFluxErr", "apFlux_12_0_flag",
    }  # fmt: skip
    assert wanted <= set(table.colnames)
    assert not any(name.startswith(("localBackground", "ixx", "base_")) for name in table.colnames)


def test_objects_instead_of_handles() -> None:
    result = run(calexps={4: make_visit_image()}, srcs={4: make_catalog(1, first_id=5)})
    assert result.visit_summary.find(4).photo_calib is None
    assert len(result.source_table) == 1


def test_incomplete_detectors_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    image, catalog = make_visit_image(), make_catalog(2, first_id=1)
    with caplog.at_level(logging.WARNING):
        result = run(calexps={4: image, 5: image}, srcs={4: catalog, 6: catalog})
    assert result.visit_summary.detectors == [4]
    assert "detector 5" in caplog.text
    assert "detector 6" in caplog.text
    with pytest.raises(NoWorkFound, match="Visit 321"):
        run(calexps={4: image}, srcs={5: catalog})


def test_detectors_must_agree_about_columns() -> None:
    image = make_visit_image()
    with pytest.raises(ValueError, match="detector 9 and 4 differ in the columns pixelFlags_streak"):
        run(
            calexps={4: image, 9: image},
            srcs={4: make_catalog(1, first_id=1), 9: make_catalog(1, first_id=2, extra=True)},
        )


def test_the_table_tells_what_made_it_and_not_what_made_its_pieces() -> None:
    image = make_visit_image()
    srcs = {d: make_catalog(1, first_id=d) for d in (4, 9)}
    for d, catalog in srcs.items():
        catalog.metadata |= {"provenance_task": "CalibrateImageTask", "detector": d, "list": [d]}
    for detectors in ([4], [4, 9]):
        table = run(
            calexps=dict.fromkeys(detectors, image), srcs={d: srcs[d] for d in detectors}
        ).source_table
        assert table.meta["provenance_task"].endswith("ConsolidateVisitSummaryTask")
        assert all(name.startswith("provenance_") for name in table.meta)
    assert srcs[4].metadata["detector"] == 4


def test_empty_catalog_of_a_detector() -> None:
    image = make_visit_image()
    srcs = {4: make_catalog(0, first_id=1), 9: make_catalog(2, first_id=2)}
    result = run(calexps={4: image, 9: image}, srcs=srcs)
    assert result.source_table["detector"].tolist() == [9, 9]
    assert len(stack_source_tables({4: result.source_table[:0]})) == 0
