"""Jobs of several processes that train one model: joining, exchanging values, ending.

All processes run the same program on the same config, each with its own devices. Only the first one
reads and writes the workdir. It sends the others what they need, so that no other machine has to
see the workdir. The functions that exchange values are collectives: all processes must call them in
the same order. In a job of one process nothing is sent.
"""

import contextlib
import json
import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tljax.devices.preemption import LostProcess, Preempted
from tljax.errors import InputError

_FIRST = 0  # the process that reads and writes the workdir
_SILENCE = 30  # seconds without a sign of life after which a process counts as dead
_PATIENCE = 120  # seconds in which a process has to reach the first one
_GRACE = 5  # seconds that a failed process waits for the others to end with it
# Words in JAX's errors, from Gloo or its coordination service, after another process has died.
_LOST = ("Gloo", "CoordinationService", "coordination service", "heartbeat", "UNAVAILABLE")


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of the job; call it before JAX looks for devices.

    Without arguments, a TPU VM joins the processes on the other hosts of its slice, if there are
    any; on other machines the job has one process.

    Args:
      coordinator_address: HOST:PORT, where the first process listens.
      num_processes: the number of processes.
      process_id: the number of this process, from 0.

    Raises:
      InputError: if an argument is missing or impossible, or the first process cannot be reached.
    """
    given = (coordinator_address, num_processes, process_id)
    # JAX's service would handle SIGTERM itself; `Agreement` below does the same work.
    jax.config.update("jax_enable_preemption_service", False)
    if given == (None, None, None):
        if _on_tpu_vm():
            jax.distributed.initialize(heartbeat_timeout_seconds=_SILENCE)
    elif coordinator_address is None or num_processes is None or process_id is None:
        raise InputError(
            "--coordinator_address, --num_processes and --process_id belong together; give all"
            " three, or none"
        )
    else:
        _check_arguments(coordinator_address, num_processes, process_id)
        if process_id:
            _wait_for(coordinator_address)
        try:
            jax.distributed.initialize(
                coordinator_address,
                num_processes,
                process_id,
                heartbeat_timeout_seconds=_SILENCE,
                cluster_detection_method="deactivate",
            )
        except RuntimeError as error:
            raise InputError(
                f"cannot join the other processes at {coordinator_address}"
                f" ({str(error).splitlines()[0]}); give an address of the first process's machine"
                " and a free port"
            ) from error
    if jax.distributed.is_initialized() and not is_first():
        # the first process logs the same warnings
        logging.getLogger("tljax").addFilter(lambda record: record.levelno != logging.WARNING)


def _check_arguments(coordinator_address: str, num_processes: int, process_id: int) -> None:
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(
            f"--coordinator_address is '{coordinator_address}'; give HOST:PORT, e.g. 10.0.0.1:8476"
        )
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id is {process_id} of --num_processes {num_processes}; number the processes"
            " from 0"
        )


def _on_tpu_vm() -> bool:
    """Whether JAX will find a TPU. JAX itself asks the VM about the other hosts of its slice."""
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    wanted = os.environ.get("JAX_PLATFORMS") or "tpu"
    return bool(devices) and "tpu" in wanted and find_spec("libtpu") is not None


def _wait_for(address: str) -> None:
    """Waits until a process listens there; JAX would abort this process with a stack trace."""
    host, _, port = address.rpartition(":")
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > until or isinstance(error, socket.gaierror):
                raise InputError(
                    f"no process answers at {address} ({error}); start the one with --process_id 0"
                    " there, or correct --coordinator_address"
                ) from None
            time.sleep(0.2)


def count() -> int:
    """The number of processes of the job."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the first process, which reads and writes the workdir."""
    return jax.process_index() == _FIRST


def call_in_first(function: Callable[[], Any]) -> Any:
    """Calls `function` in the first process alone; returns its result in every process.

    Args:
      function: returns a JSON value.

    Raises:
      InputError: in every process, if `function` raises it in the first one.
    """
    if count() == 1:
        return function()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"value": function()}
        except InputError as error:
            answer = {"error": str(error)}
    answer = json.loads(_broadcast_bytes(json.dumps(answer).encode()))
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["value"]


def gather_values(value: Any) -> list[Any]:
    """Returns the JSON values of all processes, in their order."""
    if count() == 1:
        return [value]
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(encoded)))
    padded = np.pad(encoded, (0, int(lengths.max()) - len(encoded)))
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def gather_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the union of the names of all processes, sorted."""
    return tuple(sorted(set().union(*gather_values(list(names)))))


def broadcast_from_first(array: np.ndarray) -> np.ndarray:
    """Returns the first process's array; the others pass one of the same shape and dtype.

    It is sent as bytes, because JAX broadcasts numbers by a sum, which turns -0.0 into +0.0.
    """
    content = np.ascontiguousarray(array)
    received = multihost_utils.broadcast_one_to_all(content.reshape(-1).view(np.uint8))
    return np.asarray(received).view(content.dtype).reshape(array.shape)


def _broadcast_bytes(content: bytes) -> bytes:
    length = int(multihost_utils.broadcast_one_to_all(np.array(len(content))))
    buffer = np.frombuffer(content, np.uint8) if is_first() else np.zeros(length, np.uint8)
    return broadcast_from_first(buffer).tobytes()


class Agreement:
    """The largest number that any process gives; all processes get the same answer.

    Each call returns the answer to the call before, at first 0. The devices have reduced that one
    meanwhile, so no process waits. A job of one process gets its own answer at once.

    Args:
      number: returns this process's number, e.g. of a signal that asks it to stop; 0: none.
    """

    def __init__(self, number: Callable[[], int]):
        self._number = number
        self._pending: jax.Array | None = None
        if count() > 1:
            mesh = Mesh(np.array(jax.devices()), "devices")
            self._sharding = NamedSharding(mesh, PartitionSpec("devices"))
            self._max = jax.jit(
                lambda numbers: numbers.max(), out_shardings=NamedSharding(mesh, PartitionSpec())
            )

    def __call__(self) -> int:
        if count() == 1:
            return self._number()
        mine = np.array([self._number()], np.int32)
        shape = (jax.device_count(),)
        numbers = jax.make_array_from_callback(shape, self._sharding, lambda _: mine)
        before, self._pending = self._pending, self._max(numbers)
        return 0 if before is None else int(before)


def is_lost_process(error: Exception) -> bool:
    """Whether a collective raised this error because another process has died."""
    return jax.distributed.is_initialized() and any(word in str(error) for word in _LOST)


@contextlib.contextmanager
def detect_lost_process() -> Iterator[None]:
    """Turns the loss of another process into `LostProcess`.

    In a job of several processes, any other error but user errors and preemption ends this process,
    so that the others do not hang. If this process notices no loss, JAX itself aborts it with
    SIGABRT and a stack trace: at once if the first process is lost, else after half a minute.
    """
    try:
        yield
    except (InputError, OSError, Preempted):
        raise
    except Exception as error:
        if is_lost_process(error):
            raise LostProcess(
                "another process of this job has ended, and its output says why; the same command,"
                " in all of them, resumes from what was saved"
            ) from error
        if jax.distributed.is_initialized():
            traceback.print_exc()
            exit_after_failure(1)
        raise


def exit_after_failure(code: int) -> None:
    """Ends a failed process of a job of several with an exit code; returns in a single process.

    If all processes fail, they shut down together. If only this one fails, the others wait for it:
    it exits without them after `_GRACE` seconds, and they detect its loss.
    """
    if not jax.distributed.is_initialized():
        return
    shutdown = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_GRACE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
