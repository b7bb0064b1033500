"""`tfds:NAME`: data sets that TensorFlow Datasets (TFDS) prepared, read without TensorFlow.

Only `tljax prepare`, which downloads and prepares a data set, may need TensorFlow.

- `spec` parses what follows `tfds:`, and finds the prepared folder.
- `prepared` reads the description of that folder: features, classes, and the records of a split.
- `source` reads labels and images; it has the `load` that `tljax.data.load` calls.
- `tfrecord` reads TFRecord files by record number.
- `prepare` is the code behind `tljax prepare`.
"""
