"""Shared code of the pipeline's stages. Its modules know nothing of the stages."""
