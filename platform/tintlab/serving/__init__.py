"""Photos in, coloured photos out."""
