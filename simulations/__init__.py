"""Whole networks of real node cores under virtual time."""
