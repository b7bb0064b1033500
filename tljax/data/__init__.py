"""Images in, batches out.

`sources` says what data is, `datasets` finds it by name (`embedded:`, `folder:`, `tfds:`), `joint`
makes one data set of several, `transforms` brings images to the form a checkpoint expects, `views`
draws augmented ones once, `balance` evens out the sizes of classes, and `pipeline` serves batches.
"""

from tljax.data.balance import balanced_weights
from tljax.data.datasets import class_names, load, tasks
from tljax.data.images import Unreadable, decode, skipped_message
from tljax.data.joint import Task, names_of_all
from tljax.data.pipeline import ON_ERROR, eval_batches, train_batches
from tljax.data.sources import (
    ArraySource,
    Dataset,
    Source,
    Subset,
    as_source,
    base_of,
    fingerprint,
)
from tljax.data.transforms import Preprocessing, normalise
from tljax.data.views import fixed_views

__all__ = [
    "ON_ERROR",
    "ArraySource",
    "Dataset",
    "Preprocessing",
    "Source",
    "Subset",
    "Task",
    "Unreadable",
    "as_source",
    "balanced_weights",
    "base_of",
    "class_names",
    "decode",
    "eval_batches",
    "fingerprint",
    "fixed_views",
    "load",
    "names_of_all",
    "normalise",
    "skipped_message",
    "tasks",
    "train_batches",
]
