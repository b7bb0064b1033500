"""`csv:FILE`: paths of images and their labels in a table."""

from tljax.data.table.load import listed_rows, load, number_groups, read_class_names

__all__ = ["listed_rows", "load", "number_groups", "read_class_names"]
