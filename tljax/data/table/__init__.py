"""`csv:FILE`: paths of images and their labels in a table."""

from tljax.data.table.load import listed_files, load, read_class_names

__all__ = ["listed_files", "load", "read_class_names"]
