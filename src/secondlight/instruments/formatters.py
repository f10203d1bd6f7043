"""How images are stored: intermediate ones as plain FITS, final ones compressed without loss."""

from __future__ import annotations

__all__ = ("FastGzipFormatter", "UncompressedFormatter")

from lsst.images.fits import FitsCompressionOptions
from lsst.images.formatters import GenericFormatter

from .fast_gzip import FastGzipOptions

_PLANES = ("image", "mask", "variance")


class UncompressedFormatter(GenericFormatter):
    """Stores an image of `lsst.images` as FITS without compression.

    A write recipe of the parent class can choose a compression but not say that there is none, so the choice
    is made by class: ``butler.yaml`` names this formatter for the intermediate dataset types, which are
    written and read once.
    """

    def _get_compression_options(self) -> dict[str, FitsCompressionOptions | None]:  # type: ignore[override]
        return dict.fromkeys(_PLANES)


class FastGzipFormatter(GenericFormatter):
    """Stores an image of `lsst.images` as FITS, compressed without loss, fast.

    Planes that a write recipe names are compressed as it says.
    """

    def _get_compression_options(self) -> dict[str, FitsCompressionOptions]:
        return dict.fromkeys(_PLANES, FastGzipOptions()) | super()._get_compression_options()
