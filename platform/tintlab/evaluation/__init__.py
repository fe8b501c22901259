"""What a model is worth: metric definitions, the likelihood ladder, validation and evaluation."""
