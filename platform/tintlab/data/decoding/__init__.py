"""Photo bytes -> safe RGB, or the reason why not."""
