"""Tables of images and their labels: `csv:FILE`, and what other forms are read as.

`spec` parses what follows the scheme, `csv_file` reads a file (`tljax.data.forms` the others),
`columns` tells which columns mean what, `labels` reads the labels, `rows` checks all rows, and
`load` makes a data set of them.
"""

from tljax.data.table.load import (
    SCHEMES,
    check_place,
    dataset_of,
    listed,
    load,
    number_groups,
    read_names,
    weights_of_rows,
)

__all__ = [
    "SCHEMES",
    "check_place",
    "dataset_of",
    "listed",
    "load",
    "number_groups",
    "read_names",
    "weights_of_rows",
]
