"""Apertures for SDSS frames.

Radii are in pixels, and the defaults suit pixels of 0.2 arcsec.  On the 0.396 arcsec pixels of SDSS a
calibration aperture of 7 pixels (2.8 arcsec) is the counterpart of the default of 12 (2.4 arcsec).
"""

for name in ("psf_source_measurement", "star_measurement", "measurement"):
    if hasattr(config, name):  # noqa: F821
        measurement = getattr(config, name)  # noqa: F821
        measurement.plugins["base_CircularApertureFlux"].radii = [
            3.0, 4.5, 6.0, 7.0, 9.0, 12.0, 17.0, 25.0, 35.0, 50.0, 70.0
        ]  # fmt: skip
        measurement.plugins["base_CompensatedTophatFlux"].apertures = [7]
        measurement.slots.apFlux = "base_CircularApertureFlux_7_0"
        measurement.slots.calibFlux = "base_CircularApertureFlux_7_0"

for name in ("star_normalized_calibration_flux", "normalized_calibration_flux"):
    if hasattr(config, name):  # noqa: F821
        normalization = getattr(config, name)  # noqa: F821
        normalization.raw_calibflux_name = "base_CompensatedTophatFlux_7"
        normalization.measure_ap_corr.refFluxName = "base_CircularApertureFlux_7_0"
