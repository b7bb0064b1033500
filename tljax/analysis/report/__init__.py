"""Reports: `of_runs` makes the page of `tljax report`, `demo` that of `tljax demo`.

The rest are their pieces: `page` the frame, `words` numbers in words, `figures` how a drawing gets
into a page, `curves` and `benefits` learning curves and what transfer bought, and a module for each
section of `tljax report`. The same runs give the same bytes.
"""
