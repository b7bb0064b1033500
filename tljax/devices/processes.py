"""Several processes that train one model together: how they meet, agree and part.

All run the same program on the same config, each with devices of its own. The first one alone
reads and writes the workdir, and tells the others what they need to know, so that no other machine
has to see it. Whatever is said here is a collective: all processes must say it, in the same order.
In a job of one process nothing is sent.
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

FIRST = 0  # the process that reads and writes the workdir
_SILENCE = 30  # seconds without a sign of life after which a process counts as dead
_PATIENCE = 120  # seconds in which a process has to reach the first one
_GRACE = 5  # seconds that a process which failed gives the others to fail with it
# What JAX says, through gloo or its coordination service, when another process is gone.
_LOST = ("Gloo", "CoordinationService", "coordination service", "heartbeat", "UNAVAILABLE")


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Meets the other processes; to be called before JAX looks for devices.

    Without arguments: on a TPU VM the processes on the other hosts of its slice, if there are any;
    elsewhere there are none.

    Args:
      coordinator_address: HOST:PORT, where the first process listens and the others find it.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      InputError: if an argument is missing or impossible, or the first process cannot be reached.
    """
    given = (coordinator_address, num_processes, process_id)
    # It would take SIGTERM for itself; `Agreement` below does what it is for.
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
        _check(coordinator_address, num_processes, process_id)
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
                f"cannot meet the other processes at {coordinator_address}"
                f" ({str(error).splitlines()[0]}); give an address of the first one's machine and a"
                " free port"
            ) from error
    if jax.distributed.is_initialized() and not is_first():
        # one warning of each kind is enough
        logging.getLogger("tljax").addFilter(lambda record: record.levelno != logging.WARNING)


def _check(coordinator_address: str, num_processes: int, process_id: int) -> None:
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
    """Whether JAX will find a TPU here. What a VM knows of its slice, JAX asks it for itself."""
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    wanted = os.environ.get("JAX_PLATFORMS") or "tpu"
    return bool(devices) and "tpu" in wanted and find_spec("libtpu") is not None


def _wait_for(address: str) -> None:
    """Until somebody listens there: JAX would end the process with a page of symbols."""
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
    """How many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the one that writes."""
    return jax.process_index() == FIRST


def first_says(ask: Callable[[], Any]) -> Any:
    """What `ask`, which is called in the first process alone, returns there: JSON.

    Raises:
      InputError: in every process, if it does in the first.
    """
    if count() == 1:
        return ask()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"value": ask()}
        except InputError as error:
            answer = {"error": str(error)}
    answer = json.loads(_from_first(json.dumps(answer).encode()))
    if "error" in answer:
        raise InputError(answer["error"])
    return answer["value"]


def all_say(value: Any) -> list[Any]:
    """What each process says, JSON, in their order."""
    if count() == 1:
        return [value]
    said = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(len(said)))
    padded = np.pad(said, (0, int(lengths.max()) - len(said)))
    everything = multihost_utils.process_allgather(padded)
    return [
        json.loads(row[:length].tobytes()) for row, length in zip(everything, lengths, strict=True)
    ]


def union(names: Iterable[str]) -> tuple[str, ...]:
    """What any process names, sorted."""
    return tuple(sorted({name for said in all_say(list(names)) for name in said}))


def array_of_first(array: np.ndarray) -> np.ndarray:
    """The first process's array; the others pass one of the same shape and dtype.

    It travels as bytes, as a sum of numbers would make +0.0 of -0.0.
    """
    content = np.ascontiguousarray(array)
    received = multihost_utils.broadcast_one_to_all(content.reshape(-1).view(np.uint8))
    return np.asarray(received).view(content.dtype).reshape(array.shape)


def _from_first(content: bytes) -> bytes:
    length = int(multihost_utils.broadcast_one_to_all(np.array(len(content))))
    buffer = np.frombuffer(content, np.uint8) if is_first() else np.zeros(length, np.uint8)
    return array_of_first(buffer).tobytes()


class Agreement:
    """Whether any process wants something, e.g. to stop: the same answer in all.

    The answer is to what was asked a call before, which the devices have meanwhile brought
    together, so that nobody waits for it. A job of one process gets its own answer at once.

    Args:
      wants: of this process.
    """

    def __init__(self, wants: Callable[[], bool]):
        self._wants = wants
        self._asked: jax.Array | None = None
        if count() > 1:
            mesh = Mesh(np.array(jax.devices()), "devices")
            self._sharding = NamedSharding(mesh, PartitionSpec("devices"))
            self._any = jax.jit(
                lambda flags: flags.max(), out_shardings=NamedSharding(mesh, PartitionSpec())
            )

    def __call__(self) -> bool:
        if count() == 1:
            return self._wants()
        mine = np.array([self._wants()], np.int32)
        flags = jax.make_array_from_callback((jax.device_count(),), self._sharding, lambda _: mine)
        before, self._asked = self._asked, self._any(flags)
        return before is not None and bool(before)


def is_loss(error: Exception) -> bool:
    """Whether this is what becomes of a collective when another process has died."""
    return jax.distributed.is_initialized() and any(word in str(error) for word in _LOST)


@contextlib.contextmanager
def losses_told() -> Iterator[None]:
    """Inside, the loss of another process is a `LostProcess`, and no error keeps others waiting.

    JAX itself ends a process that has not noticed, with a sentence of its own, SIGABRT and a page
    of symbols: at once if the first process is lost, after half a minute if it is another.
    """
    try:
        yield
    except (InputError, OSError, Preempted):
        raise
    except Exception as error:
        if is_loss(error):
            raise LostProcess(
                "another process of this job has ended, and says why; the same command, in all of"
                " them, goes on from what was saved"
            ) from error
        if jax.distributed.is_initialized():
            traceback.print_exc()
            leave(1)
        raise


def leave(code: int) -> None:
    """Ends a process that failed, with this exit code; one that is alone goes on.

    If all fail they part in order. If only this one does, the others are waiting for it: it goes
    without them, and they notice.
    """
    if not jax.distributed.is_initialized():
        return
    parting = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    parting.start()
    parting.join(_GRACE)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
