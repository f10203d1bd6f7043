"""The source tables of the visits of a real run, as their users read them."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table, vstack
from lsst.daf.butler import Butler

from secondlight.photometry.published_columns import PUBLISHED_COLUMNS

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def tables(butler: Butler, name: str) -> list[Table]:
    """Return all tables of a dataset type, ordered by visit and detector."""
    refs = sorted(butler.query_datasets(name), key=lambda ref: ref.dataId.required_values)
    return [butler.get(ref) for ref in refs]


def test_visits_hold_the_sources_of_their_detectors(butler: Butler) -> None:
    whole = tables(butler, "source_all")
    detectors = vstack(tables(butler, "source_detector"), metadata_conflicts="silent")
    assert sum(map(len, whole)) == len(detectors)
    assert len(np.unique(detectors["sourceId"])) == len(detectors)
    for every, primary, rest in zip(
        whole, tables(butler, "source"), tables(butler, "source_nonprimary"), strict=True
    ):
        assert every.colnames == [column.name for column in PUBLISHED_COLUMNS]
        assert len(np.unique(every["visit"])) == 1
        flag = every["detect_isPrimary"]
        assert primary["sourceId"].tolist() == every["sourceId"][flag].tolist()
        assert rest["sourceId"].tolist() == every["sourceId"][~flag].tolist()
        assert not primary["sky_source"].any()
        assert not (primary["deblend_nChild"] > 0).any()


def test_numbers_are_those_that_were_measured(butler: Butler) -> None:
    for ref in butler.query_datasets("source_detector"):
        published = butler.get(ref)
        measured = butler.get("sources_detector", ref.dataId)
        assert published["sourceId"].tolist() == measured["id"].tolist()
        flux = measured["base_PsfFlux_instFlux"] * measured["base_LocalPhotoCalib"]
        np.testing.assert_allclose(published["psfFlux"], flux, rtol=1e-12)
        np.testing.assert_array_equal(published["calibFlux"], measured["slot_CalibFlux_flux"])
        np.testing.assert_array_equal(published["pixelFlags_cr"], measured["base_PixelFlags_flag_cr"])
        np.testing.assert_allclose(published["ra"], np.degrees(measured["coord_ra"]), rtol=1e-15)
        # The area of an ellipse of errors is that of the pixels, whatever way the frame is turned.
        scale = 3600 * np.degrees(np.sqrt(np.abs(_determinant(measured))))
        ra, dec, cov = (
            published[name].astype(float) * 3600**power
            for name, power in (("raErr", 1), ("decErr", 1), ("ra_dec_Cov", 2))
        )
        area = np.sqrt(ra**2 * dec**2 - cov**2)
        good = np.isfinite(area) & (published["psfFlux"] > 20 * published["psfFluxErr"])
        expected = scale**2 * published["xErr"].astype(float) * published["yErr"].astype(float)
        np.testing.assert_allclose(area[good], expected[good], rtol=1e-3)
        assert np.median(scale) == pytest.approx(0.396, abs=0.001)


def _determinant(table: Table) -> np.ndarray:
    cd = {f"{i}{j}": np.asarray(table[f"base_LocalWcs_CDMatrix_{i}_{j}"]) for i in (1, 2) for j in (1, 2)}
    return cd["11"] * cd["22"] - cd["12"] * cd["21"]


def test_files_tell_units_and_descriptions(butler: Butler) -> None:
    for name in ("sources_detector", "source_detector", "source_all", "source", "preSourceTable_visit"):
        ref = butler.query_datasets(name)[0]
        path = butler.getURI(ref).ospath
        table = Table.read(path, format="parquet")
        attrs = pd.read_parquet(path, columns=[table.colnames[0]]).attrs
        assert not table.has_masked_columns
        for column in table.columns.values():
            assert column.description, column.name
            assert attrs["descriptions"][column.name] == column.description
            if column.unit is not None:
                assert u.Unit(attrs["units"][column.name]) == column.unit
        assert table.meta["LSST.BUTLER.ID"] == str(ref.id)
        assert "provenance_task" in table.meta
