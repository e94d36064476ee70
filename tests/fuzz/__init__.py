"""Fuzzing of everything that reads what a user hands us; see ``fuzz.py``."""
