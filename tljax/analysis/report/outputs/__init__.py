"""The parts of a report about answers of several labels an image, and about numbers."""
