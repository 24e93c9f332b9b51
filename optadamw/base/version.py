"""The version of this library; the build of the package reads it from this file."""

__version__ = "0.1.0"
