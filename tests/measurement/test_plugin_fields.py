"""Field names and defaults of every plugin are the reference's."""

from __future__ import annotations

from collections.abc import Iterator

import lsst.pex.config as pex_config
import pytest

import secondlight.measurement.task  # noqa: F401  (registers the plugins)
from secondlight.measurement.plugin import plugin_registry

OPTIMIZER = {
    "noSR1Term": False, "skipSR1UpdateThreshold": 1e-8, "minTrustRadiusThreshold": 1e-5,
    "gradientThreshold": 1e-5, "numDiffRelStep": 0.0, "numDiffAbsStep": 0.0, "numDiffTrustRadiusStep": 0.1,
    "stepAcceptThreshold": 0.0, "trustRegionInitialSize": 1.0, "trustRegionGrowReductionRatio": 0.75,
    "trustRegionGrowStepFraction": 0.8, "trustRegionGrowFactor": 2.0, "trustRegionShrinkReductionRatio": 0.25,
    "trustRegionShrinkFactor": 1 / 3, "trustRegionSolverTolerance": 1e-8, "maxInnerIterations": 20,
    "maxOuterIterations": 500, "doSaveIterations": False,
}  # fmt: skip
STAGE = {
    "profileName": "lux", "priorSource": "EMPIRICAL", "priorName": "", "nComponents": 8, "maxRadius": 0,
    "usePixelWeights": False, "weightsMultiplier": 1.0, "doRecordHistory": True, "optimizer": OPTIMIZER,
    "linearPriorConfig": {
        "logRadiusMinOuter": -6.001, "logRadiusMinInner": -6.0, "logRadiusMaxOuter": 3.001,
        "logRadiusMaxInner": 3.0, "logRadiusMinMaxRatio": 1.0, "ellipticityMaxOuter": 2.001,
        "ellipticityMaxInner": 2.0,
    },
    "empiricalPriorConfig": {
        "logRadiusMinOuter": -6.001, "logRadiusMinInner": -6.0, "logRadiusMu": -1.0, "logRadiusSigma": 0.45,
        "logRadiusNu": 50.0, "ellipticityCore": 0.001, "ellipticitySigma": 0.3,
    },
}  # fmt: skip

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
    "modelfit_DoubleShapeletPsfApprox": {
        "innerOrder": 2, "outerOrder": 1, "radiusRatio": 2.0, "peakRatio": 0.1, "minRadius": 0.25,
        "minRadiusDiff": 0.5, "maxRadiusBoxFraction": 0.4, "optimizer": OPTIMIZER,
    },
    "modelfit_GeneralShapeletPsfApprox": {"sequence": ["DoubleShapelet"]},
    "modelfit_CModel": {
        "psfName": "modelfit_DoubleShapeletPsfApprox", "minInitialRadius": 0.1,
        "fallbackInitialMomentsPsfFactor": 1.5,
        "region": {
            "nKronRadii": 1.5, "nPsfSigmaMin": 4.0, "nPsfSigmaGrow": 2.0, "nFitRadiiMin": 1.0,
            "nFitRadiiMax": 3.0, "maxArea": 100000, "badMaskPlanes": ["EDGE", "SAT", "BAD", "NO_DATA"],
            "maxBadPixelFraction": 0.1,
        },
        "initial": STAGE | {
            "nComponents": 3, "usePixelWeights": True,
            "optimizer": OPTIMIZER | {"gradientThreshold": 1e-3, "minTrustRadiusThreshold": 1e-2},
        },
        "exp": STAGE | {"nComponents": 6, "optimizer": OPTIMIZER | {"maxOuterIterations": 250}},
        "dev": STAGE | {"profileName": "luv", "nComponents": 8},
    },
    "ext_convolved_ConvolvedFlux": {
        "seeing": [3.5, 5.0, 6.5], "kernelScale": 4.0, "maxSincRadius": 10.0, "kronRadiusForFlux": 2.5,
        "kronRadiusName": "ext_photometryKron_KronFlux_radius", "registerForApCorr": True,
        "aperture": {"radii": [3.3, 4.5, 6.0], "maxSincRadius": 10.0, "shiftKernel": "lanczos5"},
    },
    "ext_gaap_GaapFlux": {
        "sigmas": [0.7, 1.0], "scalingFactors": [1.15], "_modelPsfDimension": 65, "doPsfPhotometry": False,
        "doOptimalPhotometry": True, "registerForApCorr": True,
        "_modelPsfMatch": {
            "doAutoPadPsf": True, "autoPadPsfTo": 1.4, "padPsfBy": 0, "convolutionMethod": "auto",
            "kernel": {"name": "AL", "values": {"AL": {
                "kernelBasisSet": "alard-lupton", "alardNGauss": 1, "alardDegGauss": [4],
                "alardGaussBeta": 1.0, "alardMinSig": 0.7, "kernelSize": 21, "scaleByFwhm": True,
                "kernelSizeFwhmScaling": 6.0, "kernelSizeMin": 21, "kernelSizeMax": 35,
                "spatialKernelOrder": 0, "fitForBackground": False, "constantVarianceWeighting": True,
            }}},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FIELDS)
def test_fields_of_a_plugin(name: str) -> None:
    defaults = plugin_registry[name].ConfigClass().toDict()
    assert defaults["doMeasure"] is True
    differing = list(differences(defaults, FIELDS[name]))
    assert not differing


def differences(found: object, expected: object, where: str = "") -> Iterator[str]:
    """Name nested fields that are missing or have other values than expected."""
    if not isinstance(expected, dict):
        if found != expected:
            yield f"{where}: {found!r}, expected {expected!r}"
        return
    for field, value in expected.items():
        if not isinstance(found, dict) or field not in found:
            yield f"{where}.{field} is missing"
        else:
            yield from differences(found[field], value, f"{where}.{field}")


@pytest.mark.parametrize("name", ["SingleGaussian", "DoubleGaussian", "DoubleShapelet", "Full"])
def test_models_of_the_general_approximation(name: str) -> None:
    assert name in plugin_registry["modelfit_GeneralShapeletPsfApprox"].ConfigClass().models


def test_every_plugin_is_specified() -> None:
    """Plugins beyond the specification are named here."""
    own = {"base_NaiveCentroid"}
    known = ("base_", "ext_", "modelfit_")
    registered = {name for name in plugin_registry if name.startswith(known)}
    assert registered == set(FIELDS) | own


@pytest.mark.parametrize(
    ("plugin", "field", "value"),
    [("base_CircularApertureFlux", "radii", [0.0, 3.0]), ("base_Blendedness", "nSigmaWeightMax", 0.0)],
)
def test_sizes_must_be_positive(plugin: str, field: str, value: object) -> None:
    """Refused when configured: the measurement itself could only fail for all sources."""
    config = plugin_registry[plugin].ConfigClass()
    with pytest.raises((ValueError, pex_config.FieldValidationError)):
        setattr(config, field, value)
