"""One question per file: a docstring that asks it and a SPACE that answers it."""
