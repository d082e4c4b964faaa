"""A run: prepared, computed region by region, merged, reported."""
