"""Photometric calibration of catalogs and pixels (spec reprocess 19)."""

from __future__ import annotations

__all__ = (
    "calibrate_catalog",
    "calibrate_image",
    "calibration_metadata",
    "count_unit",
    "photo_calib_of",
    "scaling_to_photo_calib",
    "total_flux_error",
)

import dataclasses
import math

import astropy.units as u
import numpy as np
from lsst.images import Image, VisitImage
from lsst.images.fields import Field
from lsst.images.serialization import MetadataValue

from ..catalog.photo_calib import AB_FLUX_NJY, PhotoCalib
from ..catalog.source_catalog import SourceCatalog
from ..catalog.strips import field_values, row_strips
from ..catalog.visit_image import replace_components

_SUFFIX = "_instFlux"
_MEAN_GRID = 64
_SAME = 1e-6


def calibrate_catalog(catalog: SourceCatalog, photo_calib: PhotoCalib) -> SourceCatalog:
    """Return a catalog with calibrated columns added for every instrumental flux.

    Each real column ``<name>_instFlux`` gives ``<name>_flux`` (nJy) and ``<name>_mag`` (AB), and
    ``<name>_fluxErr`` and ``<name>_magErr`` if it has an error.  The uncertainty of the calibration itself is
    not part of these errors: it is in the metadata, and `total_flux_error` adds it.  Magnitudes of fluxes
    that are not positive are NaN, and so is everything of a source without a position if the calibration
    varies.

    Parameters
    ----------
    catalog
        Measured sources; left unchanged, and the result shares nothing with it but the footprints.
    photo_calib
        Calibration in nJy per count, evaluated at ``slot_Centroid``.

    Raises
    ------
    ValueError
        Raised if the catalog is calibrated already, or has no ``slot_Centroid`` where the calibration varies,
        or the calibration is no positive number.
    """
    _check_calibration(photo_calib)
    names = [f.name.removesuffix(_SUFFIX) for f in catalog.schema if f.name.endswith(_SUFFIX)]
    calibrated = [f"{name}_flux" for name in names if f"{name}_flux" in catalog.schema.names]
    if calibrated:
        raise ValueError(f"The catalog is calibrated already: it has {', '.join(calibrated)}.")
    result = catalog.copy()
    scale = _calibration_of_rows(result, photo_calib)
    for name in names:
        _add_calibrated_columns(result, name, scale)
    result.metadata.update(calibration_metadata(photo_calib, u.ct))
    return result


def _calibration_of_rows(catalog: SourceCatalog, photo_calib: PhotoCalib) -> np.ndarray:
    """Return the calibration at each source, nJy per count; NaN where it varies and there is no position."""
    if photo_calib.field is None:
        return np.full(len(catalog), photo_calib.mean)
    if "slot_Centroid_x" not in catalog:
        raise ValueError("The calibration varies over the image, but the catalog has no slot_Centroid.")
    x, y = catalog["slot_Centroid_x"], catalog["slot_Centroid_y"]
    scale = np.full(len(catalog), np.nan)
    known = np.isfinite(x) & np.isfinite(y)
    scale[known] = photo_calib.evaluate(x=x[known], y=y[known])
    return scale


def _add_calibrated_columns(catalog: SourceCatalog, name: str, scale: np.ndarray) -> None:
    """Add flux and magnitude of one instrumental flux, and their errors if it has one."""
    schema = catalog.schema
    measured = schema[f"{name}_instFlux"]
    has_error = f"{name}_instFluxErr" in schema.names
    schema.add(f"{name}_flux", np.float64, measured.doc, unit="nJy")
    if has_error:
        schema.add(f"{name}_fluxErr", np.float64, schema[f"{name}_instFluxErr"].doc, unit="nJy")
    schema.add(f"{name}_mag", np.float64, f"AB magnitude: {measured.doc}", unit="mag")
    flux = catalog[measured.name] * scale
    with np.errstate(invalid="ignore"):
        positive = np.where(flux > 0, flux, np.nan)
    catalog[f"{name}_flux"] = flux
    catalog[f"{name}_mag"] = -2.5 * np.log10(positive / AB_FLUX_NJY)
    if has_error:
        doc = f"uncertainty of the AB magnitude: {measured.doc}"
        schema.add(f"{name}_magErr", np.float64, doc, unit="mag")
        error = catalog[f"{name}_instFluxErr"] * scale
        catalog[f"{name}_fluxErr"] = error
        catalog[f"{name}_magErr"] = 2.5 / math.log(10) * error / positive


def calibrate_image(image: VisitImage, photo_calib: PhotoCalib) -> VisitImage:
    """Return an image with pixels in nJy and variance in nJy2.

    The photometric scaling that was applied stays attached, so ``convert_unit`` of the result leads back (to
    a few units in the last place; `secondlight.photometry.restore.restore_counts` does better).  The metadata
    get the calibration and its uncertainty.

    Parameters
    ----------
    image
        Image in counts; left unchanged.
    photo_calib
        Calibration in nJy per count.

    Raises
    ------
    ValueError
        Raised if the image is calibrated already, or the calibration is no positive number.
    """
    _check_calibration(photo_calib)
    if image.unit.is_equivalent(u.nJy):
        raise ValueError(f"The image is calibrated already: its unit is {image.unit}, expected counts.")
    scaling = photo_calib.to_field(image.bbox, image.unit)
    pixels, variance = np.empty_like(image.image.array), np.empty_like(image.variance.array)
    for rows, strip in row_strips(image.bbox):
        # Double precision and one rounding: what is published is the nearest number to the true product.
        factor = field_values(scaling, strip)
        pixels[rows] = image.image.array[rows] * factor
        variance[rows] = image.variance.array[rows] * factor**2
    return replace_components(
        image,
        image=Image(pixels, bbox=image.bbox, unit=u.nJy),
        variance=Image(variance, bbox=image.bbox, unit=u.nJy**2),
        photometric_scaling=scaling,
        metadata=dict(image.metadata) | calibration_metadata(photo_calib, image.unit),
    )


def _check_calibration(photo_calib: PhotoCalib) -> None:
    if not 0.0 < photo_calib.mean < math.inf:
        raise ValueError(
            f"The mean of the photometric calibration is {photo_calib.mean}; expected a positive number of "
            "nJy per count."
        )


def calibration_metadata(photo_calib: PhotoCalib, count_unit: u.UnitBase) -> dict[str, MetadataValue]:
    """Return a calibration as plain values for the metadata of what it was applied to.

    Parameters
    ----------
    photo_calib
        Calibration.
    count_unit
        What it multiplies.

    Returns
    -------
    metadata
        ``photo_calib_mean`` and ``photo_calib_error`` in ``photo_calib_unit``, ``photo_calib_varies``, and
        the AB magnitude of one count, ``zero_point``, with its uncertainty ``zero_point_error`` in mag.
    """
    return {
        "photo_calib_mean": float(photo_calib.mean),
        "photo_calib_error": float(photo_calib.error),
        "photo_calib_unit": (u.nJy / count_unit).to_string(),
        "photo_calib_varies": photo_calib.field is not None and not photo_calib.field.is_constant,
        "zero_point": float(photo_calib.zero_point),
        "zero_point_error": float(photo_calib.zero_point_error),
    }


def total_flux_error(
    flux: np.ndarray,
    flux_err: np.ndarray,
    *,
    calib: np.ndarray | float = 1.0,
    calib_err: np.ndarray | float = 0.0,
    ap_corr: np.ndarray | float = 1.0,
    ap_corr_err: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Return the uncertainty of calibrated fluxes with those of the corrections they were multiplied by.

    Published errors hold the noise of the pixels alone.  Calibration and aperture correction are shared by
    all sources of a detector: what they add does not average down over sources, and does not matter for
    the ratio of two fluxes of one detector.

    Parameters
    ----------
    flux, flux_err
        Flux and its published error, in one unit (instrumental or calibrated).
    calib, calib_err
        Calibration at the source and its uncertainty (``base_LocalPhotoCalib``, ``base_LocalPhotoCalibErr``);
        not to be given for instrumental fluxes.
    ap_corr, ap_corr_err
        Aperture correction at the source and its uncertainty (``<name>_apCorr``, ``<name>_apCorrErr``).

    Returns
    -------
    error
        In the unit of ``flux``.
    """
    flux = np.asarray(flux, dtype=np.float64)
    variance = np.square(np.asarray(flux_err, dtype=np.float64))
    for factor, error in ((calib, calib_err), (ap_corr, ap_corr_err)):
        variance = variance + np.square(flux * np.asarray(error) / np.asarray(factor))
    return np.asarray(np.sqrt(variance))


def count_unit(image: VisitImage) -> tuple[u.UnitBase, float]:
    """Return the unit of the counts that an image was made from, or is in.

    Returns
    -------
    unit
        Unit of the post-ISR pixels.
    factor
        What the photometric scaling must be multiplied by to turn counts into the unit of the image: 1 if
        that is nJy.

    Raises
    ------
    ValueError
        Raised if the image is in units of flux and has no photometric scaling.
    """
    scaling = image.photometric_scaling
    if not image.unit.is_equivalent(u.nJy):
        return image.unit, 1.0
    if scaling is None or scaling.unit is None:
        raise ValueError(
            f"The image of visit {image.obs_info.visit_id} is in {image.unit} but carries no photometric "
            "scaling; its counts are lost."
        )
    unit = (u.nJy / scaling.unit).decompose()
    return u.Unit(unit / unit.scale), 1.0 / (unit.scale * float(image.unit.to(u.nJy)))


def photo_calib_of(image: VisitImage) -> PhotoCalib:
    """Return the photometric calibration that an image carries, with its uncertainty if the metadata know it.

    Parameters
    ----------
    image
        Image in counts or in units of flux.

    Raises
    ------
    ValueError
        Raised if the image has no photometric scaling.
    """
    if image.photometric_scaling is None:
        raise ValueError(f"The image of visit {image.obs_info.visit_id} has no photometric scaling.")
    calib = scaling_to_photo_calib(image.photometric_scaling, count_unit(image)[0])
    mean, error = (image.metadata.get(f"photo_calib_{name}") for name in ("mean", "error"))
    if not isinstance(mean, float) or not isinstance(error, float):
        return calib
    # The scaling may have been replaced since; then the metadata tell of another.
    same = calib.field is not None or math.isclose(mean, calib.mean, rel_tol=_SAME)
    return dataclasses.replace(calib, mean=mean, error=error) if same else calib


def scaling_to_photo_calib(scaling: Field, count_unit: u.UnitBase) -> PhotoCalib:
    """Return the photometric scaling of an image in counts as a calibration.

    Parameters
    ----------
    scaling
        Field that turns counts into a flux density, as a `lsst.images.VisitImage` carries it.
    count_unit
        Unit of the pixels.

    Raises
    ------
    astropy.units.UnitConversionError
        Raised if the product of the units is no flux density.
    """
    assert scaling.unit is not None, "the photometric scaling of a VisitImage has a unit"
    factor = float((scaling.unit * count_unit).to(u.nJy))
    box = scaling.bounds.bbox
    if scaling.is_constant:
        return PhotoCalib(factor * float(scaling(x=float(box.x.start), y=float(box.y.start))))
    steps = (np.arange(_MEAN_GRID) + 0.5) / _MEAN_GRID
    x, y = np.meshgrid(box.x.start - 0.5 + steps * box.x.size, box.y.start - 0.5 + steps * box.y.size)
    mean = factor * float(np.mean(scaling(x=x.ravel(), y=y.ravel())))
    return PhotoCalib(mean, field=scaling)
