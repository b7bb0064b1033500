"""Data sets, and batches of their images.

`sources` defines what a data set is, and `datasets` loads one by its name, from `embedded` (data in
Python packages, and `glyphs`, drawn letters), `folder` (images on disk, with `layout` and
`listing`), `table` (images and labels in a CSV file, or in one of the `forms` of tables) or `tfds`,
and makes its `splits`. `joint` joins several. Images within larger files are `packed`. `kept`
remembers which image a run had in which split, by the `digests` of their contents. `images` decodes
files, `transforms` (with `trivial_augment`) resizes, augments and normalises, `views` augments a
fixed number of times, `labels` says of which kind labels are, `pipeline` makes batches, `parallel`
calls a function in threads, and `remote` copies files from a bucket.
"""

from tljax.data.datasets import (
    absolute,
    from_table,
    load,
    may_have_moved,
    read_class_names,
    read_tasks,
)
from tljax.data.images import Unreadable, decode, skipped_message
from tljax.data.joint import Task, joint_class_names
from tljax.data.kept import Kept
from tljax.data.labels import balanced_label_weights, balanced_weights, kind_of, strata
from tljax.data.pipeline import ON_ERROR, eval_batches, train_batches
from tljax.data.sources import (
    ArraySource,
    Dataset,
    Source,
    Subset,
    as_source,
    fingerprint,
    groups_of,
    unwrap_subset,
)
from tljax.data.transforms import Preprocessing, normalise
from tljax.data.views import fixed_views

__all__ = [
    "ON_ERROR",
    "ArraySource",
    "Dataset",
    "Kept",
    "Preprocessing",
    "Source",
    "Subset",
    "Task",
    "Unreadable",
    "absolute",
    "as_source",
    "balanced_label_weights",
    "balanced_weights",
    "decode",
    "eval_batches",
    "fingerprint",
    "fixed_views",
    "from_table",
    "groups_of",
    "joint_class_names",
    "kind_of",
    "load",
    "may_have_moved",
    "normalise",
    "read_class_names",
    "read_tasks",
    "skipped_message",
    "strata",
    "train_batches",
    "unwrap_subset",
]
