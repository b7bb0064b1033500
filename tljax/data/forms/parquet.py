"""`parquet:FILE`, a folder or a pattern: a table of images in Parquet files."""

from tljax.data.forms.arrow import read_table
from tljax.data.forms.shards import find_shards
from tljax.data.table.columns import Table
from tljax.data.table.spec import Spec


def read(spec: Spec) -> Table:
    """Returns the table.

    Raises:
      InputError: There are no such files, or they are no table of images.
    """
    return read_table(spec, find_shards(spec, (".parquet",)))
