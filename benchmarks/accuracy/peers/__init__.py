"""Other programs measuring the same images: `sep`, and Source Extractor with PSFEx."""

from __future__ import annotations

from ._common import APERTURE_RADII, PeerUnavailable
from .sep_peer import measure_with_sep
from .source_extractor import measure_with_source_extractor

__all__ = ("APERTURE_RADII", "PeerUnavailable", "measure_with_sep", "measure_with_source_extractor")
