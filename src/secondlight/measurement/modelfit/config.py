"""Configuration of the galaxy-model fluxes (spec finalize 8.11 and 9.7)."""

from __future__ import annotations

__all__ = (
    "CModelConfig",
    "CModelRegionConfig",
    "CModelStageConfig",
    "EmpiricalPriorConfig",
    "LinearPriorConfig",
    "OptimizerConfig",
)

import itertools

import lsst.pex.config as pex_config

from ..plugin import MeasurementPluginConfig
from .optimizer import OptimizerSettings
from .priors import PriorSettings, empirical_prior, linear_prior, no_prior
from .profiles import PROFILES, profile_mixture
from .regions import RegionSettings
from .stages import StageSettings


class OptimizerConfig(pex_config.Config):
    """Configuration of a trust-region fit."""

    noSR1Term = pex_config.Field[bool](
        doc="Whether to leave out the SR1 estimate of the second derivatives of the model.", default=False
    )
    skipSR1UpdateThreshold = pex_config.Field[float](
        doc="Cosine of the angle to the step below which the SR1 estimate is not updated.", default=1e-8
    )
    minTrustRadiusThreshold = pex_config.Field[float](
        doc="Radius of the trust region at which the fit has converged.", default=1e-5
    )
    gradientThreshold = pex_config.Field[float](
        doc="Largest element of the gradient at which the fit has converged.", default=1e-5
    )
    minDecreaseThreshold = pex_config.Field[float](
        doc="Decrease of the objective to be expected of the next step at which the fit has converged.",
        default=1e-5,
        check=lambda v: v >= 0,
    )
    numDiffRelStep = pex_config.Field[float](
        doc="Not used: derivatives are analytic.  Relative step of numerical ones.", default=0.0
    )
    numDiffAbsStep = pex_config.Field[float](
        doc="Not used: derivatives are analytic.  Absolute step of numerical ones.", default=0.0
    )
    numDiffTrustRadiusStep = pex_config.Field[float](
        doc="Not used: derivatives are analytic.  Step of numerical ones over the trust radius.", default=0.1
    )
    stepAcceptThreshold = pex_config.Field[float](
        doc="Actual over predicted decrease above which a step is taken.", default=0.0
    )
    trustRegionInitialSize = pex_config.Field[float](
        doc="First radius of the trust region.", default=1.0, check=lambda v: v > 0
    )
    trustRegionGrowReductionRatio = pex_config.Field[float](
        doc="Actual over predicted decrease above which the trust region may grow.", default=0.75
    )
    trustRegionGrowStepFraction = pex_config.Field[float](
        doc="Length of the step over the radius above which the trust region may grow.", default=0.8
    )
    trustRegionGrowFactor = pex_config.Field[float](
        doc="Factor by which the trust region grows.", default=2.0, check=lambda v: v >= 1
    )
    trustRegionShrinkReductionRatio = pex_config.Field[float](
        doc="Actual over predicted decrease below which the trust region shrinks.", default=0.25
    )
    trustRegionShrinkFactor = pex_config.Field[float](
        doc="Factor by which the trust region shrinks.", default=1.0 / 3.0, check=lambda v: 0 < v < 1
    )
    trustRegionSolverTolerance = pex_config.Field[float](
        doc="Relative tolerance of the length of a step.", default=1e-8, check=lambda v: v > 0
    )
    maxInnerIterations = pex_config.Field[int](
        doc="How many steps in a row may be rejected.", default=20, check=lambda v: v > 0
    )
    maxOuterIterations = pex_config.Field[int](
        doc="How many steps may be taken.", default=500, check=lambda v: v > 0
    )
    doSaveIterations = pex_config.Field[bool](doc="Not used: iterations are not kept.", default=False)

    def settings(self) -> OptimizerSettings:
        """Return what the kernels take."""
        return OptimizerSettings(
            gradient_threshold=self.gradientThreshold,
            min_radius=self.minTrustRadiusThreshold,
            min_decrease=self.minDecreaseThreshold,
            initial_radius=self.trustRegionInitialSize,
            accept=self.stepAcceptThreshold,
            grow_ratio=self.trustRegionGrowReductionRatio,
            grow_step=self.trustRegionGrowStepFraction,
            grow=self.trustRegionGrowFactor,
            shrink_ratio=self.trustRegionShrinkReductionRatio,
            shrink=self.trustRegionShrinkFactor,
            tolerance=self.trustRegionSolverTolerance,
            max_inner=self.maxInnerIterations,
            max_outer=self.maxOuterIterations,
            use_sr1=not self.noSR1Term,
            skip_sr1=self.skipSR1UpdateThreshold,
        )


class EmpiricalPriorConfig(pex_config.Config):
    """Prior that follows what galaxies look like."""

    logRadiusMinOuter = pex_config.Field[float](
        doc="ln radius (arcsec) below which the probability is 0.", default=-6.001
    )
    logRadiusMinInner = pex_config.Field[float](
        doc="ln radius (arcsec) at which the density has risen to the plateau.", default=-6.0
    )
    logRadiusMu = pex_config.Field[float](doc="ln radius (arcsec) where the plateau ends.", default=-1.0)
    logRadiusSigma = pex_config.Field[float](
        doc="Width of Student's distribution beyond the plateau.", default=0.45, check=lambda v: v > 0
    )
    logRadiusNu = pex_config.Field[float](
        doc="Degrees of freedom of Student's distribution.", default=50.0, check=lambda v: v > 0
    )
    ellipticitySigma = pex_config.Field[float](
        doc="Scale of the exponential distribution of ellipticities (conformal shear).",
        default=0.3,
        check=lambda v: v > 0,
    )
    ellipticityCore = pex_config.Field[float](
        doc="Ellipticity below which the distribution is softened.", default=0.001, check=lambda v: v > 0
    )

    def validate(self) -> None:
        """Check the order of the edges."""
        super().validate()
        _check_order(self, "logRadiusMinOuter", "logRadiusMinInner", "logRadiusMu")

    def prior(self) -> PriorSettings:
        """Return what the kernels take."""
        return empirical_prior(
            outer=self.logRadiusMinOuter,
            inner=self.logRadiusMinInner,
            mu=self.logRadiusMu,
            nu=self.logRadiusNu,
            sigma=self.logRadiusSigma,
            core=self.ellipticityCore,
            scale=self.ellipticitySigma,
        )


class LinearPriorConfig(pex_config.Config):
    """Prior that is linear in the logarithm of the radius and flat in ellipticity, with soft edges."""

    ellipticityMaxInner = pex_config.Field[float](doc="Ellipticity where the edge begins.", default=2.0)
    ellipticityMaxOuter = pex_config.Field[float](doc="Ellipticity where the edge ends.", default=2.001)
    logRadiusMinOuter = pex_config.Field[float](doc="ln radius (arcsec) of the lower end.", default=-6.001)
    logRadiusMinInner = pex_config.Field[float](doc="ln radius where the lower edge ends.", default=-6.0)
    logRadiusMaxInner = pex_config.Field[float](doc="ln radius where the upper edge begins.", default=3.0)
    logRadiusMaxOuter = pex_config.Field[float](doc="ln radius (arcsec) of the upper end.", default=3.001)
    logRadiusMinMaxRatio = pex_config.Field[float](
        doc="Density at logRadiusMinInner over that at logRadiusMaxInner.",
        default=1.0,
        check=lambda v: v > 0,
    )

    def validate(self) -> None:
        """Check the order of the edges."""
        super().validate()
        _check_order(self, "ellipticityMaxInner", "ellipticityMaxOuter")
        edges = ("logRadiusMinOuter", "logRadiusMinInner", "logRadiusMaxInner", "logRadiusMaxOuter")
        _check_order(self, *edges)

    def prior(self) -> PriorSettings:
        """Return what the kernels take."""
        return linear_prior(
            outer=self.logRadiusMinOuter,
            inner=self.logRadiusMinInner,
            upper_inner=self.logRadiusMaxInner,
            upper_outer=self.logRadiusMaxOuter,
            ratio=self.logRadiusMinMaxRatio,
            shear_inner=self.ellipticityMaxInner,
            shear_outer=self.ellipticityMaxOuter,
        )


def _check_order(config: pex_config.Config, *names: str) -> None:
    """Refuse fields that do not grow in this order."""
    for low, high in itertools.pairwise(names):
        if not getattr(config, low) < getattr(config, high):
            message = f"{low} = {getattr(config, low)} must be below {high} = {getattr(config, high)}."
            raise pex_config.FieldValidationError(config._fields[high], config, message)


class CModelStageConfig(pex_config.Config):
    """Configuration of the fit of one profile."""

    profileName = pex_config.ChoiceField[str](
        doc="Profile to fit.",
        allowed={"lux": "exponential, softened and cut off", "luv": "de Vaucouleurs, softened and cut off"},
        default="lux",
    )
    nComponents = pex_config.Field[int](doc="Number of Gaussians of the profile.", default=6)
    maxRadius = pex_config.Field[int](
        doc="Half-light radii at which the profile is cut off; 0 for its own.", default=0
    )
    priorSource = pex_config.ChoiceField[str](
        doc="Prior of size and ellipticity.",
        allowed={
            "EMPIRICAL": "the form of empiricalPriorConfig",
            "LINEAR": "the form of linearPriorConfig",
            "NONE": "no prior; fluxes may be negative",
        },
        default="EMPIRICAL",
    )
    priorName = pex_config.Field[str](
        doc="Not used: name of a prior in a file, of which there are none.", default=""
    )
    empiricalPriorConfig = pex_config.ConfigField[EmpiricalPriorConfig](doc="Prior, if EMPIRICAL.")
    linearPriorConfig = pex_config.ConfigField[LinearPriorConfig](doc="Prior, if LINEAR.")
    optimizer = pex_config.ConfigField[OptimizerConfig](doc="Fit of the parameters.")
    usePixelWeights = pex_config.Field[bool](
        doc="Whether each pixel has its own weight in the fit of the shape, not all the same.", default=False
    )
    weightsMultiplier = pex_config.Field[float](
        doc="Factor of the weights, which are 1/sigma.", default=1.0, check=lambda v: v > 0
    )
    doRecordHistory = pex_config.Field[bool](doc="Whether to have the column nIter.", default=True)
    doRecordTime = pex_config.Field[bool](
        doc="Whether to have the column time, which makes every run differ from every other.", default=False
    )

    def validate(self) -> None:
        """Check that there is such a mixture of Gaussians."""
        super().validate()
        try:
            profile_mixture(self.profileName, components=self.nComponents, max_radius=self.maxRadius)
        except ValueError as error:
            raise pex_config.FieldValidationError(type(self).nComponents, self, str(error)) from None

    def settings(self) -> StageSettings:
        """Return what the kernels take."""
        amplitudes, variances = profile_mixture(
            self.profileName, components=self.nComponents, max_radius=self.maxRadius
        )
        return StageSettings(
            amplitudes,
            variances,
            PROFILES[self.profileName].moments_radius,
            self.usePixelWeights,
            self.weightsMultiplier,
            self._prior(),
            self.optimizer.settings(),
        )

    def _prior(self) -> PriorSettings:
        if self.priorSource == "NONE":
            return no_prior()
        config = self.empiricalPriorConfig if self.priorSource == "EMPIRICAL" else self.linearPriorConfig
        return config.prior()


class CModelRegionConfig(pex_config.Config):
    """Configuration of the pixels to fit to."""

    nKronRadii = pex_config.Field[float](doc="Size of the initial region, Kron radii.", default=1.5)
    nPsfSigmaMin = pex_config.Field[float](
        doc="Least size of an initial region with the shape of the source, PSF sigmas.", default=4.0
    )
    nPsfSigmaGrow = pex_config.Field[float](
        doc="PSF sigmas that are added in quadrature to the half-light ellipse.", default=2.0
    )
    nFitRadiiMin = pex_config.Field[float](doc="Least half-light radii of the final region.", default=1.0)
    nFitRadiiMax = pex_config.Field[float](doc="Most half-light radii of the final region.", default=3.0)
    maxArea = pex_config.Field[int](
        doc="Most pixels of a region; a source that needs more is not fitted.",
        default=100000,
        check=lambda v: v > 0,
    )
    badMaskPlanes = pex_config.ListField[str](
        doc="Mask planes whose pixels are left out.", default=["EDGE", "SAT", "BAD", "NO_DATA"]
    )
    maxBadPixelFraction = pex_config.Field[float](
        doc="Most of the region that may be left out.", default=0.1, check=lambda v: v >= 0
    )

    def settings(self) -> RegionSettings:
        """Return what the kernels take."""
        return RegionSettings(
            kron_radii=self.nKronRadii,
            psf_sigma_min=self.nPsfSigmaMin,
            psf_sigma_grow=self.nPsfSigmaGrow,
            fit_radii_min=self.nFitRadiiMin,
            fit_radii_max=self.nFitRadiiMax,
            max_area=self.maxArea,
            max_bad_fraction=self.maxBadPixelFraction,
        )


class CModelConfig(MeasurementPluginConfig):
    """Configuration of the galaxy-model fluxes."""

    psfName = pex_config.Field[str](
        doc="Prefix of the columns with the shapelet approximation of the PSF.",
        default="modelfit_DoubleShapeletPsfApprox",
    )
    minInitialRadius = pex_config.Field[float](
        doc="Least radius to start a fit from, pixels.", default=0.1, check=lambda v: v > 0
    )
    fallbackInitialMomentsPsfFactor = pex_config.Field[float](
        doc="Radius to start from where there is no shape, PSF radii.", default=1.5, check=lambda v: v > 0
    )
    region = pex_config.ConfigField[CModelRegionConfig](doc="Pixels to fit to.")
    initial = pex_config.ConfigField[CModelStageConfig](doc="First fit, which defines the final region.")
    exp = pex_config.ConfigField[CModelStageConfig](doc="Fit of an exponential profile.")
    dev = pex_config.ConfigField[CModelStageConfig](doc="Fit of a de Vaucouleurs profile.")

    def setDefaults(self) -> None:
        """Make the first fit quick, and the others those of the two profiles."""
        super().setDefaults()
        self.initial.nComponents = 3
        self.initial.usePixelWeights = True
        self.initial.optimizer.gradientThreshold = 1e-3
        self.initial.optimizer.minTrustRadiusThreshold = 1e-2
        self.exp.optimizer.maxOuterIterations = 250
        self.dev.profileName = "luv"
        self.dev.nComponents = 8
