"""Background work: when it begins, and where its errors are raised."""

import threading

import pytest

from tljax.devices.background import Background


def test_held_work_begins_when_it_is_released_and_not_by_waiting_for_earlier_work():
    background, begun = Background(held=True), threading.Event()
    background.wait()  # there is nothing to wait for
    background.submit(begun.set)
    assert not begun.wait(0.2)
    background.release()
    assert begun.wait(60)
    background.close()


def test_waiting_for_held_work_releases_it():
    background, done = Background(held=True), []
    background.submit(lambda: done.append(1))
    background.wait()
    assert done == [1]
    background.close()


def test_an_error_is_raised_once():
    background = Background()

    def fail():
        raise ValueError("as it should")

    background.submit(fail)
    with pytest.raises(ValueError, match="as it should"):
        background.wait()
    background.wait()
    background.raise_if_failed()
    background.close()
