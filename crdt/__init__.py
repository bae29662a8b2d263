"""Replicated state: empty until its issue."""
