"""Adaptive moments and PSF-corrected shapes of Hirata and Seljak, compiled."""
