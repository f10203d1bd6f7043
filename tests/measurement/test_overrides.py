"""Override files written for the reference load unchanged, and the defaults are the reference's."""

from __future__ import annotations

import io

import lsst.pex.config as pex_config
import pytest

from secondlight.measurement.plugin import plugin_registry
from secondlight.measurement.task import SingleFrameMeasurementConfig
from secondlight.tasks.finalize_characterization import FinalizeCharacterizationDetectorConfig
from secondlight.tasks.finalize_characterization_visit import FinalizeCharacterizationConfig
from secondlight.tasks.reprocess_visit_image import ReprocessVisitImageConfig, ReprocessVisitImageTask

REPROCESS = """
config.do_use_sky_corr = True
config.remove_initial_photo_calib = False
config.do_apply_flat_background_ratio = False
config.id_generator.release_id = 3
config.copyMaskPlanes = ["SPIKE"]
config.detection.reEstimateBackground = False
config.detection.doTempLocalBackground = False
config.measurement.plugins["base_CircularApertureFlux"].radii = [3.0, 6.0, 12.0]
config.measurement.plugins["base_CircularApertureFlux"].maxSincRadius = 12.0
config.measurement.plugins.names |= ["base_Jacobian", "base_FPPosition", "ext_photometryKron_KronFlux"]
config.measurement.plugins.names |= [
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "ext_shapeHSM_HigherOrderMomentsSource",
    "ext_shapeHSM_HigherOrderMomentsPSF",
    "ext_shapeHSM_HsmPsfMomentsDebiased",
]
config.measurement.slots.shape = "ext_shapeHSM_HsmSourceMoments"
config.measurement.slots.psfShape = "ext_shapeHSM_HsmPsfMoments"
config.measurement.plugins["ext_shapeHSM_HsmShapeRegauss"].deblendNChild = "deblend_nChild"
config.measurement.plugins["base_Jacobian"].pixelScale = 0.2
config.measurement.plugins["base_PixelFlags"].masksFpAnywhere = ["SPIKE"]
config.measurement.plugins["base_PixelFlags"].masksFpCenter = ["SPIKE"]
config.measurement.plugins.names.remove("base_LocalBackground")
config.measurement.undeblended.names = ["base_PsfFlux"]
config.measurement.undeblended["base_PsfFlux"].badMaskPlanes = ["BAD"]
config.measurement.doReplaceWithNoise = True
config.measurement.noiseReplacer.noiseSource = "variance"
config.measurement.noiseReplacer.noiseSeedMultiplier = 2
config.normalized_calibration_flux.do_measure_ap_corr = False
config.apply_aperture_correction.ignoreList = ["base_GaussianFlux"]
config.catalog_calculation.plugins["base_ClassificationExtendedness"].fluxRatio = 0.985
config.post_calculations.plugins.names = ["base_LocalPhotoCalib", "base_LocalWcs"]
config.post_calculations.doReplaceWithNoise = False
config.post_calculations.slots.centroid = None
config.post_calculations.slots.shape = None
config.post_calculations.slots.psfShape = None
config.post_calculations.slots.apFlux = None
config.post_calculations.slots.modelFlux = None
config.post_calculations.slots.psfFlux = None
config.post_calculations.slots.gaussianFlux = None
config.post_calculations.slots.calibFlux = None
"""

FIDUCIALS = """
config.compute_summary_stats.fiducialPsfSigma = {
    "u": 1.72, "g": 1.63, "r": 1.56, "i": 1.51, "z": 1.47, "y": 1.44
}
config.compute_summary_stats.fiducialSkyBackground = {
    "u": 1.51, "g": 15.45, "r": 32.95, "i": 52.94, "z": 79.40, "y": 90.57
}
config.compute_summary_stats.fiducialZeroPoint = {
    "u": 26.56, "g": 28.59, "r": 28.50, "i": 28.29, "z": 27.90, "y": 26.87
}
config.compute_summary_stats.fiducialMagLim = {
    "u": 23.70, "g": 24.97, "r": 24.52, "i": 24.13, "z": 23.56, "y": 22.55
}
config.compute_summary_stats.fiducialReadNoise = {band: 9.0 for band in "ugrizy"}
config.compute_summary_stats.fiducialExpTime = {band: 30.0 for band in "ugrizy"}
"""

FINALIZE = """
config.source_selector["science"].doFlags = True
config.source_selector["science"].doSignalToNoise = True
config.source_selector["science"].signalToNoise.minimum = 50.0
config.source_selector["science"].signalToNoise.maximum = 1000.0
config.source_selector["science"].signalToNoise.fluxField = "base_GaussianFlux_instFlux"
config.source_selector["science"].signalToNoise.errField = "base_GaussianFlux_instFluxErr"
config.measure_ap_corr.sourceSelector["science"].doFlags = False
config.measure_ap_corr.sourceSelector["science"].doUnresolved = False
config.measure_ap_corr.sourceSelector["science"].signalToNoise.minimum = 150.0
config.measure_ap_corr.allowFailure += ["ext_photometryKron_KronFlux"]
config.measure_ap_corr.fitConfig.orderX = 1
config.measure_ap_corr.fitConfig.orderY = 1
config.apply_ap_corr.doFlagApCorrFailures = True
config.measurement.plugins.names = [
    "base_FPPosition",
    "base_PsfFlux",
    "base_GaussianFlux",
    "ext_photometryKron_KronFlux",
    "ext_shapeHSM_HsmShapeRegauss",
    "ext_shapeHSM_HsmSourceMoments",
    "ext_shapeHSM_HsmPsfMoments",
    "ext_shapeHSM_HsmSourceMomentsRound",
    "ext_shapeHSM_HigherOrderMomentsSource",
    "ext_shapeHSM_HigherOrderMomentsPSF",
]
config.measurement.slots.modelFlux = "base_GaussianFlux"
config.measurement.slots.shape = "ext_shapeHSM_HsmSourceMoments"
config.measurement.slots.psfShape = "ext_shapeHSM_HsmPsfMoments"
config.measurement.slots.centroid = None
config.measurement.slots.apFlux = None
config.measurement.slots.calibFlux = None
config.measurement.plugins["ext_shapeHSM_HsmShapeRegauss"].deblendNChild = ""
config.measurement.plugins["base_PixelFlags"].masksFpAnywhere = ["STREAK"]
config.measurement.plugins["base_PixelFlags"].masksFpCenter = ["STREAK"]
"""

# Field names and defaults of spec reprocess 17 and finalize 8.
FIELDS = {
    "base_SdssCentroid": {
        "binmax": 16, "peakMin": -1.0, "wfac": 1.5, "doFootprintCheck": True, "maxDistToPeak": 1.0,
    },
    "base_SdssShape": {
        "background": 0.0, "maxIter": 100, "maxShift": 0.0, "tol1": 1e-5, "tol2": 1e-4, "doMeasurePsf": True,
    },
    "base_GaussianFlux": {"background": 0.0},
    "base_PsfFlux": {"badMaskPlanes": []},
    "base_CircularApertureFlux": {
        "radii": [3.0, 4.5, 6.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0],
        "maxSincRadius": 10.0, "shiftKernel": "lanczos5",
    },
    "base_CompensatedTophatFlux": {"apertures": [12], "inner_scale": 1.0, "outer_scale": 1.7},
    "base_CompensatedGaussianFlux": {"kernel_widths": [3, 5], "t": 2.0},
    "base_Variance": {"scale": 5.0, "mask": ["DETECTED", "DETECTED_NEGATIVE", "BAD", "SAT"]},
    "base_LocalBackground": {
        "badMaskPlanes": ["BAD", "SAT", "NO_DATA"], "annulusInner": 7.0, "annulusOuter": 15.0, "bgRej": 3.0,
        "bgIter": 3,
    },
    "base_Blendedness": {"doOld": True, "doFlux": True, "doShape": True, "nSigmaWeightMax": 3.0},
    "base_SkyCoord": {},
    "base_Jacobian": {"pixelScale": 0.5},
    "base_FPPosition": {},
    "base_PixelFlags": {"masksFpAnywhere": [], "masksFpCenter": []},
    "base_ClassificationSizeExtendedness": {"exponent": 0.5},
    "base_LocalPhotoCalib": {},
    "base_LocalWcs": {},
    "ext_shapeHSM_HsmSourceMoments": {
        "roundMoments": False, "addFlux": False, "subtractCenter": False, "badMaskPlanes": ["BAD", "SAT"],
    },
    "ext_shapeHSM_HsmSourceMomentsRound": {
        "roundMoments": True, "addFlux": False, "subtractCenter": False, "badMaskPlanes": ["BAD", "SAT"],
    },
    "ext_shapeHSM_HsmPsfMoments": {
        "roundMoments": False, "addFlux": False, "subtractCenter": True, "useSourceCentroidOffset": False,
    },
    "ext_shapeHSM_HsmPsfMomentsDebiased": {"useSourceCentroidOffset": True, "seedOffset": 0},
    "ext_shapeHSM_HsmShapeRegauss": {"deblendNChild": "", "badMaskPlanes": ["BAD", "SAT"]},
    "ext_shapeHSM_HsmShapeBj": {"deblendNChild": "", "badMaskPlanes": ["BAD", "SAT"]},
    "ext_shapeHSM_HsmShapeLinear": {"deblendNChild": "", "badMaskPlanes": ["BAD", "SAT"]},
    "ext_shapeHSM_HsmShapeKsb": {"deblendNChild": "", "badMaskPlanes": ["BAD", "SAT"]},
    "ext_shapeHSM_HigherOrderMomentsSource": {
        "min_order": 3, "max_order": 4, "badMaskPlanes": ["BAD", "SAT"], "setMaskedPixelsToZero": False,
    },
    "ext_shapeHSM_HigherOrderMomentsPSF": {
        "min_order": 3, "max_order": 4, "useSourceCentroidOffset": False,
    },
    "ext_photometryKron_KronFlux": {
        "fixed": False, "nSigmaForRadius": 6.0, "nIterForRadius": 1, "nRadiusForFlux": 2.5,
        "maxSincRadius": 10.0, "minimumRadius": 0.0, "enforceMinimumRadius": True,
        "useFootprintRadius": False, "smoothingSigma": -1.0,
        "refRadiusName": "ext_photometryKron_KronFlux_radius", "maxRadius": 200.0,
    },
}  # fmt: skip


def load(config: pex_config.Config, text: str) -> pex_config.Config:
    """Load overrides as ``pipetask -C`` does, and check the outcome."""
    config.loadFromStream(io.StringIO(text), filename="overrides.py")
    config.validate()
    return config


def test_overrides_of_the_final_pass() -> None:
    config = load(ReprocessVisitImageConfig(), REPROCESS)
    measurement = config.measurement
    assert list(measurement.plugins["base_CircularApertureFlux"].radii) == [3.0, 6.0, 12.0]
    assert "base_LocalBackground" not in measurement.plugins.names
    assert {"ext_photometryKron_KronFlux", "base_Jacobian"} <= set(measurement.plugins.names)
    assert measurement.slots.calibFlux == "base_CircularApertureFlux_12_0"
    assert set(config.post_calculations.slots.toDict().values()) == {None}
    schema = ReprocessVisitImageTask(config=config).schema
    for name in (
        "base_CircularApertureFlux_6_0_instFlux", "undeblended_base_PsfFlux_instFlux",
        "base_PixelFlags_flag_spikeCenterAll", "base_PsfFlux_apCorr",
    ):  # fmt: skip
        assert name in schema.names, name
    for name in (
        "base_CircularApertureFlux_17_0_instFlux", "base_LocalBackground_instFlux",
        "base_GaussianFlux_apCorr",
    ):  # fmt: skip
        assert name not in schema.names, name


def test_overrides_of_an_instrument() -> None:
    config = load(ReprocessVisitImageConfig(), FIDUCIALS)
    assert config.compute_summary_stats.fiducialMagLim["y"] == 22.55
    assert config.compute_summary_stats.fiducialReadNoise["u"] == 9.0


@pytest.mark.parametrize(
    "config_class", [FinalizeCharacterizationDetectorConfig, FinalizeCharacterizationConfig]
)
def test_overrides_of_the_final_characterization(config_class: type[pex_config.Config]) -> None:
    config = load(config_class(), FINALIZE)
    assert config.measurement.slots.calibFlux is None
    assert config.measure_ap_corr.sourceSelector["science"].signalToNoise.minimum == 150.0
    assert "ext_photometryKron_KronFlux" in config.measure_ap_corr.allowFailure
    assert len(config.measurement.plugins.names) == 10


def test_overrides_from_a_file_and_back(tmp_path) -> None:
    (tmp_path / "overrides.py").write_text(REPROCESS)
    config = ReprocessVisitImageConfig()
    config.load(str(tmp_path / "overrides.py"))
    config.save(str(tmp_path / "saved.py"))
    again = ReprocessVisitImageConfig()
    again.load(str(tmp_path / "saved.py"))
    assert again.compare(config, shortcut=False)


PLUGIN = """
import numpy as np

from secondlight.measurement.plugin import register
from secondlight.measurement.single_source import SingleSourcePlugin


@register("test_FromAFile")
class FromAFile(SingleSourcePlugin):
    order = 2.0

    def declare(self, schema):
        schema.add(self.column("value"), np.float64, "one")
        schema.add_flag(self.column("flag"), "general failure")

    def measure_source(self, source):
        return {"value": 1.0}
"""


def test_plugin_imported_by_an_override_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plugins_of_a_test.py").write_text(PLUGIN)
    (tmp_path / "overrides.py").write_text(
        "import my_plugins_of_a_test\n"
        'config.measurement.plugins.names |= ["test_FromAFile"]\n'
        "config.measurement.plugins['test_FromAFile'].doMeasure = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = ReprocessVisitImageConfig()
    try:
        config.load(str(tmp_path / "overrides.py"))
        assert "test_FromAFile_value" in ReprocessVisitImageTask(config=config).schema
        saved = io.StringIO()
        config.saveToStream(saved)
        assert "import my_plugins_of_a_test" in saved.getvalue()
    finally:
        plugin_registry._dict.pop("test_FromAFile", None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('config.measurement.plugins["base_PsfFlux"].badMaskPlane = []', "badMaskPlane"),
        ('config.measurement.plugins["base_CModel"].region = 1', "base_CModel"),
        ('config.measurement.plugins.names |= ["base_Nonsense"]', "base_Nonsense"),
        ('config.measurement.plugins["base_CircularApertureFlux"].radii = "big"', "radii"),
        ('config.measurement.slots.shape = "base_Nonsense"', "slots"),
        ('config.measurement.noiseReplacer.noiseSource = "sky"', "noiseSource"),
    ],
)
def test_mistakes_are_named(line: str, message: str) -> None:
    with pytest.raises((AttributeError, KeyError, pex_config.FieldValidationError), match=message):
        load(ReprocessVisitImageConfig(), line)


def test_defaults_of_the_measurement() -> None:
    config = SingleFrameMeasurementConfig()
    assert set(config.plugins.names) == {
        "base_PixelFlags", "base_SdssCentroid", "base_SdssShape", "base_GaussianFlux", "base_PsfFlux",
        "base_CircularApertureFlux", "base_SkyCoord", "base_Variance", "base_Blendedness",
        "base_LocalBackground", "base_CompensatedTophatFlux", "base_ClassificationSizeExtendedness",
    }  # fmt: skip
    assert config.slots.toDict() == {
        "centroid": "base_SdssCentroid", "shape": "base_SdssShape", "psfShape": "base_SdssShape_psf",
        "apFlux": "base_CircularApertureFlux_12_0", "modelFlux": "base_GaussianFlux",
        "psfFlux": "base_PsfFlux", "gaussianFlux": "base_GaussianFlux",
        "calibFlux": "base_CircularApertureFlux_12_0",
    }  # fmt: skip
    assert not config.undeblended.names
    assert config.undeblendedPrefix == "undeblended_"
    assert config.doReplaceWithNoise
    assert config.noiseReplacer.toDict() == {
        "noiseSource": "measure", "noiseOffset": 0.0, "noiseSeedMultiplier": 1,
    }  # fmt: skip


def test_defaults_of_the_final_pass() -> None:
    config = ReprocessVisitImageConfig()
    added = {
        "ext_shapeHSM_HsmShapeRegauss", "ext_shapeHSM_HsmSourceMoments", "ext_shapeHSM_HsmPsfMoments",
        "ext_shapeHSM_HsmSourceMomentsRound", "ext_shapeHSM_HigherOrderMomentsSource",
        "ext_shapeHSM_HigherOrderMomentsPSF", "ext_shapeHSM_HsmPsfMomentsDebiased", "base_Jacobian",
        "base_FPPosition", "ext_photometryKron_KronFlux",
    }  # fmt: skip
    names = set(SingleFrameMeasurementConfig().plugins.names) | added
    assert set(config.measurement.plugins.names) == names
    assert set(config.post_calculations.plugins.names) == {"base_LocalPhotoCalib", "base_LocalWcs"}


def test_order_of_the_final_pass() -> None:
    """The order of spec reprocess 16.2; blendedness, there no plugin of its own, comes after the shapes."""
    task = ReprocessVisitImageTask(config=ReprocessVisitImageConfig())
    assert [plugin.name for plugin in task.measurement.plugins] == [
        "base_SdssCentroid", "base_FPPosition", "base_Jacobian", "base_SdssShape", "base_SkyCoord",
        "ext_shapeHSM_HsmPsfMoments", "ext_shapeHSM_HsmShapeRegauss", "ext_shapeHSM_HsmSourceMoments",
        "ext_shapeHSM_HsmSourceMomentsRound", "base_Blendedness", "base_CircularApertureFlux",
        "base_ClassificationSizeExtendedness", "base_CompensatedTophatFlux", "base_GaussianFlux",
        "base_LocalBackground", "base_PixelFlags", "base_PsfFlux", "base_Variance",
        "ext_photometryKron_KronFlux", "ext_shapeHSM_HigherOrderMomentsPSF",
        "ext_shapeHSM_HigherOrderMomentsSource", "ext_shapeHSM_HsmPsfMomentsDebiased",
    ]  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_fields_of_a_plugin(name: str) -> None:
    defaults = plugin_registry[name].ConfigClass().toDict()
    assert defaults["doMeasure"] is True
    for field, value in FIELDS[name].items():
        assert defaults[field] == value, field


def test_every_plugin_is_specified() -> None:
    """Plugins beyond the specification are named here."""
    own = {"base_NaiveCentroid"}
    known = ("base_", "ext_shapeHSM_", "ext_photometryKron_")
    registered = {name for name in plugin_registry if name.startswith(known)}
    assert registered == set(FIELDS) | own
