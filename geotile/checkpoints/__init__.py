"""The finished regions of a run, stored so that the same call can resume it."""
