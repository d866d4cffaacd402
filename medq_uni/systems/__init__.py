"""Restorers under test, and the slices that they are tested on."""
