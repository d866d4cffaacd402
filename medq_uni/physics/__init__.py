"""Degradation of images by the physics of their acquisition."""
