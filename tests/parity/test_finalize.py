"""The final characterization of one detector against the reference's results for the same inputs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from lsst.pipe.base import Struct

from secondlight.psf.evaluation import kernel_stamps, psf_shapes, stellar_stamps
from secondlight.tasks.finalize_characterization import (
    FinalizeCharacterizationDetectorConfig,
    FinalizeCharacterizationDetectorTask,
)

from .agreement import exemption
from .characterization import characterize, final_spreads
from .pack import FinalizePack, load_finalize_pack

pytestmark = pytest.mark.realdata

# Largest relative differences of a correction and of its error.  Small apertures are shifted as a whole here;
# the reference's composite models do not repeat, and its errors are those before the last clip.
AP_CORR_LIMITS = {
    r"ext_convolved_ConvolvedFlux_[0-3]_3_3": (0.05, 0.6),
    r"modelfit_CModel": (2e-3, 0.25),
    r"ext_gaap": (5e-4, 0.02),
    r"(ext_convolved|ext_photometryKron)": (1e-4, 0.02),
    r"base_": (1e-6, 1e-4),
}


@pytest.fixture(scope="module")
def pack(data_dir: Path) -> FinalizePack:
    if not (data_dir / "parity" / "B").is_dir():
        pytest.skip(f"parity pack {data_dir / 'parity' / 'B'} is absent")
    return load_finalize_pack(data_dir)


@pytest.fixture(scope="module")
def task() -> FinalizeCharacterizationDetectorTask:
    return FinalizeCharacterizationDetectorTask(config=FinalizeCharacterizationDetectorConfig())


@pytest.fixture(scope="module")
def result(pack: FinalizePack, data_dir: Path) -> Struct:
    return characterize(data_dir)


def test_same_sources_are_selected(pack: FinalizePack, task: FinalizeCharacterizationDetectorTask) -> None:
    selected = task.source_selector.select_sources(pack.src)
    np.testing.assert_array_equal(pack.src["id"][selected], pack.selected_ids)


def test_same_stars_are_reserved(pack: FinalizePack, task: FinalizeCharacterizationDetectorTask) -> None:
    """All columns agree but the index and count of sources, which the reference leaves as they were."""
    isolated = task.concat_isolated_star_cats(
        "r",
        {tract: pack.isolated_star_cat(tract) for tract in pack.tracts},
        {tract: pack.isolated_star_sources(tract) for tract in pack.tracts},
        visit=pack.visit,
        detector=pack.detector,
    )
    assert isolated.sources is not None
    assert isolated.stars is not None
    for ours, theirs in (
        (isolated.sources, pack.isolated_concat_sources),
        (isolated.stars, pack.isolated_concat_cat),
    ):
        assert set(ours.colnames) == set(theirs.colnames)
        for name in set(theirs.colnames) - {"source_cat_index_r", "nsource_r"}:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    first = isolated.stars["source_cat_index_r"][isolated.stars["nsource_r"] > 0]
    np.testing.assert_array_equal(
        isolated.sources["obj_index"][first], np.flatnonzero(isolated.stars["nsource_r"])
    )


def test_flags_and_copied_columns(pack: FinalizePack, result: Struct) -> None:
    ours, theirs = result.output_table, pack.finalized_src
    for name in (
        "id", "coord_ra", "coord_dec", "parent", "slot_Centroid_x", "slot_Centroid_y",
        "slot_Centroid_flag", "slot_ApFlux_instFlux", "slot_CalibFlux_instFlux", "slot_CalibFlux_flag",
        "calib_psf_selection_flux", "calib_psf_selection_flux_err", "calib_psf_candidate",
        "calib_psf_reserved", "calib_psf_used", "psf_max_value", "psf_color_type",
    ):  # fmt: skip
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert ours["calib_psf_used"].sum() == pack.meta["n_used"]


def test_psf(pack: FinalizePack, result: Struct) -> None:
    psf = result.psf_ap_corr_cat.find(pack.detector).psf
    stored = pack.final_psf_stamps
    kernels = kernel_stamps(psf, x=stored["x"], y=stored["y"])
    stars = stellar_stamps(psf, x=stored["x"], y=stored["y"])
    np.testing.assert_array_equal(np.stack([stars.x0, stars.y0], axis=-1), stored["image_xy0"])
    peak = stored["kernel_image"].max()
    kernel_difference = np.abs(kernels - stored["kernel_image"]).max() / peak
    star_difference = np.abs(stars.images - stored["image"]).max() / peak
    print(f"PSF: kernel {kernel_difference:.1e}, stellar {star_difference:.1e} of the peak")
    assert max(kernel_difference, star_difference) < 1e-6
    shapes = psf_shapes(psf, x=stored["x"], y=stored["y"])
    for k, axis in enumerate(("xx", "yy", "xy")):
        np.testing.assert_allclose(shapes[:, k], stored[f"shape_{axis}"], atol=1e-5)


@pytest.mark.parametrize("kind", ["instFlux", "instFluxErr"])
def test_aperture_corrections(pack: FinalizePack, result: Struct, kind: str) -> None:
    """Every flux has the reference's correction, within what is listed of it."""
    ours = result.psf_ap_corr_cat.find(pack.detector).aperture_corrections
    theirs = pack.final_aperture_corrections
    assert set(ours) == set(theirs)
    x, y = np.meshgrid(
        np.linspace(pack.bbox.x.min, pack.bbox.x.max, 9), np.linspace(pack.bbox.y.min, pack.bbox.y.max, 9)
    )
    fields = {name: (ours[name](x=x, y=y), theirs[name](x=x, y=y)) for name in theirs if name.endswith(kind)}
    assert len(fields) == len(theirs) / 2
    for name, (field, reference) in fields.items():
        if np.isnan(reference).all() or not reference.any():
            assert np.isnan(field).all() or not field.any(), name
            continue
        difference = np.abs(field / reference - 1).max()
        allowed = next(limits for pattern, limits in AP_CORR_LIMITS.items() if re.match(pattern, name))
        print(f"{name}: {difference:.1e}")
        assert difference < allowed[kind != "instFlux"], name
    # Carried over from the image.
    carried = "base_CompensatedTophatFlux_12_instFlux"
    np.testing.assert_array_equal(ours[carried](x=x, y=y), theirs[carried](x=x, y=y))


def test_every_column(data_dir: Path) -> None:
    """As near to the reference as to runs with other noise, or different for a listed reason."""
    found = final_spreads(data_dir)
    bad = [s for s in found.values() if not s.in_parity and exemption(s.column) is None]
    assert not bad, "\n".join(map(str, bad))
    assert len(found) > 470


def test_columns_exist(pack: FinalizePack, result: Struct) -> None:
    """What the tables do not share is the time that fits took, and more flags than the reference has."""
    ours, theirs = set(result.output_table.colnames), set(pack.finalized_src.to_astropy().colnames)
    assert all(name.endswith("_time") for name in theirs - ours)
    assert all(name.startswith("ext_gaap_GaapFlux_flag_badCentroid") for name in ours - theirs)


def test_fluxes_and_shapes(pack: FinalizePack, result: Struct) -> None:
    """With our own PSF and noise the stars have the reference's fluxes and shapes."""
    ours, theirs = result.output_table, pack.finalized_src
    for name in (
        "base_PsfFlux_instFlux", "base_PsfFlux_instFluxErr", "base_GaussianFlux_instFlux",
        "slot_Shape_xx", "slot_Shape_yy", "slot_Shape_xy", "slot_PsfShape_xx", "slot_PsfShape_yy",
    ):  # fmt: skip
        scale = np.abs(theirs[name])
        difference = np.max(np.abs(ours[name] - theirs[name]) / scale)
        print(f"{name}: {difference:.1e}")
        assert difference < 1e-6, name
