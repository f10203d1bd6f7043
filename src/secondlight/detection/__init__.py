"""Smoothing, thresholding, growth: from pixels to footprints with peaks."""
