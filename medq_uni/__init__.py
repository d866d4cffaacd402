"""MedQ-UNI: assess, then restore medical images."""
__version__ = "0.1.0"
