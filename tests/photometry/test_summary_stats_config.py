"""Configuration files of the reference load and set what they say, and the documentation names everything."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest
from lsst.images import ObservationSummaryStats
from lsst.images.serialization import ArchiveTree

from secondlight.photometry.depth import limiting_magnitude
from secondlight.photometry.summary_stats import ComputeExposureSummaryStatsConfig

BANDS = "ugrizy"
PSF_SIGMA = dict(zip(BANDS, (1.72, 1.63, 1.56, 1.51, 1.47, 1.44), strict=True))
SKY = dict(zip(BANDS, (1.51, 15.45, 32.95, 52.94, 79.40, 90.57), strict=True))
ZERO_POINT = dict(zip(BANDS, (26.56, 28.59, 28.50, 28.29, 27.90, 26.87), strict=True))
LIMIT = dict(zip(BANDS, (23.740, 25.056, 24.656, 24.244, 23.676, 22.602), strict=True))
DEFAULTS = {
    "sigmaClip": 3.0,
    "clipIter": 2,
    "badMaskPlanes": ["NO_DATA", "SUSPECT"],
    "starSelection": "calib_psf_used",
    "starShape": "slot_Shape",
    "psfShape": "slot_PsfShape",
    "starHigherOrderMomentBase": "ext_shapeHSM_HigherOrderMomentsSource",
    "psfHigherOrderMomentBase": "ext_shapeHSM_HigherOrderMomentsPSF",
    "psfSampling": 8,
    "psfGridSampling": 96,
    "minPsfApRadiusPix": 2.0,
    "psfApCorrFieldName": "base_PsfFlux_instFlux",
    "psfBadMaskPlanes": ["BAD", "CR", "EDGE", "INTRP", "NO_DATA", "SAT", "SUSPECT"],
    "maxEffectiveTransparency": float("inf"),
    "magLimSnr": 5.0,
}


def test_defaults() -> None:
    config = ComputeExposureSummaryStatsConfig()
    values = config.toDict()
    for name, expected in DEFAULTS.items():
        assert values[name] == expected, name
    fallbacks = {
        "SkyBackground": 1.0, "PsfSigma": 1.0, "ZeroPoint": 25.0, "ReadNoise": 9.0, "ExpTime": 30.0,
        "MagLim": 25.0,
    }  # fmt: skip
    for name, value in fallbacks.items():
        assert values[f"fiducial{name}"] == dict.fromkeys(BANDS, value)
    selector = config.starSelector["science"]
    assert config.starSelector.name == "science"
    assert (selector.doSignalToNoise, selector.doFlags) == (True, True)
    assert not any(
        (selector.doFluxLimit, selector.doUnresolved, selector.doIsolated, selector.doRequirePrimary)
    )
    assert selector.flags.good == ["calib_psf_used"]
    assert selector.flags.bad == ["slot_Shape_flag", "slot_PsfFlux_flag"]
    assert (selector.signalToNoise.minimum, selector.signalToNoise.maximum) == (50.0, 1000.0)
    for name, limits in {"psfTE1": (0, 1), "psfTE2": (5, 100), "psfTE3": (0, 5), "psfTE4": (5, 20)}.items():
        field = getattr(config, name)
        assert (field.min_sep, field.max_sep) == limits


def test_override_file_of_a_camera(tmp_path: Path) -> None:
    path = tmp_path / "camera.py"
    path.write_text(
        f"config.fiducialPsfSigma = {PSF_SIGMA}\n"
        f"config.fiducialSkyBackground = {SKY}\n"
        f"config.fiducialZeroPoint = {ZERO_POINT}\n"
        "config.fiducialReadNoise = {b: 9.0 for b in 'ugrizy'}\n"
        "config.fiducialExpTime = {b: 30.0 for b in 'ugrizy'}\n"
        "config.fiducialMagLim['r'] = 24.52\n"
        "config.maxEffectiveTransparency = 1.1\n"
        "config.psfHigherOrderMomentBase = 'other'\n"
        "config.starSelector['science'].signalToNoise.minimum = 20.0\n"
        "config.psfTE1.max_sep = 2.0\n"
    )
    config = ComputeExposureSummaryStatsConfig()
    config.load(str(path))
    config.validate()
    assert config.fiducialSkyBackground["y"] == 90.57
    assert config.fiducialMagLim["r"] == 24.52
    assert config.psfTE1.max_sep == 2.0


def test_documentation_names_every_statistic_and_field() -> None:
    text = (Path(__file__).parents[2] / "docs" / "summary_statistics.md").read_text()
    named = set(re.findall(r"`([A-Za-z0-9*]+)", text)) | {"psfTE2", "psfTE3"}
    statistics = set(ObservationSummaryStats.model_fields) - set(ArchiveTree.model_fields)
    for name in statistics | set(ComputeExposureSummaryStatsConfig().toDict()):
        assert any(fnmatch.fnmatch(name, pattern) for pattern in named), name


@pytest.mark.parametrize("band", BANDS)
def test_limits_under_fiducial_conditions(band: str) -> None:
    """The area of the PSF follows from its size as that of a von Karman profile does."""
    scale = 0.2
    fwhm = (2.355 * PSF_SIGMA[band] * scale - 0.052) / 0.822
    limit = limiting_magnitude(
        psf_area=2.266 * (fwhm / scale) ** 2,
        sky_background=SKY[band] * 30,
        zero_point=ZERO_POINT[band] + 2.5 * 1.4771212547196624,
        read_noise=9.0,
        gain=1.0,
    )
    assert limit == pytest.approx(LIMIT[band], abs=1e-3)
