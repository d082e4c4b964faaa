"""From a URI to a lazy image, and from a window to pixels."""
