"""How intermediate images are stored: plain FITS, because they are written and read once and time matters."""

from __future__ import annotations

__all__ = ("UncompressedFormatter",)

from lsst.images.fits import FitsCompressionOptions
from lsst.images.formatters import GenericFormatter


class UncompressedFormatter(GenericFormatter):
    """Stores an image of `lsst.images` as FITS without compression.

    A write recipe of the parent class can choose a compression but not say that there is none, so the choice
    is made by class: ``butler.yaml`` names this formatter for the intermediate dataset types.
    """

    def _get_compression_options(self) -> dict[str, FitsCompressionOptions | None]:  # type: ignore[override]
        return dict.fromkeys(("image", "mask", "variance"))
