"""Encoders that turn tiles into bytes for requests."""
