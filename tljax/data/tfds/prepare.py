"""`tljax prepare`: downloads a data set and writes it as array_record, with TFDS's builders.

Only this module may need TensorFlow, which most of those builders use to decode or write.
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
from tljax.data.tfds.spec import Spec, data_folder, find_prepared, import_builder, parse_spec
from tljax.errors import InputError, did_you_mean
from tljax.weights.download import offline_variable

_INSTALL = "pip install -c constraints.txt '.[prepare]'"


def prepare(data: str, data_dir: str | None = None) -> tuple[Path, bool]:
    """Downloads and prepares a data set as array_record, unless it is prepared already.

    Args:
      data: `tfds:NAME[/CONFIG][:VERSION]`, where NAME may be a user's builder; choices after a `?`
        are ignored.
      data_dir: The folder for prepared data sets; None: TFDS's default.

    Returns:
      (folder, is_new): the prepared folder, and whether this call has prepared it.

    Raises:
      InputError: There is no such data set, TensorFlow is missing, or the download or preparation
        fails. Incomplete files are then removed.
    """
    scheme, _, rest = data.partition(":")
    if scheme != "tfds":
        raise InputError(
            f"'{data}' needs no preparation; give tfds:NAME, e.g. tfds:oxford_iiit_pet"
        )
    spec = parse_spec(rest)
    root = data_folder(data_dir)
    if spec.name is None:
        raise InputError(f"{spec} is a folder; name the data set to prepare, e.g. tfds:mnist")
    if remote.is_address(root):
        raise InputError(
            f"cannot prepare in {root}; prepare in a local --data_dir and copy it: gcloud storage"
            f" rsync -r FOLDER {root}"
        )
    with contextlib.suppress(InputError):
        return Path(find_prepared(spec, data_dir)), False
    if not spec.is_custom and importlib.util.find_spec("tensorflow") is None:
        raise InputError(
            f"to prepare {spec} TensorFlow is needed, of the extra `prepare`; {_INSTALL}"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no messages about missing GPU libraries
    existing = _nearest_existing(Path(root))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(f"cannot write to the folder {root}; choose another --data_dir")
    builder, urls = _create_builder(spec, root)
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        _check_manual(spec, builder, Path(root))
    else:
        _check_network(spec, urls, Path(root))
    with _removing_incomplete(Path(root), builder.name):
        _download_and_prepare(spec, builder)
    return Path(builder.data_dir), True


def _create_builder(spec: Spec, root: str) -> tuple[Any, list[str]]:
    """(builder, urls): the builder, and the addresses that it is known to download."""
    import tensorflow_datasets as tfds

    options = {"config": spec.config, "version": spec.version}
    given = {name: value for name, value in options.items() if value is not None}
    builder_class = import_builder(spec) if spec.is_custom else None
    try:
        if builder_class is None:
            builder_class = tfds.builder_cls(str(spec.name))
        builder = builder_class(data_dir=root, file_format="array_record", **given)
        return builder, list(builder.url_infos or ())
    except tfds.core.DatasetNotFoundError as error:
        hint = did_you_mean(str(spec.name), tfds.list_builders(with_community_datasets=False))
        raise InputError(f"TFDS has no data set '{spec.name}'{hint}; check the name") from error
    except ImportError as error:
        raise _missing_package(spec, error) from error
    except Exception as error:  # an unknown config or version, or an error in a user's builder
        raise InputError(f"cannot prepare {spec}: {_first_line(error)}; fix that") from error


def _download_and_prepare(spec: Spec, builder: Any) -> None:
    import tensorflow_datasets as tfds

    try:
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except ImportError as error:
        raise _missing_package(spec, error) from error
    except Exception as error:  # of the network, the disk, a checksum or the builder
        raise InputError(
            f"cannot prepare {spec}: {_first_line(error)}; fix that and run the same command again"
        ) from error


def _check_manual(spec: Spec, builder: Any, root: Path) -> None:
    folder = root / "downloads" / "manual"
    if not folder.is_dir() or not any(folder.iterdir()):
        instructions = " ".join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())
        raise InputError(
            f"{spec} needs files that you download by hand; put them into {folder} (TFDS says:"
            f" {instructions})"
        )


def _check_network(spec: Spec, urls: list[str], root: Path) -> None:
    """Raises InputError at once if there is no network; TFDS would try for minutes.

    Does nothing if there are earlier downloads, which may suffice, or a proxy.
    """
    if not urls:
        return
    if variable := offline_variable():
        raise InputError(
            f"cannot download the files of {spec}, as {variable} forbids it; unset {variable}"
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
def _removing_incomplete(root: Path, name: str) -> Iterator[None]:
    """If the block fails, removes what it wrote, except complete downloads, for the next try."""
    downloads = root / "downloads"
    before = {path for folder in (root / name, downloads) for path in folder.rglob("*")}
    existing = _nearest_existing(root)
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
            new = [path for path in folder.rglob("*") if path.is_dir() and path not in before]
            for path in (*sorted(new, reverse=True), folder):
                with contextlib.suppress(OSError):  # it is not empty, or does not exist
                    path.rmdir()
        for path in (root, *root.parents):
            if path == existing:
                break
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def _nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest parent that exists."""
    return next(candidate for candidate in (path, *path.parents) if candidate.exists())


def _missing_package(spec: Spec, error: ImportError) -> InputError:
    name = (error.name or "").partition(".")[0]
    if name in ("", "tensorflow", "importlib_resources"):
        return InputError(f"to prepare {spec} the extra `prepare` is needed; {_INSTALL}")
    return InputError(f"to prepare {spec} the package of {name} is needed; pip install it")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
