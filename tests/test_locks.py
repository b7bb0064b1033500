"""Locks between processes, on file systems with and without `flock`."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest

from tljax import locks
from tljax.errors import InputError
from tljax.runs.workdir import InUse, locked

HOLDER = """
import errno, fcntl, sys, time
from pathlib import Path

code = int(sys.argv[2])

def flock(*arguments):
    raise OSError(code, "as the file system says")

if code:
    fcntl.flock = flock
from tljax import locks

with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def take_flock_away(monkeypatch, code):
    """What a file system without flock, or with a broken one, answers."""

    def flock(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=[0, errno.ENOSYS, errno.EOPNOTSUPP], ids=["flock", "ENOSYS", "EOPNOTSUPP"])
def flock(request, monkeypatch):
    """0, or the number of the error that every call of flock gives."""
    if request.param:
        take_flock_away(monkeypatch, request.param)
    return request.param


def test_a_killed_process_holds_nothing(flock, tmp_path):
    path = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLDER, str(path), str(flock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(locks.Held, match=rf"process {holder.pid} on"), locks.hold(path):
                pass
        finally:
            holder.kill()
            holder.wait()
        with locks.hold(path) as outermost:
            assert outermost
        with locks.hold(path):  # and again, after it was released
            pass


def test_blocks_are_nested_in_one_thread_and_exclude_another(flock, tmp_path):
    path, found = tmp_path / ".lock", []

    def try_it():
        try:
            with locks.hold(path):
                found.append("held")
        except locks.Held as other:
            found.append(other.holder)

    with locks.hold(path) as outer, locks.hold(path) as inner:
        assert (outer, inner) == (True, False)
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    assert found[0].startswith(f"process {os.getpid()} on ")
    try_it()
    assert found[1] == "held"


def test_a_workdir_in_use_is_refused_and_free_afterwards(flock, tmp_path):
    held, done = threading.Event(), threading.Event()

    def hold():
        with locked(tmp_path):
            held.set()
            done.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    sentence = rf"in use by another run \(process {os.getpid()} on .*another --workdir"
    with pytest.raises(InUse, match=sentence), locked(tmp_path):
        pass
    done.set()
    holder.join()
    with locked(tmp_path):
        pass


def test_what_a_holder_with_flock_wrote_holds_nothing_without_it(tmp_path, monkeypatch):
    """E.g. after a copy of the workdir to such a file system, or from an older version."""
    with locked(tmp_path):
        pass
    (tmp_path / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": "elsewhere"}) + "\n")
    take_flock_away(monkeypatch, errno.ENOSYS)
    with locked(tmp_path):
        pass


def test_a_holder_on_another_machine_is_named_with_the_way_out(tmp_path, monkeypatch):
    take_flock_away(monkeypatch, errno.ENOSYS)
    marker = tmp_path / ".lock.holder"
    marker.write_text("7\nelsewhere\n")
    with pytest.raises(InUse, match=r"process 7 on elsewhere.*delete '.*/\.lock\.holder'"):
        locked(tmp_path).__enter__()
    marker.unlink()
    with locked(tmp_path):
        pass
    assert not marker.exists()


def test_an_error_of_the_file_system_names_the_file(tmp_path, monkeypatch):
    take_flock_away(monkeypatch, errno.ENOLCK)
    with pytest.raises(InputError, match=r"cannot lock '.*/\.lock' \(No locks available\)"):
        locked(tmp_path).__enter__()
    with pytest.raises(OSError, match="No locks available") as raised, locks.hold(tmp_path / "a"):
        pass
    assert raised.value.filename == str(tmp_path / "a")


def test_a_file_of_the_user_that_has_this_name_stays_as_it_is(tmp_path):
    (tmp_path / ".lock").write_text("my own notes\n")
    with locked(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == "my own notes\n"


def test_waiting_ends_when_the_lock_is_free(flock, tmp_path):
    path, order = tmp_path / ".lock", []
    tried = threading.Event()

    def wait():
        with locks.wait_for(path, tried.set):
            order.append("second")

    with locks.hold(path):
        thread = threading.Thread(target=wait)
        thread.start()
        assert tried.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]


def test_a_signal_ends_waiting(flock, tmp_path):
    path, ended = tmp_path / ".lock", []

    def stop():
        raise KeyboardInterrupt

    def wait():
        try:
            with locks.wait_for(path, stop):
                pass
        except KeyboardInterrupt:
            ended.append(True)

    with locks.hold(path):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(60)
    assert ended


def test_waiting_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "_SILENT", 0.0)
    path, calls = tmp_path / ".lock", []

    def enough():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    def wait():
        try:
            with locks.wait_for(path, enough):
                pass
        except KeyboardInterrupt:
            pass

    with locks.hold(path):
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(60)
    assert caplog.text.count(f"waiting for process {os.getpid()} on") == 1
