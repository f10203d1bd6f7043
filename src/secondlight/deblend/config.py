"""Configuration of the deblender (spec reprocess 15.1)."""

from __future__ import annotations

__all__ = ("SourceDeblendConfig",)

from lsst.pex.config import ChoiceField, Config, DictField, Field, ListField


class SourceDeblendConfig(Config):
    """What is deblended, and how."""

    edgeHandling = ChoiceField[str](
        doc="What to do where a template reaches the edge of its footprint.",
        allowed={
            "clip": "Cut the template at the edge.",
            "ramp": "Extend the template with the PSF.",
            "noclip": "Copy pixels whose mirror is outside the image.",
        },
        default="ramp",
    )
    strayFluxToPointSources = ChoiceField[str](
        doc="Whether point sources get stray flux.",
        allowed={
            "necessary": "Only if a blend has no extended source.",
            "always": "Always.",
            "never": "Never; stray flux of a blend of point sources is not assigned.",
        },
        default="necessary",
    )
    assignStrayFlux = Field[bool](doc="Assign flux that no template claims?", default=True)
    strayFluxRule = ChoiceField[str](
        doc="How stray flux is shared.",
        allowed={
            "r-to-peak": "By 1 / (1 + r^2) with r the distance to each peak.",
            "r-to-footprint": "By 1 / (1 + r^2) with r the distance to each child's footprint.",
            "nearest-footprint": "All to the nearest footprint.",
            "trim": "Not at all: the parent is trimmed to the union of the children.",
        },
        default="trim",
    )
    clipStrayFluxFraction = Field[float](
        doc="Shares of stray flux below this fraction are dropped.", default=0.001
    )
    psfChisq1 = Field[float](
        doc="Largest chi^2 per degree of freedom of a point source at its peak.", default=1.5
    )
    psfChisq2 = Field[float](
        doc="Largest chi^2 per degree of freedom of a point source with a free shift.", default=1.5
    )
    psfChisq2b = Field[float](
        doc="Largest chi^2 per degree of freedom of a point source at its shifted position.", default=1.5
    )
    maxNumberOfPeaks = Field[int](
        doc="Largest number of children of a blend: its brightest peaks (0: no limit).",
        default=0,
        check=lambda value: value >= 0,
    )
    maxFootprintArea = Field[int](doc="Largest area of a blend (pixels; 0: no limit).", default=0)
    maxFootprintSize = Field[int](
        doc="Largest side of the bounding box of a blend (pixels; 0: no limit).", default=0
    )
    minFootprintAxisRatio = Field[float](
        doc="Smallest ratio of minor to major axis of a blend (0: no limit).", default=0.0
    )
    notDeblendedMask = Field[str](
        doc="Mask plane set over blends that are not deblended; empty for none.",
        default="NOT_DEBLENDED",
        optional=True,
    )
    tinyFootprintSize = Field[int](doc="PSF-fit stamps of this side or smaller are not fitted.", default=2)
    propagateAllPeaks = Field[bool](doc="Give every peak a child, even without a template?", default=False)
    catchFailures = Field[bool](
        doc="Flag a blend on which the algorithm fails, instead of stopping?", default=True
    )
    maskPlanes = ListField[str](
        doc="Mask planes ignored in the noise estimate.", default=["SAT", "INTRP", "NO_DATA"]
    )
    maskLimits = DictField[str, float](
        doc="Largest fraction of a blend's pixels that may have a mask plane.",
        keytype=str,
        itemtype=float,
        default={"NO_DATA": 0.25},
    )
    weightTemplates = Field[bool](doc="Scale the templates by a least-squares fit?", default=False)
    removeDegenerateTemplates = Field[bool](
        doc="Drop one of two templates that are nearly the same?", default=False
    )
    maxTempDotProd = Field[float](doc="Cosine above which two templates are nearly the same.", default=0.5)
    medianSmoothTemplate = Field[bool](doc="Smooth templates by a median filter?", default=True)
    useCiLimits = Field[bool](doc="Keep only a few blends, for quick tests?", default=False)
    ciDeblendChildRange = ListField[int](
        doc="Smallest and largest number of peaks of the blends kept by useCiLimits.",
        default=[2, 10],
        length=2,
    )
    ciNumParentsToDeblend = Field[int](doc="Number of blends kept by useCiLimits.", default=10)
