"""How much ellipticity residuals of neighbouring stars have in common (spec reprocess 20.2, psfTE)."""

from __future__ import annotations

__all__ = (
    "EllipticityCorrelation",
    "EllipticityCorrelationConfig",
    "EllipticityCorrelationTask",
)

from typing import ClassVar, NamedTuple

import numpy as np
import treecorr
from lsst.pex.config import Config, Field
from lsst.pipe.base import Task


class EllipticityCorrelation(NamedTuple):
    """Mean products of the residuals (de1, de2) of pairs of stars: de1 de1, de2 de2 and de1 de2."""

    e1: float
    e2: float
    ex: float


class EllipticityCorrelationConfig(Config):
    """Configuration of `EllipticityCorrelationTask`."""

    min_sep = Field[float](doc="Smallest distance of a pair, arcmin.", default=0.0)
    max_sep = Field[float](doc="Distance that pairs stay below, arcmin.", default=1.0)

    def validate(self) -> None:
        """Check the order of the limits.

        Raises
        ------
        ValueError
            Raised if there is no distance between them.
        """
        super().validate()
        if not 0 <= self.min_sep < self.max_sep:
            raise ValueError(
                f"Expected 0 <= min_sep < max_sep; found min_sep={self.min_sep}, max_sep={self.max_sep}."
            )


class EllipticityCorrelationTask(Task):
    """Correlate ellipticity residuals over a range of distances on the sky."""

    ConfigClass: ClassVar[type[Config]] = EllipticityCorrelationConfig
    _DefaultName: ClassVar[str] = "ellipticityCorrelation"
    config: EllipticityCorrelationConfig

    def run(
        self, *, ra: np.ndarray, dec: np.ndarray, delta_e1: np.ndarray, delta_e2: np.ndarray
    ) -> EllipticityCorrelation:
        """Return the mean products over all pairs of different stars; NaN without a pair.

        Parameters
        ----------
        ra, dec
            Positions, radians, shape (n,).
        delta_e1, delta_e2
            Ellipticities of the stars minus those of the PSF, shape (n,); stars where anything is not finite
            are left out.
        """
        good = np.isfinite(ra) & np.isfinite(dec) & np.isfinite(delta_e1) & np.isfinite(delta_e2)
        ra, dec, delta_e1, delta_e2 = ra[good], dec[good], delta_e1[good], delta_e2[good]
        e1, e2, total = (self._mean_square(ra, dec, k) for k in (delta_e1, delta_e2, delta_e1 + delta_e2))
        # A correlation of one quantity with another would pair each star with itself, too.
        return EllipticityCorrelation(e1, e2, (total - e1 - e2) / 2)

    def _mean_square(self, ra: np.ndarray, dec: np.ndarray, value: np.ndarray) -> float:
        """Return the mean product of a quantity over pairs of stars."""
        if len(ra) < 2:
            return float("nan")
        # Without slop every pair is in its bin or out of it, as if pairs were counted one by one.
        correlation = treecorr.KKCorrelation(
            min_sep=self.config.min_sep,
            max_sep=self.config.max_sep,
            nbins=1,
            bin_type="Linear",
            sep_units="arcmin",
            bin_slop=0,
            metric="Arc",
        )
        stars = treecorr.Catalog(ra=ra, dec=dec, ra_units="rad", dec_units="rad", k=value)
        correlation.process(stars, num_threads=1)
        return float(correlation.xi[0]) if correlation.npairs[0] else float("nan")
