"""Composite galaxy models and shapelet approximations of the PSF, compiled."""
