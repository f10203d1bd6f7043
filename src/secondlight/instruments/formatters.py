"""How images are stored: intermediate ones as plain FITS, final ones compressed without loss."""

from __future__ import annotations

__all__ = ("LOSSLESS", "FastGzipFormatter", "UncompressedFormatter")

from typing import Any

from lsst.images.fits import FitsCompressionAlgorithm, FitsCompressionOptions
from lsst.images.formatters import GenericFormatter
from lsst.images.serialization import open_archive

from .fast_gzip import FastGzipOptions

LOSSLESS: dict[str, FitsCompressionOptions] = {
    "image": FastGzipOptions(),
    "variance": FastGzipOptions(),
    # Integers, of which Rice loses nothing; read twice as fast as gzip.
    "mask": FitsCompressionOptions(algorithm=FitsCompressionAlgorithm.RICE_1, tile_shape=(256, 256)),
}
"""How the planes of an image are compressed if no write recipe says otherwise."""


class _PlaneReader(GenericFormatter):
    """Reads an image plane by plane, so that the file is never in memory beside what is made of it."""

    def read_from_local_file(self, path: str, component: str | None = None, expected_size: int = -1) -> Any:
        """Read the dataset, a component or a cutout from a local file."""
        if component is not None or self.file_descriptor.parameters:
            return super().read_from_local_file(path, component, expected_size)
        pytype: type[Any] = self.file_descriptor.storageClass.pytype
        with open_archive(path, cls=pytype, partial=True) as reader:
            return reader.read()


class UncompressedFormatter(_PlaneReader):
    """Stores an image of `lsst.images` as FITS without compression.

    A write recipe of the parent class can choose a compression but not say that there is none, so the choice
    is made by class: ``butler.yaml`` names this formatter for the intermediate dataset types, which are
    written and read once.
    """

    def _get_compression_options(self) -> dict[str, FitsCompressionOptions | None]:  # type: ignore[override]
        return dict.fromkeys(LOSSLESS)


class FastGzipFormatter(_PlaneReader):
    """Stores an image or a mask of `lsst.images` as FITS, compressed without loss, fast.

    Planes that a write recipe names are compressed as it says.
    """

    def _get_compression_options(self) -> dict[str, FitsCompressionOptions]:
        return LOSSLESS | super()._get_compression_options()
