"""Configuration of the detection (spec reprocess 13.1)."""

from __future__ import annotations

__all__ = ("SourceDetectionConfig",)

from typing import Any

from lsst.pex.config import ChoiceField, Config, ConfigurableField, Field, ListField, RangeField

from secondlight.background.task import SubtractBackgroundConfig, SubtractBackgroundTask


class SourceDetectionConfig(Config):
    """How sources are found."""

    minPixels = RangeField(dtype=int, doc="Least area of a source before growing.", default=1, min=0)
    isotropicGrow = Field[bool](doc="Grow by circles? Else by Manhattan distance.", default=True)
    combinedGrow = Field[bool](doc="Merge footprints that touch after growing?", default=True)
    nSigmaToGrow = Field[float](doc="Growth in units of the PSF sigma; 0 for none.", default=2.4)
    returnOriginalFootprints = Field[bool](
        doc="Return the footprints before growing? The mask shows the grown ones.", default=False
    )
    thresholdValue = RangeField(
        dtype=float, doc="Threshold, in the unit of thresholdType.", default=5.0, min=0.0, inclusiveMin=False
    )
    includeThresholdMultiplier = RangeField(
        dtype=float,
        doc="A source must somewhere reach this times the threshold.",
        default=1.0,
        min=0.0,
        inclusiveMin=False,
    )
    thresholdType = ChoiceField[str](
        doc="What the threshold multiplies.",
        default="pixel_stdev",
        allowed={
            "variance": "variance of the smoothed image",
            "stdev": "standard deviation of the smoothed image",
            "value": "nothing: the threshold is a value in counts",
            "pixel_stdev": "standard deviation of each smoothed pixel, from the variance plane",
        },
    )
    thresholdPolarity = ChoiceField[str](
        doc="Which sources to find.",
        default="positive",
        allowed={"positive": "peaks", "negative": "holes", "both": "both, holes first"},
    )
    adjustBackground = Field[float](doc="Constant added to a re-estimated background, counts.", default=0.0)
    reEstimateBackground = Field[bool](
        doc="Estimate and subtract the background once more, without the sources?", default=True
    )
    doApplyFlatBackgroundRatio = Field[bool](
        doc="Re-estimate on the background-flattened image?", default=False
    )
    background: ConfigurableField[Any] = ConfigurableField(
        target=SubtractBackgroundTask, doc="The re-estimation."
    )
    tempLocalBackground: ConfigurableField[Any] = ConfigurableField(
        target=SubtractBackgroundTask, doc="Local background subtracted while peaks are searched."
    )
    doTempLocalBackground = Field[bool](
        doc="Search the peaks of footprints with several on an image without its local background?",
        default=True,
    )
    tempWideBackground: ConfigurableField[Any] = ConfigurableField(
        target=SubtractBackgroundTask, doc="Wide background subtracted during the detection."
    )
    doTempWideBackground = Field[bool](
        doc="Subtract a wide background, sources and all, during the detection?", default=False
    )
    nPeaksMaxSimple = Field[int](
        doc="Footprints with at most so many peaks keep them under doTempLocalBackground.", default=1
    )
    nSigmaForKernel = Field[float](doc="Width of the smoothing kernel in PSF sigma.", default=7.0)
    statsMask = ListField[str](
        doc="Mask planes left out of the statistics of the thresholds stdev and variance.",
        default=["BAD", "SAT", "EDGE", "NO_DATA"],
    )
    excludeMaskPlanes = ListField[str](doc="Mask planes within which nothing is detected.", default=[])

    def setDefaults(self) -> None:
        """Set the temporary backgrounds to splines."""
        super().setDefaults()
        local: SubtractBackgroundConfig = self.tempLocalBackground.value
        wide: SubtractBackgroundConfig = self.tempWideBackground.value
        for temporary, size in ((local, 64), (wide, 512)):
            temporary.binSize = size
            temporary.algorithm = "AKIMA_SPLINE"
            temporary.useApprox = False
        wide.ignoredPixelMask = [p for p in wide.ignoredPixelMask if not p.startswith("DETECTED")]
