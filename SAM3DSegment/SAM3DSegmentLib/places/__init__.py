"""Where in a volume the structures are: a coarse grid of it, and boxes around what is found on it."""
