"""Star selection, the PSF fit, and fast evaluation of PSF models."""
