"""Measuring sources: plugin framework, noise replacement, plugins."""
