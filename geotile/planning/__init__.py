"""What a run would do, without reading a pixel."""
