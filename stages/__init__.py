"""The stages, and the folders that they share. It must not import `cryobase.pipeline`."""

from cryobase.stages.backbones import frameworks

# This comes first, before a library that reads environment variables is imported.
frameworks.pin_environment()
