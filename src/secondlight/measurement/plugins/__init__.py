"""The plugins that come with the package; importing this registers them."""

from . import (
    aperture_flux,
    blendedness,
    compensated_flux,
    extendedness,
    gaussian_flux,
    hsm,
    hsm_shape,
    kron_flux,
    local_photo_calib,
    local_pixels,
    naive_centroid,
    pixel_flags,
    psf_flux,
    sdss_centroid,
    sdss_shape,
    sky_position,
)

__all__ = (
    "aperture_flux",
    "blendedness",
    "compensated_flux",
    "extendedness",
    "gaussian_flux",
    "hsm",
    "hsm_shape",
    "kron_flux",
    "local_photo_calib",
    "local_pixels",
    "naive_centroid",
    "pixel_flags",
    "psf_flux",
    "sdss_centroid",
    "sdss_shape",
    "sky_position",
)
