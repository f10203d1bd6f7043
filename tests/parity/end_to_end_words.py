"""What the pages about whole runs say around their numbers."""

from __future__ import annotations

INTRODUCTION = """\
# Parity with the reference

Written by `python -m tests.parity.table`; the tests in `tests/parity` ask for the same numbers.

Two scenes of 1000 x 1000 pixels (A: constant Gaussian PSF, B: varying Piff PSF and an image that does not
start at 0) went through the reference's final pass, and the stars of B through its final characterization.
This page is about whole runs: this project's tasks in their default configuration get the reference's
inputs and nothing else, so repair, detection, sky sources, deblending, measurement, corrections,
calibration and (in the characterization) the PSF fit are our own. Every column of them:
[columns](parity/columns.md). Measurement alone, on the very pixels and over the very noise that the
reference measured: [replay](parity/replay.md). Reasons are told in [differences](differences.md).

**Noise as yardstick.** Neighbours are replaced by random noise while a source is measured, so no two runs
agree. Each pack is run with {n_seeds} seeds of that noise. *Agree* is the fraction of sources within
tolerance of the reference (10⁻³ of the value; positions 10⁻³ pixels, moments 10⁻³ of the size; or 0.02 of
the error; flags equal; columns of models 1 % or 0.1 of the error), *seeds* the same between our own runs. A
column is in parity if it agrees as often with the reference as with itself (within 3.5 statistical errors;
99 % of the sources where our runs agree all), and the median difference from the reference is within the
tolerance or 3.5 times its error.

**Rules of the reference.** Where a listed correction changes pixels of sources, the run is repeated with
the correction taken back (`tests/parity/reference_rules.py`): the reference's values in its cosmic-ray
pixels, its way to draw a Gaussian PSF, the faults of its deblender, its matching of PSF stars, its
positions of samples. If nothing else differs, its numbers come out.
"""

VERDICTS = "in parity, different for a listed reason, unexplained"

WITH_RULES = "columns that no correction of a measurement touches: in parity with the rules of the reference"

CALIBRATED = """\
Fluxes and magnitudes are the instrumental fluxes times the calibration, in every column of both tables (to
10⁻⁹).
"""

REPAIRED = """\
Values are means and scatter in units of the noise. We put what the surrounding pixels predict into a
cosmic-ray pixel, the reference sky and noise, also on sources. The pixels that only the reference repairs
are of no simulated ray; ours keep what was observed. We repair none that it does not. Positions (x, y) of
those pixels:
"""

WHY_PLANES = {
    "CR": "the reference adds pixels to rays at random",
    "INTRP": "pixels of CR",
    "DETECTED": "within 10 pixels of repaired pixels: their values decide what is detected",
}

SOURCES = """\
Matched by the position of the peak. Ids, parents and rows are the same too. Footprints of single sources
are equal but for those with repaired pixels; those of blends are what their children claim. Sources with
repaired pixels ({flagged}) do not count in what follows, except with the rules of the reference, where the
repaired pixels are its own.
"""

BY_PLUGIN = """\
Columns in parity, of those that no correction of the measurement touches (*corrected*: those that one
does).
"""

DIFFERENT = """\
Agree / seeds (%). Left out: fluxes and magnitudes, which repeat instrumental fluxes; columns of blends that
differ by the same correction as those of sources without siblings, or only because more children are point
sources here, which all come out with the rules of the reference ([columns](parity/columns.md)).
"""

STATISTICS = """\
Means over the seeds. Those within 1 % need no reason. With the rules of the reference (and the gain of its
made-up detector) all others come within 1 % or four times the scatter over the seeds.
"""

CHARACTERIZATION = """\
The 71 stars of pack B with our own selection, PSF fit, noise and aperture corrections. The same stars are
selected, reserved and used; the PSF is the reference's to 10⁻¹⁰ of its peak. Aperture corrections agree to
10⁻⁷ (PSF and Gaussian flux), 10⁻⁴ (Kron, convolved), 5 × 10⁻⁴ (GAaP) and 10⁻³ (composite models, which the
reference does not repeat better); those of convolved fluxes in apertures of 3.3 pixels differ by 2 to 4 %
(shift of small coefficient images).
"""

COLUMNS = """\
# Every column of whole runs

Written by `python -m tests.parity.table`. Fractions of sources within tolerance of the reference / between
seeds of the noise (%), as told in [parity](../parity.md); *offset*: median difference of the sources
without siblings from the reference in units of the tolerance, with its error; *characterization*: the stars
of pack B. A † marks what is not in parity, for the reason in the last column.
"""
