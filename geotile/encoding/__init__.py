"""Tiles as bytes for the wire."""
