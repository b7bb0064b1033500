"""`tljax prepare`: downloads a data set and writes it as array_record, by TFDS's own builders.

This is the one place that may need TensorFlow, which most of those builders decode or write with.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tljax.data import remote
from tljax.data.tfds import spec as tfds_spec
from tljax.data.tfds.spec import Spec
from tljax.errors import InputError, did_you_mean
from tljax.weights.download import offline_variable

_INSTALL = "pip install -c constraints.txt '.[prepare]'"


def prepare(data: str, data_dir: str | None = None) -> tuple[Path, bool]:
    """Downloads and prepares a data set as array_record, unless it is there.

    Args:
      data: `tfds:NAME[/CONFIG][:VERSION]`, or with a builder of one's own for NAME; choices after
        a `?` do not matter.
      data_dir: Where to; None: TFDS's own default.

    Returns:
      (the prepared folder, whether it was made now).

    Raises:
      InputError: There is no such data set, TensorFlow is missing, or its download or preparation
        fails; nothing half-written is then left behind.
    """
    scheme, _, rest = data.partition(":")
    if scheme != "tfds":
        raise InputError(
            f"'{data}' needs no preparation; give tfds:NAME, e.g. tfds:oxford_iiit_pet"
        )
    spec = tfds_spec.parse(rest)
    root = tfds_spec.data_folder(data_dir)
    if spec.name is None:
        raise InputError(f"{spec} is a folder; name the data set to prepare, e.g. tfds:mnist")
    if remote.is_address(root):
        raise InputError(
            f"cannot prepare in {root}; prepare in a local --data_dir and copy it: gcloud storage"
            f" rsync -r FOLDER {root}"
        )
    with contextlib.suppress(InputError):
        return Path(tfds_spec.find(spec, data_dir)), False
    if not spec.is_custom and importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"to prepare {spec} TensorFlow is needed, of the extra `prepare`; {_INSTALL}"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else TensorFlow tells of every library
    existing = next(path for path in (Path(root), *Path(root).parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"cannot write to the folder {root}; choose another --data_dir")
    builder, urls = _builder(spec, root)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _check_manual(spec, builder, Path(root))
    else:
        _check_network(spec, urls, Path(root))
    with _nothing_half_written(Path(root), builder.name):
        _run(spec, builder)
    return Path(builder.data_dir), True


def _builder(spec: Spec, root: str) -> tuple[Any, list[str]]:
    """The builder, and the addresses of what it is known to download."""
    import tensorflow_datasets as tfds

    wanted = {"config": spec.config, "version": spec.version}
    given = {name: value for name, value in wanted.items() if value is not None}
    builder_class = tfds_spec.builder_class(spec) if spec.is_custom else None
    try:
        if builder_class is None:
            builder_class = tfds.builder_cls(str(spec.name))
        builder = builder_class(data_dir=root, file_format="array_record", **given)
        return builder, list(builder.url_infos or ())
    except tfds.core.DatasetNotFoundError as error:
        hint = did_you_mean(str(spec.name), tfds.list_builders(with_community_datasets=False))
        raise InputError(f"TFDS has no data set '{spec.name}'{hint}; check the name") from error
    except ImportError as error:
        raise _lacks(spec, error) from error
    except Exception as error:  # of a config or a version that is not there, and of users' builders
        raise InputError(f"cannot prepare {spec}: {_first_line(error)}; mend that") from error


def _run(spec: Spec, builder: Any) -> None:
    import tensorflow_datasets as tfds

    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except ImportError as error:
        raise _lacks(spec, error) from error
    except Exception as error:  # of the network, the disk, a checksum, or the builder's own
        raise InputError(
            f"cannot prepare {spec}: {_first_line(error)}; mend that and run the same command again"
        ) from error


def _check_manual(spec: Spec, builder: Any, root: Path) -> None:
    folder = root / "downloads" / "manual"
    if not folder.is_dir() or not any(folder.iterdir()):
        what = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise InputError(
            f"{spec} wants files that are downloaded by hand; put them into {folder} (TFDS says:"
            f" {what})"
        )


def _check_network(spec: Spec, urls: list[str], root: Path) -> None:
    """Says at once that there is no network, which TFDS finds out in minutes.

    Not asked is where something was downloaded already, or a proxy is in between.
    """
    if not urls:
        return
    if variable := offline_variable():
        raise InputError(
            f"to prepare {spec} files are downloaded, which {variable} forbids; unset {variable}"
        )
    downloads = root / "downloads"
    if urllib.request.getproxies() or (downloads.is_dir() and any(downloads.iterdir())):
        return
    host = urllib.parse.urlsplit(urls[0]).hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise InputError(
            f"cannot download {urls[0]} for {spec} ({error.strerror or error}); connect to the"
            " internet and run the same command again"
        ) from error


@contextlib.contextmanager
def _nothing_half_written(root: Path, name: str) -> Iterator[None]:
    """If the block fails, removes what it made, but for whole downloads, for the next try."""
    downloads = root / "downloads"
    before = {path for folder in (root / name, downloads) for path in folder.rglob("*")}
    existed = next(path for path in (root, *root.parents) if path.exists())
    try:
        yield
    except BaseException:
        for path in (root / name).rglob("*"):
            if path not in before and path.is_file():
                path.unlink()
        for path in downloads.glob("**/*.tmp.*"):
            if path not in before:
                shutil.rmtree(path, ignore_errors=True)
        for folder in (root / name, downloads):
            inside = [path for path in folder.rglob("*") if path.is_dir() and path not in before]
            for path in (*sorted(inside, reverse=True), folder):
                with contextlib.suppress(OSError):  # it is not empty, or was not made
                    path.rmdir()
        for path in (root, *root.parents):
            if path == existed:
                break
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _lacks(spec: Spec, error: ImportError) -> InputError:
    name = (error.name or "").partition(".")[0]
    if name in ("", "tensorflow", "importlib_resources"):
        return InputError(f"to prepare {spec} the extra `prepare` is needed; {_INSTALL}")
    return InputError(f"to prepare {spec} the package of {name} is needed; pip install it")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
