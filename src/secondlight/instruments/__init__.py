"""Cameras and ingest of real files."""
