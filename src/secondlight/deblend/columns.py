"""Columns that the deblender adds to a source catalog (spec reprocess 15.2)."""

from __future__ import annotations

__all__ = ("declare_columns",)

import numpy as np

from ..catalog.schema import Schema

_FLAGS = {
    "deblend_tooManyPeaks": "the blend has more peaks than the limit; the brightest became children",
    "deblend_parentTooBig": "the blend exceeds the limits of size, or is so large that templates were cut",
    "deblend_masked": "too large a part of the blend is masked",
    "deblend_failed": "the deblender failed on this blend: no usable PSF",
    "deblend_skipped": "the blend was not split, or one of its peaks has no child",
    "deblend_rampedTemplate": "the template was extended beyond the edge of the footprint with the PSF",
    "deblend_patchedTemplate": "pixels of the template without a mirror inside the image were copied",
    "deblend_hasStrayFlux": "flux that no template claims was given to this source",
}


def declare_columns(schema: Schema) -> None:
    """Add the deblender's columns to a schema."""
    schema.add("deblend_nChild", np.int32, "number of children this blend was split into")
    schema.add_flag("deblend_deblendedAsPsf", "the deblender took this source for a point source")
    for axis in ("x", "y"):
        schema.add(
            f"deblend_psfCenter_{axis}", np.float64, f"{axis} centre of the fitted point source", unit="pix"
        )
    schema.add("deblend_psf_instFlux", np.float64, "flux of the fitted point source", unit="ct")
    for name, doc in _FLAGS.items():
        schema.add_flag(name, doc)
    for axis in ("x", "y"):
        schema.add(
            f"deblend_peak_center_{axis}",
            np.int32,
            f"{axis} of the peak this source was made from: its brightest if split; "
            "of a blend left whole: of the middle of its box",
            unit="pix",
        )
    schema.add(
        "deblend_peakId", np.int32, "id of that peak in its parent's footprint; 0 for a blend left whole"
    )
    schema.add("deblend_nPeaks", np.int32, "number of peaks in the footprint of this source")
    schema.add("deblend_parentNPeaks", np.int32, "number of peaks of the parent; 0 if there is no parent")
