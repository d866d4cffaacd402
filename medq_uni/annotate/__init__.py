"""Annotation: drafts, three reviews per image, majority, agreement, rounds, and the store that keeps them all."""
