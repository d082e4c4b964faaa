"""What a run gives: the report, the GeoDataFrame, files, datasets and pictures."""
