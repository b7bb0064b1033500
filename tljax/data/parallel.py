"""Calls a function of many items in threads, with a progress bar."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tljax.console import progress_bar

_ITEMS_PER_TASK = 64  # of a thread: with one item per task, the pool's overhead would dominate

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def map_in_threads(
    function: Callable[[_Item], _Result], items: Sequence[_Item], description: str | None = None
) -> list[_Result]:
    """Applies the function to each item; returns the results in order.

    Args:
      function: may be called in several threads at once; should it raise an error, that is raised.
      items: its arguments.
      description: of the progress bar; None: there is no bar.
    """
    starts = range(0, len(items), _ITEMS_PER_TASK)
    results: list[_Result] = []

    def call(start: int) -> list[_Result]:
        return [function(item) for item in items[start : start + _ITEMS_PER_TASK]]

    with ThreadPoolExecutor() as pool, progress_bar() as bar:
        task = None if description is None else bar.add_task(description, total=len(items))
        for some in pool.map(call, starts):
            results += some
            if task is not None:
                bar.advance(task, len(some))
    return results
