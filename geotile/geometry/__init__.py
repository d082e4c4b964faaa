"""Conversion between image pixels and ground coordinates."""
