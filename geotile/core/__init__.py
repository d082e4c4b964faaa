"""What every package may use: argument checks, redaction, timing, caches and settings."""
