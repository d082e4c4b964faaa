"""What a run has finished, kept so that the same call can resume it."""
