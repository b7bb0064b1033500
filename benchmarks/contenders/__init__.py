"""One module a contender, each run in a process of its own; see `benchmarks.worker`.

Each offers `job(job, folder, epochs, ...)`, timed from images and weights in memory to trained
weights, and those of the others also `forward` and `step`: seconds a batch, the median of many.
"""
