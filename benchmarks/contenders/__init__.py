"""One module a contender; `benchmarks.worker` runs each in a process of its own.

tljax, timm and Keras have `job(job, folder, epochs, ...)`, timed from images and weights in memory
to trained weights, and `forward` and `step`, the median seconds of a batch. tljax and scikit-learn
have `head`: a linear head on kept features, its penalty chosen by cross-validation.
"""
