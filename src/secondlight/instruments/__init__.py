"""Cameras, and ingest of real files into a data repository."""
