"""Aperture corrections: a reference flux over each other flux, across the image (spec finalize 10)."""

from __future__ import annotations

__all__ = (
    "MAD_TO_SIGMA",
    "ApCorrFit",
    "ChebyshevBoundedFieldConfig",
    "MeasureApCorrConfig",
    "MeasureApCorrError",
    "MeasureApCorrTask",
    "fit_ap_corr",
    "robust_sigma",
)

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import numpy as np
from lsst.images import Box
from lsst.images.fields import ChebyshevField
from lsst.pex.config import Config, ConfigField, Field, FieldValidationError, ListField, RangeField
from lsst.pipe.base import AlgorithmError, Struct, Task

from ..catalog.schema import Schema
from ..catalog.source_catalog import SourceCatalog
from ..psf.source_selectors import BaseSourceSelectorTask, sourceSelectorRegistry
from .ap_corr_names import ap_corr_names

MAD_TO_SIGMA = 1.482602218505602
# Keeps a set of identical ratios from clipping itself away.
_MINIMUM_SIGMA = 1e-7

_BAD_PIXEL_FLAGS = (
    "edge", "nodata", "interpolatedCenter", "saturatedCenter", "crCenter", "bad", "interpolated", "saturated",
)  # fmt: skip


class ChebyshevBoundedFieldConfig(Config):
    """Order of a two-dimensional Chebyshev polynomial."""

    orderX = RangeField(dtype=int, doc="Highest order in x.", default=2, min=0)
    orderY = RangeField(dtype=int, doc="Highest order in y.", default=2, min=0)
    triangular = Field[bool](
        doc="Whether to keep only the terms with x order + y order <= max(orderX, orderY).", default=True
    )

    def coefficient_count(self, order_x: int, order_y: int) -> int:
        """Return the number of free coefficients of a polynomial of these orders."""
        if not self.triangular:
            return (order_x + 1) * (order_y + 1)
        top = max(order_x, order_y)
        return sum(i + j <= top for i in range(order_x + 1) for j in range(order_y + 1))


class MeasureApCorrConfig(Config):
    """Configuration of `MeasureApCorrTask`."""

    refFluxName = Field[str](doc="Column prefix of the reference flux.", default="slot_CalibFlux")
    sourceSelector = sourceSelectorRegistry.makeField(
        doc="Chooses the stars to measure on.", default="science"
    )
    minDegreesOfFreedom = RangeField(
        dtype=int,
        doc="Stars there must be beyond the number of coefficients; the order is lowered until there are.",
        default=1,
        min=1,
    )
    fitConfig = ConfigField[ChebyshevBoundedFieldConfig](doc="Polynomial fitted to the ratios.")
    numIter = RangeField(dtype=int, doc="Number of clip-and-fit rounds.", default=4, min=1)
    numSigmaClip = Field[float](
        doc="Ratios farther than this many sigma from the fit are dropped.", default=4.0
    )
    doFinalMedianShift = Field[bool](
        doc="Whether to shift the fitted field so that the median residual is zero.", default=True
    )
    allowFailure = ListField[str](
        doc="Column prefixes of fluxes whose failure is of no consequence.", default=[]
    )

    def setDefaults(self) -> None:
        """Select unresolved, clean stars of high signal-to-noise."""
        super().setDefaults()
        selector = self.sourceSelector["science"]
        selector.doFluxLimit = False
        selector.doFlags = True
        selector.doUnresolved = True
        selector.doSignalToNoise = True
        selector.doIsolated = False
        selector.flags.bad = [f"base_PixelFlags_flag_{name}" for name in _BAD_PIXEL_FLAGS]
        selector.signalToNoise.fluxField = "base_PsfFlux_instFlux"
        selector.signalToNoise.errField = "base_PsfFlux_instFluxErr"
        selector.signalToNoise.minimum = 200.0
        selector.signalToNoise.maximum = None

    def validate(self) -> None:
        """Refuse selectors that need a match to an external catalog, which this task does not have."""
        super().validate()
        if getattr(self.sourceSelector.target, "usesMatches", False):
            raise FieldValidationError(
                MeasureApCorrConfig.sourceSelector,
                self,
                f"selector {self.sourceSelector.name!r} needs matches to an external catalog.",
            )


class MeasureApCorrError(AlgorithmError):
    """No aperture correction could be measured.

    Parameters
    ----------
    name
        Column prefix of the flux.
    n_sources
        Number of stars left.
    ndof
        Degrees of freedom left.
    iteration
        Clip-and-fit round that failed; `None` before the first.
    """

    def __init__(self, *, name: str, n_sources: int, ndof: int, iteration: int | None = None) -> None:
        when = "" if iteration is None else f" in iteration {iteration}"
        super().__init__(
            f"Aperture correction of {name!r} failed{when}: {n_sources} stars, {ndof} degrees of freedom."
        )
        self._metadata: dict[str, Any] = {"name": name, "n_sources": n_sources, "ndof": ndof}
        if iteration is not None:
            self._metadata["iteration"] = iteration

    @property
    def metadata(self) -> dict[str, Any]:
        """Numbers that describe the failure."""
        return self._metadata


class ApCorrFit(NamedTuple):
    """A fitted aperture correction: field, scatter of the ratios about it, and which stars were used."""

    field: ChebyshevField
    sigma: float
    used: np.ndarray


def robust_sigma(values: np.ndarray) -> float:
    """Return 1.4826 times the median absolute deviation from the median; NaN if there are no values."""
    if not len(values):
        return float("nan")
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def fit_ap_corr(
    bbox: Box, *, x: np.ndarray, y: np.ndarray, ratio: np.ndarray, config: MeasureApCorrConfig, name: str
) -> ApCorrFit:
    """Fit a Chebyshev field to flux ratios with iterative clipping (spec finalize 10).

    A star once clipped stays out, and an order once lowered stays low.

    Parameters
    ----------
    bbox
        Domain of the polynomial.
    x, y, ratio
        Positions and flux ratios, shape (n,).
    config
        Orders, clipping and shift.
    name
        Column prefix of the flux, for error messages.

    Raises
    ------
    MeasureApCorrError
        Raised if too few stars are left for a constant.
    """
    if len(ratio) - 1 < config.minDegreesOfFreedom:
        raise MeasureApCorrError(name=name, n_sources=len(ratio), ndof=len(ratio) - 1)
    rows = np.arange(len(ratio))
    order_x, order_y = config.fitConfig.orderX, config.fitConfig.orderY
    model = np.full(len(ratio), np.median(ratio))
    for iteration in range(config.numIter):
        residual = ratio[rows] - model
        keep = np.abs(residual) <= config.numSigmaClip * (robust_sigma(residual) + _MINIMUM_SIGMA)
        rows = rows[keep]
        while (
            ndof := len(rows) - config.fitConfig.coefficient_count(order_x, order_y)
        ) < config.minDegreesOfFreedom:
            if order_x == 0 or order_y == 0:
                raise MeasureApCorrError(name=name, n_sources=len(rows), ndof=ndof, iteration=iteration)
            order_x, order_y = order_x - 1, order_y - 1
        field = ChebyshevField.fit(
            bbox,
            ratio[rows],
            x=x[rows],
            y=y[rows],
            x_order=order_x,
            y_order=order_y,
            triangular=config.fitConfig.triangular,
        )
        model = field(x=x[rows], y=y[rows])
    if config.doFinalMedianShift:
        coefficients = field.coefficients.copy()
        coefficients[0, 0] -= np.median(model - ratio[rows])
        field = ChebyshevField(bbox, coefficients)
    used = np.zeros(len(ratio), dtype=bool)
    used[rows] = True
    return ApCorrFit(field, robust_sigma(ratio[rows] - field(x=x[rows], y=y[rows])), used)


class MeasureApCorrTask(Task):
    """Measures the aperture correction of every registered flux against a reference flux.

    Parameters
    ----------
    schema
        Schema of the catalogs; must hold the reference flux.  The flags ``apcorr_<name>_used`` are added.
    names
        Column prefixes to measure; by default all registered ones.  Names without ``_instFlux``,
        ``_instFluxErr`` and ``_flag`` in the schema are left out.

    Raises
    ------
    KeyError
        Raised if the schema lacks the reference flux.
    """

    ConfigClass: ClassVar[type[Config]] = MeasureApCorrConfig
    _DefaultName: ClassVar[str] = "measureApCorr"
    config: MeasureApCorrConfig
    sourceSelector: BaseSourceSelectorTask

    def __init__(self, schema: Schema, names: Iterable[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("sourceSelector")
        reference = self.config.refFluxName
        for suffix in ("_instFlux", "_flag"):
            if reference + suffix not in schema:
                raise KeyError(
                    f"Aperture corrections need the reference flux column {reference + suffix!r}, "
                    "which the schema lacks."
                )
        candidates = sorted(ap_corr_names() if names is None else set(names))
        self.names = [
            name
            for name in candidates
            if all(name + suffix in schema for suffix in ("_instFlux", "_instFluxErr", "_flag"))
        ]
        for name in dict.fromkeys([reference, *self.names]):
            schema.add_flag(f"apcorr_{name}_used", f"used to measure the aperture correction of {name}")

    def run(self, bbox: Box, catalog: SourceCatalog) -> Struct:
        """Measure the aperture corrections of a catalog and set its ``apcorr_<name>_used`` flags.

        A flux that cannot be fitted is left out of the map with a warning and costs the others nothing.

        Parameters
        ----------
        bbox
            Pixels of the image; stars outside are not used.
        catalog
            Measured sources.

        Returns
        -------
        struct
            ``ap_corr_map``: `dict` of fields keyed ``<name>_instFlux`` and ``<name>_instFluxErr`` (a
            constant: the robust scatter of the ratios about the fit); ``failed``: `dict` of errors by name.

        Raises
        ------
        MeasureApCorrError
            Raised if not one flux could be fitted and at least one of them is not in ``allowFailure``.
        """
        reference = self.config.refFluxName
        ref_flux = np.asarray(catalog[reference + "_instFlux"])
        x, y = np.asarray(catalog["slot_Centroid_x"]), np.asarray(catalog["slot_Centroid_y"])
        stars = np.asarray(self.sourceSelector.select_sources(catalog)) & np.isfinite(ref_flux)
        stars &= ~np.asarray(catalog[reference + "_flag"]) & np.asarray(bbox_contains(bbox, x=x, y=y))
        result: dict[str, Any] = {}
        failed: dict[str, MeasureApCorrError] = {}
        for name in self.names:
            flux = np.asarray(catalog[name + "_instFlux"])
            with np.errstate(invalid="ignore"):
                good = stars & ~np.asarray(catalog[name + "_flag"]) & np.isfinite(flux) & (flux > 0)
            (rows,) = np.nonzero(good)
            ratio = ref_flux[rows] / flux[rows]
            try:
                fit = fit_ap_corr(bbox, x=x[rows], y=y[rows], ratio=ratio, config=self.config, name=name)
            except MeasureApCorrError as error:
                failed[name] = error
                self.log.warning("%s", error)
                continue
            self.log.info(
                "Aperture correction of %s: scatter %.4f with %d stars.", name, fit.sigma, fit.used.sum()
            )
            result[name + "_instFlux"] = fit.field
            result[name + "_instFluxErr"] = ChebyshevField(bbox, np.array([[fit.sigma]]))
            catalog[f"apcorr_{name}_used"][rows[fit.used]] = True
            catalog[f"apcorr_{reference}_used"][rows[fit.used]] = True
        if not result:
            required = [name for name in failed if name not in self.config.allowFailure]
            if required:
                raise failed[required[0]]
        return Struct(ap_corr_map=result, failed=failed)


def bbox_contains(bbox: Box, *, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return whether positions lie within the outer edges of the pixels of a box; False for NaN."""
    inside_x = (x >= bbox.x.start - 0.5) & (x <= bbox.x.stop - 0.5)
    return np.asarray(inside_x & (y >= bbox.y.start - 0.5) & (y <= bbox.y.stop - 0.5))
