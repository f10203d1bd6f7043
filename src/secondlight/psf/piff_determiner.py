"""The PSF of one image as a Piff model of its stars (spec finalize 5)."""

from __future__ import annotations

__all__ = (
    "PiffFitError",
    "PiffPsfDeterminerConfig",
    "PiffPsfDeterminerTask",
    "PiffTooFewGoodStarsError",
    "psfDeterminerRegistry",
)

import copy
import importlib.util
import logging
from collections.abc import MutableMapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import piff
import piff.config
from lsst.images import VisitImage
from lsst.images.psfs import PiffWrapper, PointSpreadFunction
from lsst.pex.config.registry import makeRegistry, registerConfigurable
from lsst.pipe.base import AlgorithmError, Struct, Task
from lsst.utils.logging import getLogger

from ._piff_config import PiffPsfDeterminerConfig
from ._piff_model import at_color, constant_setup, piff_setup, stars_needed
from ._piff_solver import batched_solver
from ._piff_stars import FittedStar, piff_stars, star_weights
from ._piff_wcs import PiffCoordinates, piff_coordinates
from ._pixel_grid_solver import fit_pixel_grid, is_separable
from .candidates import PsfCandidates, PsfStamps
from .held_out import held_out_residuals, median_and_scatter
from .order_selection import choose_order

psfDeterminerRegistry = makeRegistry(  # noqa: N816
    "Tasks that fit a PSF; each offers ``determine_psf(exposure, candidates, metadata=None)``."
)

_PIFF_LEVELS = (logging.CRITICAL, logging.WARNING, logging.INFO, logging.DEBUG)


class PiffTooFewGoodStarsError(AlgorithmError):
    """Too few stars for the order of the PSF's polynomial.

    Parameters
    ----------
    available
        Stars with enough good pixels.
    good
        Stars the fit kept, if there was one.
    needed
        Stars the polynomial needs.
    where
        Visit and detector.
    """

    def __init__(self, available: int, good: int | None, needed: int, where: str) -> None:
        found = f"{available} usable" if good is None else f"{good} of {available} kept by the fit"
        super().__init__(f"{where}: too few stars for the PSF model: {needed} needed, {found}.")
        self._metadata = {
            "numAvailStars": available,
            "numGoodStars": available if good is None else good,
            "minNumStars": needed,
        }

    @property
    def metadata(self) -> dict[str, Any]:
        """Numbers of stars."""
        return self._metadata


class PiffFitError(AlgorithmError):
    """Piff could not fit its model to the stars.

    Parameters
    ----------
    reason
        What Piff said.
    stars
        Number of stars it was given.
    where
        Visit and detector.
    """

    def __init__(self, reason: str, stars: int, where: str) -> None:
        super().__init__(f"{where}: Piff failed on {stars} stars: {reason}")
        self._metadata = {"reason": reason, "numAvailStars": stars}

    @property
    def metadata(self) -> dict[str, Any]:
        """Piff's message and the number of stars."""
        return self._metadata


class _Colors(NamedTuple):
    values: np.ndarray
    kind: str
    mean: float


@registerConfigurable("piff", psfDeterminerRegistry)
class PiffPsfDeterminerTask(Task):
    """Fit a Piff model to stars.

    Raises
    ------
    ImportError
        Raised if the solver is "jax" and JAX is not installed.
    """

    ConfigClass = PiffPsfDeterminerConfig
    config: PiffPsfDeterminerConfig
    _DefaultName: ClassVar[str] = "psf_determiner"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.config.piffBasisPolynomialSolver == "jax" and importlib.util.find_spec("jax") is None:
            raise ImportError("piffBasisPolynomialSolver is 'jax', but JAX is not installed.")
        self._piff_log = getLogger(f"{self.log.name}.piff")
        self._piff_log.setLevel(_PIFF_LEVELS[self.config.piffLoggingLevel])

    def determine_psf(
        self,
        exposure: VisitImage,
        candidates: PsfCandidates,
        metadata: MutableMapping[str, Any] | None = None,
        *,
        held_out: PsfCandidates | None = None,
    ) -> Struct:
        """Fit the PSF of an image.

        Parameters
        ----------
        exposure
            Background-subtracted image the candidates were cut from; it is not changed.
        candidates
            Stars to fit.
        metadata
            Gains ``spatialFitChi2``, ``spatialOrder``, ``numAvailStars``, ``numGoodStars``, ``avgX`` and
            ``avgY``; with held-out stars also ``numHeldOutStars`` and the medians and robust scatters of
            their residuals, ``heldOutSizeMedian``, ``heldOutSizeScatter``, the same of ``E1`` and ``E2``, and
            ``heldOutChi2Median``.
        held_out
            Stars that take no part in the fit, to tell how good it is, and of which order it is to be.

        Returns
        -------
        lsst.pipe.base.Struct
            ``psf``: the model, an `lsst.images.psfs.PiffWrapper`; of a model that depends on colour, its form
            at the mean colour of the stars.  ``used``: one boolean per candidate, whether the fit kept it.
            ``chromatic_psf``: the wrapped model that depends on colour, or `None`.

        Raises
        ------
        PiffTooFewGoodStarsError
            Raised if fewer stars are usable, or left after rejection, than the polynomial needs.
        PiffFitError
            Raised if Piff fails.
        """
        order = self.config.order(exposure.band)
        if self.config.orderSelection == "auto":
            order = self._choose_order(exposure, candidates, held_out, order)
        result = self._fit_order(exposure, candidates, order)
        self._describe(result.psf.piff_psf, order, int(result.available), metadata)
        if held_out is not None and len(held_out):
            self._describe_held_out(result.chromatic_psf or result.psf, held_out, metadata)
        return Struct(psf=result.psf, used=result.used, chromatic_psf=result.chromatic_psf)

    def _choose_order(
        self, exposure: VisitImage, candidates: PsfCandidates, held_out: PsfCandidates | None, fallback: int
    ) -> int:
        """Return the order that predicts stars best, or ``fallback`` if none could be fitted."""

        def fit(order: int, stars: PsfCandidates) -> PointSpreadFunction:
            result = self._fit_order(exposure, stars, order)
            psf: PointSpreadFunction = result.chromatic_psf or result.psf
            return psf

        order = choose_order(
            range(self.config.maxSpatialOrder + 1),
            candidates,
            candidates[:0] if held_out is None else held_out,
            fit=fit,
            weigh=lambda stars: self._inverse_variance(stars.stamps),
            min_held_out=self.config.minHeldOutStars,
            folds=self.config.orderFolds,
        )
        if order is None:
            self.log.warning("No spatial order could be tested on held-out stars; using %d.", fallback)
            return fallback
        self.log.info("Spatial order %d predicts held-out stars best.", order)
        return order

    def _weights(self, stamps: PsfStamps) -> tuple[np.ndarray, npt.NDArray[np.float64]]:
        return star_weights(
            stamps, zero_weight_planes=self.config.zeroWeightMaskBits, max_snr=self.config.maxSNR
        )

    def _inverse_variance(self, stamps: PsfStamps) -> np.ndarray:
        """Return the full weight of good pixels (n, size, size); no fit is to be kept from bright stars."""
        variance = stamps.variance.astype(np.float64)
        good = np.isfinite(stamps.image) & np.isfinite(variance) & (variance > 0)
        good &= ~stamps.masked(self.config.zeroWeightMaskBits)
        return np.where(good, 1.0 / np.where(good, variance, 1.0), 0.0)

    def _fit_order(self, exposure: VisitImage, candidates: PsfCandidates, order: int) -> Struct:
        """Fit a polynomial of an order; return what `determine_psf` does, and how many stars there were."""
        where = f"visit {exposure.sky_projection.pixel_frame.visit} detector {exposure.detector.id}"
        kept = self._drawn(len(candidates))
        stamp_size = self._stamp_size(candidates)
        stars = candidates[kept].with_size(exposure, stamp_size)
        weights, good_fraction = self._weights(stars.stamps)
        usable = good_fraction >= self.config.minimumUnmaskedFraction
        kept, stars, weights = kept[usable], stars[usable], weights[usable]
        colors = self._colors(stars)
        coordinates = piff_coordinates(exposure, self.config.useCoordinates)
        inputs = piff_stars(
            stars, weights, coordinates, colors=(colors.values, colors.kind) if colors else None
        )
        setup = piff_setup(self.config, order=order, coordinates=coordinates, chromatic=colors is not None)
        psf = self._fit_or_fall_back(inputs, setup, coordinates, where)

        used = np.zeros(len(candidates), dtype=np.bool_)
        used[kept[[star["starId"] for star in psf.stars if _is_good(star)]]] = True
        if not self.config.debugStarData:
            psf.stars = [FittedStar.of(star) for star in psf.stars]
        draw_size = 2 * int(0.5 * stamp_size / self.config.samplingSize) + 1

        def wrapped(model: piff.PSF) -> PiffWrapper:
            return PiffWrapper(model, bounds=exposure.bbox, stamp_size=draw_size)

        chromatic = None
        if colors is not None and "colorValue" in psf.interp_property_names:
            chromatic, psf = wrapped(psf), at_color(psf, colors.mean)
        return Struct(psf=wrapped(psf), used=used, chromatic_psf=chromatic, available=len(inputs))

    def _drawn(self, n: int) -> npt.NDArray[np.intp]:
        """Return the indices of the candidates to fit."""
        if n <= self.config.maxCandidates:
            return np.arange(n)
        self.log.info("Fitting %d of %d candidates.", self.config.maxCandidates, n)
        # The legacy generator, so that the same stars are drawn as by the reference.
        rng = np.random.RandomState(self.config.downsampleRandomSeed)
        return np.sort(rng.choice(n, size=self.config.maxCandidates, replace=False))

    def _stamp_size(self, candidates: PsfCandidates) -> int:
        if self.config.stampSize is None:
            return candidates.size
        if self.config.stampSize > candidates.size:
            self.log.warning(
                "stampSize %d is larger than the candidates; using their %d.",
                self.config.stampSize, candidates.size,
            )  # fmt: skip
        return min(int(self.config.stampSize), candidates.size)

    def _colors(self, stars: PsfCandidates) -> _Colors | None:
        """Return the colours of the stars, unknown ones set to the mean; `None` if they do not matter.

        Raises
        ------
        ValueError
            Raised if colours of more than one kind are mixed.
        """
        if not self.config.useColor:
            return None
        known = np.isfinite(stars.color_value)
        if not known.any():
            self.log.warning("No star has a colour; the PSF will not depend on it.")
            return None
        kinds = sorted(set(stars.color_type[known].tolist()))
        if len(kinds) > 1:
            raise ValueError(f"PSF stars must have colours of one kind, found {', '.join(kinds)}.")
        mean = float(np.mean(stars.color_value[known], dtype=np.float64))
        return _Colors(np.where(known, stars.color_value, mean), kinds[0], mean)

    def _fit_or_fall_back(
        self, stars: list[piff.Star], setup: dict[str, Any], coordinates: PiffCoordinates, where: str
    ) -> piff.PSF:
        """Fit the model, or a constant one if there are too few stars and the configuration allows it."""
        needed = stars_needed(setup)
        good = None
        if len(stars) >= needed:
            psf = self._fit(stars, setup, coordinates, where)
            good = sum(map(_is_good, psf.stars))
            if good >= needed:
                return psf
        if not (self.config.zerothOrderInterpNotEnoughStars and stars and needed > 1):
            raise PiffTooFewGoodStarsError(len(stars), good, needed, where)
        self.log.warning(
            "%s: %d stars are too few for the PSF model (%d needed); fitting a constant PSF.",
            where, len(stars) if good is None else good, needed,
        )  # fmt: skip
        return self._fit(stars, constant_setup(setup), coordinates, where)

    def _fit(
        self, stars: list[piff.Star], setup: dict[str, Any], coordinates: PiffCoordinates, where: str
    ) -> piff.PSF:
        logger = piff.config.LoggerWrapper(self._piff_log)
        # Piff consumes the configuration it is given.
        psf = piff.PSF.process(copy.deepcopy(setup), logger=logger)
        try:
            if self.config.solver == "separable" and is_separable(psf, stars, coordinates.pointing):
                fit_pixel_grid(psf, stars, {0: coordinates.wcs}, logger=logger)
            else:
                with batched_solver(psf):
                    psf.fit(stars, {0: coordinates.wcs}, coordinates.pointing, logger=logger)
        except MemoryError:
            raise
        except Exception as error:
            raise PiffFitError(str(error), len(stars), where) from error
        return psf

    def _describe(
        self, psf: piff.PSF, order: int, available: int, metadata: MutableMapping[str, Any] | None
    ) -> None:
        """Note how the fit went."""
        positions = [star.image_pos for star in psf.stars if _is_good(star)]
        self.log.info(
            "Piff used %d of %d stars; chi-squared %.1f for %d degrees of freedom, %d iterations.",
            len(positions), available, psf.chisq, psf.dof, psf.niter,
        )  # fmt: skip
        if metadata is not None:
            metadata["spatialFitChi2"] = float(psf.chisq)
            # A model may have become constant for want of stars.
            interp = getattr(psf, "interp", None)
            metadata["spatialOrder"] = (
                int(interp._orders[0]) if isinstance(interp, piff.BasisPolynomial) else order
            )
            metadata["numAvailStars"] = available
            metadata["numGoodStars"] = len(positions)
            metadata["avgX"] = float(np.mean([p.x for p in positions]))
            metadata["avgY"] = float(np.mean([p.y for p in positions]))

    def _describe_held_out(
        self, psf: PointSpreadFunction, stars: PsfCandidates, metadata: MutableMapping[str, Any] | None
    ) -> None:
        """Note how well the PSF predicts stars that were not fitted."""
        residuals = held_out_residuals(psf, stars, self._inverse_variance(stars.stamps))
        self.log.info(
            "%d held-out stars: size %+.4f +- %.4f, e1 %+.4f, e2 %+.4f, chi-squared %.3f.",
            len(stars), *median_and_scatter(residuals.size), median_and_scatter(residuals.e1)[0],
            median_and_scatter(residuals.e2)[0], median_and_scatter(residuals.chi2)[0],
        )  # fmt: skip
        if metadata is not None:
            metadata["numHeldOutStars"] = len(stars)
            for name, values in (("Size", residuals.size), ("E1", residuals.e1), ("E2", residuals.e2)):
                metadata[f"heldOut{name}Median"], metadata[f"heldOut{name}Scatter"] = median_and_scatter(
                    values
                )
            metadata["heldOutChi2Median"] = median_and_scatter(residuals.chi2)[0]


def _is_good(star: Any) -> bool:
    return not (star.is_flagged or star.is_reserve)
