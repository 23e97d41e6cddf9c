"""Shared code of the pipeline's stages. Its modules know nothing of the stages."""

__version__ = "2.0.0"
