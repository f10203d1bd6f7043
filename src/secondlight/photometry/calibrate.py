"""Photometric calibration of catalogs and pixels (spec reprocess 19)."""

from __future__ import annotations

__all__ = ("calibrate_catalog", "calibrate_image", "scaling_to_photo_calib")

import math

import astropy.units as u
import numpy as np
from lsst.images import VisitImage
from lsst.images.fields import Field

from ..catalog.photo_calib import AB_FLUX_NJY, PhotoCalib
from ..catalog.source_catalog import SourceCatalog
from ..catalog.visit_image import replace_components

_SUFFIX = "_instFlux"
_MEAN_GRID = 64


def calibrate_catalog(catalog: SourceCatalog, photo_calib: PhotoCalib) -> SourceCatalog:
    """Return a catalog with calibrated columns added for every instrumental flux.

    Each real column ``<name>_instFlux`` gives ``<name>_flux`` (nJy) and ``<name>_mag`` (AB), and
    ``<name>_fluxErr`` and ``<name>_magErr`` if it has an error.  The uncertainty of the calibration itself is
    not part of these errors.  Magnitudes of fluxes that are not positive are NaN.

    Parameters
    ----------
    catalog
        Measured sources; left unchanged, and the result shares nothing with it but the footprints.
    photo_calib
        Calibration in nJy per count, evaluated at ``slot_Centroid``.
    """
    result = catalog.copy()
    schema = result.schema
    if photo_calib.field is None:
        scale = np.full(len(result), photo_calib.mean)
    else:
        scale = photo_calib.evaluate(x=result["slot_Centroid_x"], y=result["slot_Centroid_y"])
    for field in [f for f in catalog.schema if f.name.endswith(_SUFFIX)]:
        name = field.name.removesuffix(_SUFFIX)
        has_error = f"{field.name}Err" in catalog.schema.names
        schema.add(f"{name}_flux", np.float64, field.doc, unit="nJy")
        if has_error:
            schema.add(f"{name}_fluxErr", np.float64, schema[f"{field.name}Err"].doc, unit="nJy")
        schema.add(f"{name}_mag", np.float64, f"AB magnitude: {field.doc}", unit="mag")
        flux = result[field.name] * scale
        with np.errstate(invalid="ignore"):
            positive = np.where(flux > 0, flux, np.nan)
        result[f"{name}_flux"] = flux
        result[f"{name}_mag"] = -2.5 * np.log10(positive / AB_FLUX_NJY)
        if has_error:
            doc = f"uncertainty of the AB magnitude: {field.doc}"
            schema.add(f"{name}_magErr", np.float64, doc, unit="mag")
            error = result[f"{field.name}Err"] * scale
            result[f"{name}_fluxErr"] = error
            result[f"{name}_magErr"] = 2.5 / math.log(10) * error / positive
    return result


def calibrate_image(image: VisitImage, photo_calib: PhotoCalib) -> VisitImage:
    """Return an image with pixels in nJy and variance in nJy2.

    The photometric scaling that was applied stays attached, so ``convert_unit`` of the result leads back.

    Parameters
    ----------
    image
        Image in counts; left unchanged.
    photo_calib
        Calibration in nJy per count.

    Raises
    ------
    ValueError
        Raised if the image is calibrated already.
    """
    if image.unit.is_equivalent(u.nJy):
        raise ValueError(f"The image is calibrated already: its unit is {image.unit}, expected counts.")
    calibrated = replace_components(image, photometric_scaling=photo_calib.to_field(image.bbox, image.unit))
    return calibrated.convert_unit(u.nJy, copy="as-needed")


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
    steps = (np.arange(_MEAN_GRID) + 0.5) / _MEAN_GRID
    x, y = np.meshgrid(box.x.start - 0.5 + steps * box.x.size, box.y.start - 0.5 + steps * box.y.size)
    mean = factor * float(np.mean(scaling(x=x.ravel(), y=y.ravel())))
    if scaling.is_constant:
        return PhotoCalib(mean)
    return PhotoCalib(mean, field=scaling if factor == 1.0 else scaling * factor)
