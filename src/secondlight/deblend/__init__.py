"""Splitting of blended sources."""
