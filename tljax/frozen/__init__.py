"""What frozen groups make of images: the cache of their output, and linear heads on it."""
