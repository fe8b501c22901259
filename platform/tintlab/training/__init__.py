"""Losses, learning-rate schedules, checkpoints, the training loop and its launcher."""
