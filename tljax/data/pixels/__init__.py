"""From an open image file to pixels, uint8: as RGB, or with the channels that the file holds."""
