"""The PSF of one image from its own stars: select, reserve, cut out, fit."""

from __future__ import annotations

__all__ = ("MeasurePsfConfig", "MeasurePsfTask")

from typing import Any, ClassVar

import numpy as np
from lsst.images import VisitImage
from lsst.pex.config import Config, ConfigurableField
from lsst.pipe.base import Struct, Task

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from .candidates import MakePsfCandidatesTask, blend_footprints
from .piff_determiner import PiffPsfDeterminerTask, psfDeterminerRegistry
from .reservation import ReserveIsolatedStarsTask
from .source_selectors import BaseSourceSelectorTask, sourceSelectorRegistry

_FLAGS = {
    "calib_psf_candidate": "source was a candidate for the fit of the PSF",
    "calib_psf_reserved": "source was held out of the fit of the PSF",
    "calib_psf_used": "source was used in the fit of the PSF",
}


class MeasurePsfConfig(Config):
    """Which sources are stars, which of them are held out, and how the PSF is fitted."""

    starSelector = sourceSelectorRegistry.makeField("Selects stars.", default="objectSize")
    reserve: ConfigurableField[Any] = ConfigurableField(
        target=ReserveIsolatedStarsTask, doc="Holds some stars out of the fit."
    )
    makePsfCandidates: ConfigurableField[Any] = ConfigurableField(
        target=MakePsfCandidatesTask, doc="Cuts out stars."
    )
    psfDeterminer = psfDeterminerRegistry.makeField("Fits the PSF.", default="piff")


class MeasurePsfTask(Task):
    """Fit the PSF of an image to its stars.

    Parameters
    ----------
    schema
        Schema of the catalogs to come; gains ``calib_psf_candidate``, ``calib_psf_reserved`` and
        ``calib_psf_used``.
    """

    ConfigClass: ClassVar[type[Config]] = MeasurePsfConfig
    _DefaultName: ClassVar[str] = "measurePsf"
    config: MeasurePsfConfig
    starSelector: BaseSourceSelectorTask
    reserve: ReserveIsolatedStarsTask
    makePsfCandidates: MakePsfCandidatesTask
    psfDeterminer: PiffPsfDeterminerTask

    def __init__(self, *, schema: Schema, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, doc in _FLAGS.items():
            schema.add_flag(name, doc)
        self.makeSubtask("starSelector")
        self.makeSubtask("reserve")
        self.makeSubtask("makePsfCandidates")
        self.makeSubtask("psfDeterminer")

    def run(self, exposure: VisitImage, sources: SourceCatalog, *, extra: str = "") -> Struct:
        """Select stars, fit the PSF to those not held out, and set the flags of the sources.

        Parameters
        ----------
        exposure
            Background-subtracted image; its PSF is replaced.
        sources
            Measured sources of the image; their three flags are set anew.
        extra
            What makes the sample of held-out stars of this image its own.

        Returns
        -------
        lsst.pipe.base.Struct
            ``psf``: the fitted PSF.

        Raises
        ------
        lsst.pipe.base.AlgorithmError
            Raised if there are too few stars.
        """
        for name in _FLAGS:
            sources[name] = False
        # A blend that was split is no star, whatever it looks like as a whole.
        whole = ~np.isin(sources["id"], sources["parent"])
        selected = np.nonzero(self.starSelector.select_sources(sources) & whole)[0]
        stars = sources[selected]
        # Light of a star's neighbours in a blend is still in the image.
        stars.footprints = blend_footprints(sources, selected)
        candidates = self.makePsfCandidates.run(stars, exposure).candidates
        rows = selected[candidates.rows]
        sources["calib_psf_candidate"][rows] = True
        reserved = self.reserve.run(len(rows), extra=extra, identities=sources["id"][rows].tolist())
        sources["calib_psf_reserved"][rows] = reserved
        metadata: dict[str, Any] = {}
        result = self.psfDeterminer.determine_psf(
            exposure, candidates[~reserved], metadata=metadata, held_out=candidates[reserved]
        )
        for key, value in metadata.items():
            self.metadata[key] = value
        sources["calib_psf_used"][rows[~reserved]] = result.used
        self.log.info(
            "PSF fitted to %d of %d stars, %d held out.", result.used.sum(), len(rows), reserved.sum()
        )
        exposure.psf = result.psf
        return Struct(psf=result.psf)
