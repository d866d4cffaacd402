"""Checks of what a restorer does to findings, good images, textures and the measured data."""
