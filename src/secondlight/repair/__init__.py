"""Repair of pixels: snaps, cosmic rays and defects."""
