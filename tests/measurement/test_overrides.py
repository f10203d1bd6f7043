"""Override files written for the reference load unchanged, and the defaults are the reference's."""

from __future__ import annotations

import io

import lsst.pex.config as pex_config
import numpy as np
import pytest

from secondlight.catalog.schema import minimal_source_schema
from secondlight.measurement.plugin import plugin_registry
from secondlight.measurement.task import SingleFrameMeasurementConfig, SingleFrameMeasurementTask
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

MODELS = """
plugins = config.measurement.plugins
plugins["modelfit_DoubleShapeletPsfApprox"].innerOrder = 3
plugins["modelfit_DoubleShapeletPsfApprox"].optimizer.maxOuterIterations = 100
plugins["modelfit_GeneralShapeletPsfApprox"].sequence = ["Full", "DoubleShapelet"]
plugins["modelfit_GeneralShapeletPsfApprox"].models["Full"].wings.order = 3
plugins["modelfit_GeneralShapeletPsfApprox"].models["Full"].optimizer.maxOuterIterations = 100
plugins.names.add("modelfit_GeneralShapeletPsfApprox")
plugins["modelfit_CModel"].psfName = "modelfit_GeneralShapeletPsfApprox_DoubleShapelet"
plugins["modelfit_CModel"].region.badMaskPlanes = ["EDGE", "SAT", "BAD", "NO_DATA", "CR"]
plugins["modelfit_CModel"].region.nKronRadii = 2.0
plugins["modelfit_CModel"].initial.priorSource = "LINEAR"
plugins["modelfit_CModel"].exp.empiricalPriorConfig.logRadiusMu = -0.5
plugins["modelfit_CModel"].exp.optimizer.maxOuterIterations = 250
plugins["modelfit_CModel"].exp.doRecordTime = True
plugins["modelfit_CModel"].dev.profileName = "lux"
plugins["modelfit_CModel"].dev.nComponents = 6
plugins["modelfit_CModel"].dev.usePixelWeights = True
plugins["modelfit_CModel"].dev.linearPriorConfig.ellipticityMaxInner = 1.5
plugins["ext_convolved_ConvolvedFlux"].seeing.append(10.0)
plugins["ext_convolved_ConvolvedFlux"].aperture.radii = [4.5, 6.0]
plugins["ext_convolved_ConvolvedFlux"].registerForApCorr = True
plugins["ext_gaap_GaapFlux"].sigmas = [0.7, 1.0]
plugins["ext_gaap_GaapFlux"].scalingFactors = [1.15, 1.5]
plugins["ext_gaap_GaapFlux"].doPsfPhotometry = False
plugins["ext_gaap_GaapFlux"]._modelPsfMatch.kernel["AL"].kernelSizeMax = 31
plugins["ext_gaap_GaapFlux"]._modelPsfMatch.kernel.active.alardDegGauss = [2]
plugins["ext_gaap_GaapFlux"]._modelPsfMatch.convolutionMethod = "overlap-add"
config.measure_ap_corr.allowFailure += plugins["ext_convolved_ConvolvedFlux"].getAllResultNames()
config.measure_ap_corr.allowFailure += plugins["ext_gaap_GaapFlux"].getAllGaapResultNames()
"""


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


@pytest.mark.parametrize(
    "config_class", [FinalizeCharacterizationDetectorConfig, FinalizeCharacterizationConfig]
)
def test_overrides_of_models(config_class: type[pex_config.Config]) -> None:
    config = load(config_class(), MODELS)
    plugins = config.measurement.plugins
    assert list(plugins["ext_convolved_ConvolvedFlux"].seeing) == [3.5, 5.0, 6.5, 8.0, 10.0]
    assert plugins["modelfit_CModel"].exp.empiricalPriorConfig.logRadiusMu == -0.5
    assert plugins["ext_gaap_GaapFlux"]._modelPsfMatch.kernel["AL"].alardDegGauss == [2]
    assert "ext_gaap_GaapFlux_1_5x_1_0" in config.measure_ap_corr.allowFailure
    assert "ext_convolved_ConvolvedFlux_4_4_5" in config.measure_ap_corr.allowFailure
    saved = io.StringIO()
    config.saveToStream(saved)
    again = load(config_class(), saved.getvalue())
    assert again.compare(config, shortcut=False)


def test_columns_follow_the_overrides_of_models() -> None:
    config = load(FinalizeCharacterizationDetectorConfig(), MODELS)
    schema = minimal_source_schema()
    for name in ("base_SdssCentroid_x", "base_SdssCentroid_y"):
        schema.add(name, np.float64, "given")
    schema.add_flag("base_SdssCentroid_flag", "given")
    schema.set_alias("slot_Centroid", "base_SdssCentroid")
    SingleFrameMeasurementTask(schema, config=config.measurement)
    for name in (
        "modelfit_DoubleShapeletPsfApprox_0_9", "modelfit_GeneralShapeletPsfApprox_DoubleShapelet_0_xx",
        "modelfit_GeneralShapeletPsfApprox_Full_3_xx", "modelfit_CModel_exp_time",
        "modelfit_CModel_dev_nIter", "ext_convolved_ConvolvedFlux_4_6_0_instFlux",
        "ext_gaap_GaapFlux_1_5x_Optimal_instFlux",
    ):  # fmt: skip
        assert name in schema.names, name
    for name in (
        "modelfit_CModel_dev_time", "ext_convolved_ConvolvedFlux_0_3_3_instFlux",
        "ext_gaap_GaapFlux_1_15x_PsfFlux_instFlux", "ext_gaap_GaapFlux_1_15x_0_5_instFlux",
    ):  # fmt: skip
        assert name not in schema.names, name


def test_models_in_the_final_pass() -> None:
    """Plugins of the final characterization may be added to the final pass."""
    names = [
        "modelfit_DoubleShapeletPsfApprox", "modelfit_CModel", "ext_convolved_ConvolvedFlux",
        "ext_gaap_GaapFlux",
    ]  # fmt: skip
    config = load(
        ReprocessVisitImageConfig(),
        f"config.measurement.plugins.names |= {names}\n"
        'config.measurement.slots.modelFlux = "modelfit_CModel"\n'
        'config.catalog_calculation.plugins["base_ClassificationExtendedness"].fluxRatio = 0.95\n',
    )
    schema = ReprocessVisitImageTask(config=config).schema
    assert schema.aliases["slot_ModelFlux"] == "modelfit_CModel"
    for name in ("modelfit_CModel_apCorr", "ext_gaap_GaapFlux_1_15x_Optimal_apCorr"):
        assert name in schema.names, name


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


def test_defaults_of_the_final_characterization() -> None:
    """Spec finalize 2.3."""
    config = FinalizeCharacterizationDetectorConfig()
    measurement, convolved = config.measurement, config.measurement.plugins["ext_convolved_ConvolvedFlux"]
    gaap = measurement.plugins["ext_gaap_GaapFlux"]
    assert set(measurement.plugins.names) == {
        "base_FPPosition", "base_PsfFlux", "base_GaussianFlux", "modelfit_DoubleShapeletPsfApprox",
        "modelfit_CModel", "ext_photometryKron_KronFlux", "ext_convolved_ConvolvedFlux", "ext_gaap_GaapFlux",
        "ext_shapeHSM_HsmShapeRegauss", "ext_shapeHSM_HsmSourceMoments", "ext_shapeHSM_HsmPsfMoments",
        "ext_shapeHSM_HsmSourceMomentsRound", "ext_shapeHSM_HigherOrderMomentsSource",
        "ext_shapeHSM_HigherOrderMomentsPSF",
    }  # fmt: skip
    assert measurement.slots.toDict() == {
        "centroid": None, "shape": "ext_shapeHSM_HsmSourceMoments", "psfShape": "ext_shapeHSM_HsmPsfMoments",
        "apFlux": None, "modelFlux": "modelfit_CModel", "psfFlux": "base_PsfFlux",
        "gaussianFlux": "base_GaussianFlux", "calibFlux": None,
    }  # fmt: skip
    assert list(convolved.seeing) == [3.5, 5.0, 6.5, 8.0]
    assert list(gaap.sigmas) == [0.5, 0.7, 1.0, 1.5, 2.5, 3.0]
    assert gaap.doPsfPhotometry
    assert measurement.plugins["ext_shapeHSM_HsmShapeRegauss"].deblendNChild == ""
    may_fail = list(config.measure_ap_corr.allowFailure)
    assert len(may_fail) == 16 + 8
    assert {"ext_convolved_ConvolvedFlux_3_kron", "ext_gaap_GaapFlux_1_15x_Optimal"} <= set(may_fail)


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
