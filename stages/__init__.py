"""The stages, and the organs that they share."""

from cryobase.stages.backbones import frameworks

# Before anything here imports a library that listens to the environment.
frameworks.pin_environment()
