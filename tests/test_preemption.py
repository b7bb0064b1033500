"""SIGTERM and Ctrl-C: noted while a run saves, and at once if they come again."""

import signal
import threading

import pytest

from tljax.devices.preemption import Interrupted, Preempted, stop_signals_wait, stopped_by


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted(number):
    before = signal.getsignal(number)
    with stop_signals_wait(ctrl_c=True) as stop_signal:
        assert stop_signal() == 0
        signal.raise_signal(number)
        assert stop_signal() == number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_another_signal_ends_at_once(first, capsys):
    with stop_signals_wait(ctrl_c=True):
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt) as raised:
            signal.raise_signal(signal.SIGINT)
    assert not isinstance(raised.value, Interrupted), "nothing is saved"
    said = capsys.readouterr().err.count("press Ctrl-C again to end at once")
    assert said == (first == signal.SIGINT)


def test_sigterm_after_ctrl_c_has_precedence():
    """A machine that is taken away asks for another try, whatever else was pressed."""
    with stop_signals_wait(ctrl_c=True) as stop_signal:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert isinstance(stopped_by(stop_signal(), resumes=True), Preempted)


def test_with_nothing_to_save_ctrl_c_ends_at_once():
    with pytest.raises(KeyboardInterrupt), stop_signals_wait(ctrl_c=False):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda number, frame: None])
def test_a_program_that_ignores_or_handles_ctrl_c_itself_keeps_doing_so(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with stop_signals_wait(ctrl_c=True) as stop_signal:
            signal.raise_signal(signal.SIGINT)
            assert stop_signal() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    before, found = signal.getsignal(signal.SIGINT), []

    def enter():
        with stop_signals_wait(ctrl_c=True) as stop_signal:
            found.append((signal.getsignal(signal.SIGINT), stop_signal()))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [(before, 0)]
