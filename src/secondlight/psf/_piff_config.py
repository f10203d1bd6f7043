"""Configuration of the Piff determiner (spec finalize 5.1, 5.2)."""

from __future__ import annotations

__all__ = ("PiffPsfDeterminerConfig",)

import math
import re
from typing import Any

import yaml
from lsst.pex.config import ChoiceField, Config, DictField, Field, ListField, RangeField

_INTERPOLANT = re.compile(
    r"(galsim\.)?Lanczos\(\d+\)|galsim\.(Cubic|Delta|Linear|Nearest|Quintic|SincInterpolant)"
)


def _is_interpolant(name: str) -> bool:
    return _INTERPOLANT.fullmatch(name) is not None


def _is_odd_size(size: int) -> bool:
    return size > 0 and size % 2 == 1


class PiffPsfDeterminerConfig(Config):
    """What Piff fits, to which stars, and how hard it tries."""

    stampSize: Field[Any] = Field(
        dtype=int,
        doc="Side of the stamps the PSF is fitted to, pixels; odd; the candidates' own size if None.",
        default=25,
        optional=True,
        check=_is_odd_size,
    )
    maxCandidates = RangeField(
        dtype=int, doc="Largest number of stars to fit; of more, this many are drawn.", default=300, min=1
    )
    downsampleRandomSeed = Field[int](doc="Seed of that draw.", default=98765)
    spatialOrderPerBand: DictField[Any, Any] = DictField(
        keytype=str, itemtype=int, doc="Spatial order by band, instead of spatialOrder.", default={}
    )
    spatialOrder = RangeField(dtype=int, doc="Order of the polynomial in position.", default=2, min=0)
    orderSelection = ChoiceField[str](
        doc="How the spatial order is chosen.",
        default="fixed",
        allowed={
            "fixed": "As configured in spatialOrder and spatialOrderPerBand.",
            "auto": "The lowest order that predicts stars held out of the fit as well as any order up to "
            "maxSpatialOrder.",
        },
    )
    maxSpatialOrder = RangeField(
        dtype=int, doc="Highest order to try if the order is chosen automatically.", default=4, min=0
    )
    minHeldOutStars = RangeField(
        dtype=int,
        doc="With fewer held-out stars, the order is chosen by holding the fitted stars out in turn.",
        default=20,
        min=1,
    )
    orderFolds = RangeField(
        dtype=int, doc="Parts into which the stars are divided to be held out in turn.", default=5, min=2
    )
    solver = ChoiceField[str](
        doc="Who fits the model.",
        default="separable",
        allowed={
            "separable": "All stars at once, with the separable form of a grid aligned with the pixels; the "
            "same result as Piff's own fit. Models and stars it does not know are left to Piff.",
            "piff": "Piff's own fit.",
        },
    )
    piffBasisPolynomialSolver = ChoiceField[str](
        doc="How Piff's own fit solves for the coefficients.",
        default="scipy",
        allowed={
            "scipy": "NumPy and SciPy.",
            "cpp": "Eigen.",
            "jax": "JAX (must be installed).",
            "qr": "QR decomposition: slower, needs more memory, stable for nearly singular problems.",
        },
    )
    piffPixelGridFitCenter = Field[bool](doc="Fit the centre of each star along with its flux?", default=True)
    samplingSize = RangeField(
        dtype=float, doc="Size of a model pixel in image pixels.", default=1.0, min=0.0, inclusiveMin=False
    )
    modelSize = RangeField(dtype=int, doc="Side of the model, model pixels.", default=25, min=1)
    outlierNSigma = Field[float](doc="Chi-squared significance beyond which a star is rejected.", default=4.0)
    outlierMaxRemove = RangeField(
        dtype=float,
        doc="Largest fraction of the stars that one iteration rejects; less than 1.",
        default=0.05,
        min=0.0,
        max=1.0,
    )
    maxSNR = RangeField(
        dtype=float, doc="Signal-to-noise ratio from which on stars weigh no more.", default=200.0, min=0.0
    )
    zeroWeightMaskBits = ListField[str](
        doc="Mask planes whose pixels get no weight.",
        default=["BAD", "CR", "INTRP", "SAT", "SUSPECT", "NO_DATA"],
    )
    minimumUnmaskedFraction = RangeField(
        dtype=float,
        doc="Smallest fraction of good pixels in the stamp of a usable star.",
        default=0.5,
        min=0.0,
        max=1.0,
        inclusiveMax=True,
    )
    useColor = Field[bool](doc="Let the PSF depend on the colour of the stars?", default=False)
    color: DictField[Any, Any] = DictField(
        keytype=str, itemtype=str, doc="Colour to use by band of the image, such as 'g-i'.", default={}
    )
    colorOrder = RangeField(dtype=int, doc="Order of the polynomial in colour.", default=1, min=0)
    interpolant = Field[str](
        doc="GalSim interpolant between model pixels: Lanczos(n), galsim.Lanczos(n), galsim.Cubic, "
        "galsim.Delta, galsim.Linear, galsim.Nearest, galsim.Quintic or galsim.SincInterpolant.",
        default="Lanczos(11)",
        check=_is_interpolant,
    )
    zerothOrderInterpNotEnoughStars = Field[bool](
        doc="With too few stars for the order, fit a constant PSF instead of failing?", default=False
    )
    debugStarData = Field[bool](doc="Keep the stars with their pixels in the PSF in memory?", default=False)
    useCoordinates = ChoiceField[str](
        doc="Coordinates of the model and its polynomial. Only 'pixel' PSFs can be stored in files.",
        default="pixel",
        allowed={
            "pixel": "Pixels.",
            "field": "Field angles, arcsec.",
            "sky": "Tangent plane of the sky, arcsec.",
        },
    )
    piffMaxIter = RangeField(dtype=int, doc="Largest number of iterations.", default=15, min=1)
    piffLoggingLevel = RangeField(
        dtype=int, doc="How much Piff tells: 0 nothing, 1 warnings, 2 progress, 3 everything.",
        default=0, min=0, max=3, inclusiveMax=True,
    )  # fmt: skip
    piffPsfConfigYaml: Field[Any] = Field(
        dtype=str,
        doc="Whole 'psf' section of a Piff configuration, in YAML, instead of the model, interpolation and "
        "outlier fields above.",
        default=None,
        optional=True,
    )

    def validate(self) -> None:
        """Check that stamps are large enough for the model and the YAML text can be read.

        Raises
        ------
        ValueError
            Raised if they are not.
        """
        super().validate()
        if self.stampSize is not None and self.stampSize < (least := self.minimum_stamp_size()):
            raise ValueError(
                f"stampSize {self.stampSize} is too small for modelSize {self.modelSize} and samplingSize "
                f"{self.samplingSize} in {self.useCoordinates} coordinates: expected at least {least}."
            )
        if self.piffPsfConfigYaml is not None:
            self.parsed_yaml()
            if self.orderSelection == "auto":
                raise ValueError("orderSelection cannot be 'auto' where piffPsfConfigYaml sets the order.")

    def order(self, band: str) -> int:
        """Return the configured order of the polynomial in position for a band."""
        return int(self.spatialOrderPerBand.get(band, self.spatialOrder))

    def minimum_stamp_size(self) -> int:
        """Return the side of the smallest stamp that holds the model, turned by any angle for the sky."""
        diagonal = math.sqrt(2.0) if self.useCoordinates == "sky" else 1.0
        return int(diagonal * self.modelSize / self.samplingSize)

    def parsed_yaml(self) -> dict[str, Any]:
        """Return the Piff configuration given as YAML.

        Raises
        ------
        ValueError
            Raised if the text is not a YAML mapping.
        """
        try:
            parsed = yaml.safe_load(self.piffPsfConfigYaml or "")
        except yaml.YAMLError as error:
            raise ValueError(f"piffPsfConfigYaml is not YAML: {error}") from error
        if not isinstance(parsed, dict):
            raise ValueError(f"piffPsfConfigYaml must be a mapping, found {type(parsed).__name__}.")
        return parsed
