"""What is read as a table of images: Parquet and Hugging Face data, WebDataset shards, frames.

`shards` lists files and tells their splits by their names, `arrow` reads Parquet and Arrow files,
`parquet`, `hugging_face` (with `hub`) and `webdataset` are the forms `parquet:`, `hf:` and `wds:`,
and `frame` takes a table in Python.
"""
