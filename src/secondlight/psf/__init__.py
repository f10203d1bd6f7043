"""Star selection, the PSF fit, and fast evaluation of PSF models."""

from ._late_imports import import_late

# Piff imports it for interpolation by Gaussian processes, and with it scikit-learn: a quarter of the time and
# of the memory that importing everything takes.
import_late("treegp")
