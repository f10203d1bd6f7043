"""Configuration files: the repository, and overrides for instruments."""
