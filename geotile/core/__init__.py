"""Helpers that every package may use: argument checks, redaction, digests, timing, a cache and settings."""
