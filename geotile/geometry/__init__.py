"""From image pixels to the ground and back."""
