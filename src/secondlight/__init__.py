"""The final pass over survey visit images, on packages that pip installs."""

from importlib.metadata import version

__version__ = version("secondlight")
