"""Measurements that print the numbers of the documentation."""
