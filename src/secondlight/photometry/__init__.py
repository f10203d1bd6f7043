"""Photometry: aperture corrections, calibration to nJy, catalog calculations and summary statistics."""
