"""One thin, runnable module per stage of the platform."""
