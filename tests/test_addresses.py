"""Downloads from local servers: one that misbehaves on demand, and one like the hub."""

import email.utils
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tljax.errors import InputError
from tljax.weights import addresses, download, zoo

BODY = np.random.default_rng(0).bytes(1_000_000)
DIGEST = hashlib.sha256(BODY).hexdigest()
COMMIT = "0123456789" * 4  # of the repositories on the hub


class Server(ThreadingHTTPServer):
    """Serves `body` at every path, with the faults its attributes set, and logs the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.body = BODY
        self.version = '"one"'
        self.status = 200
        self.knows_ranges = self.heeds_if_range = True
        self.modified = ""
        self.repeats_version = True  # with a part of the file
        self.start_instead: int | None = None  # instead of the requested one
        self.says_length: int | None = len(BODY)
        self.chunked = False
        self.drops: list[int] = []  # bytes after which each of the next responses ends
        self.ranges: list[str | None] = []
        self.sent = 0
        self.in_the_middle = lambda: None
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def handle_error(self, request, client_address):
        """Ignores clients that disconnect; some tests do so."""

    def stop(self):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        start = 0
        versions = (server.version, server.modified)
        same = self.headers.get("If-Range") in versions or not server.heeds_if_range
        if asked and same and server.knows_ranges:
            start = server.start_instead or int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(server.body):
            self.send_error(416)
            return
        self.send_response(206 if start else server.status)
        if server.repeats_version or not start:
            self.send_header("ETag", server.version)
            self.send_header("Last-Modified", server.modified)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif server.says_length is not None:
            self.send_header("Content-Length", str(server.says_length - start))
        if start:
            size = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.end_headers()
        part, is_whole = server.body[start:], not server.drops
        if server.drops:
            part = part[: server.drops.pop(0)]
            server.in_the_middle()
        if server.chunked:
            for at in range(0, len(part), 1000):
                chunk = part[at : at + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n" if is_whole else b"")
        else:
            self.wfile.write(part)
        server.sent += len(part)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The cache of downloads; the network is allowed, and retries do not wait."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable in download.OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download, "_PAUSES", (0.0,) * 4)
    return tmp_path / "cache" / "tljax" / "checkpoints"


def names(cache: Path) -> list[str]:
    """The files in the cache, except locks and records of the files' addresses."""
    return sorted(p.name.partition("-")[2] for p in cache.iterdir() if p.suffix != ".lock")


def refusal(address: str, **digests: str) -> str:
    """The error message for an address."""
    with pytest.raises(InputError) as raised:
        addresses.fetch_file(address, **digests)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


# An empty package replaces `tljax.weights`, whose import of JAX takes each process seconds.
PREAMBLE = f"""
import json, resource, sys
from types import ModuleType
from tljax.errors import InputError

package = sys.modules["tljax.weights"] = ModuleType("tljax.weights")
package.__path__ = [{str(Path(addresses.__file__).parent)!r}]
from tljax.weights import addresses

def outcome(name, *args, **digests):
    try:
        return str(getattr(addresses, name)(*args, **digests))
    except InputError as error:
        return "refused: " + str(error)
"""


def python(script: str, **environment: str) -> subprocess.Popen:
    """Runs a script in a process; limits, locks and huggingface_hub's settings are per process."""
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_is_fetchable():
    for address in ("hf://a/b/c", "https://a/b", "http://a/b", "gs://a/b"):
        assert addresses.is_fetchable(address)
    for path in ("weights.npz", "/hf/https", "~/a", "s3://a/b", ""):
        assert not addresses.is_fetchable(path)


def test_paths_are_returned_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    weights = tmp_path / "weights.npz"
    weights.touch()
    assert addresses.fetch_file(str(weights)) == weights
    assert addresses.fetch_file("~/weights.npz") == weights
    assert addresses.fetch_file(str(tmp_path)) == tmp_path
    assert "there is no file '/nowhere/weights.npz'" in refusal("/nowhere/weights.npz")
    assert "https://" in refusal("ftp://host/weights.npz")


def test_the_file_beside_a_path(tmp_path):
    (tmp_path / "config.json").touch()
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    assert addresses.fetch_sidecar(str(weights), "config.json") == tmp_path / "config.json"
    assert addresses.fetch_sidecar(str(tmp_path), "config.json") == tmp_path / "config.json"
    assert addresses.fetch_sidecar(str(weights), "other.json") is None
    assert addresses.fetch_sidecar("https://127.0.0.1:9/weights.npz", "config.json") is None


@pytest.mark.parametrize(
    "address",
    ["hf://owner/weights.npz", "hf://owner/repo/", "hf://", "https://", "http://[", "gs://bucket"],
)
def test_incomplete_addresses_are_refused_with_the_right_form(address):
    assert re.search(r"write (hf|https|gs)://", refusal(address))


@pytest.mark.parametrize("host", ["127.0.0.1:port", "127.0.0.1:99999", "a b", ".com", "a" * 80])
def test_addresses_of_impossible_hosts_are_refused(host):
    assert "check the address" in refusal(f"https://{host}/weights.npz")


def test_a_file_comes_once_and_is_then_there_without_its_server(server, cache, capfd):
    address = f"{server.url}/models/resnet50-{DIGEST[:8]}.pth?download=1#top"
    path = addresses.fetch_file(address, sha256=DIGEST[:8])
    assert path.read_bytes() == BODY
    assert path.name.endswith(f"-resnet50-{DIGEST[:8]}.pth")
    assert names(cache) == [f"resnet50-{DIGEST[:8]}.pth"]
    server.stop()
    capfd.readouterr()
    assert addresses.fetch_file(address, sha256=DIGEST[:8]) == path
    assert capfd.readouterr() == ("", "")
    assert len(server.ranges) == 1


def test_addresses_that_differ_anywhere_are_different_files(server):
    paths = {
        addresses.fetch_file(server.url + tail)
        for tail in ("/a/w.npz", "/b/w.npz", "/a/w.npz?v=2", "/a/%F0%9F%90%B1.npz", "/")
    }
    assert len(paths) == 5


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, cache):
    server.drops = [300_000, 300_000]
    path = addresses.fetch_file(f"{server.url}/weights.npz", sha256=DIGEST)
    assert path.read_bytes() == BODY
    starts = [int(asked[6:-1]) for asked in server.ranges[1:]]
    assert 300_000 - download._CHUNK < starts[0] <= 300_000
    assert starts[0] < starts[1] <= starts[0] + 300_000
    assert names(cache) == ["weights.npz"]


def test_a_download_that_keeps_breaking_off_is_finished_by_the_next_call(server, cache):
    address = f"{server.url}/weights.npz"
    server.drops = [200_000, 0, 0, 0, 0]
    sentence = refusal(address, sha256=DIGEST)
    kept = next(cache.glob("*.partial")).stat().st_size
    assert "failed 5 times" in sentence
    assert f"resumes at byte {kept:,}" in sentence
    assert "give init_from the path" in sentence
    assert addresses.fetch_file(address, sha256=DIGEST).read_bytes() == BODY
    assert server.ranges[-1] == f"bytes={kept}-"
    assert names(cache) == ["weights.npz"]


def test_a_server_without_ranges_is_asked_for_everything_again(server, cache):
    server.knows_ranges = False
    server.drops = [300_000]
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == BODY
    assert names(cache) == ["weights.npz"]


@pytest.mark.parametrize("version", ["", 'W/"one"'])
def test_nothing_is_kept_of_a_file_whose_version_is_unknown(server, cache, version):
    server.version = version
    server.drops = [300_000] * 5
    assert "resumes at" not in refusal(f"{server.url}/weights.npz")
    assert set(server.ranges) == {None}
    assert names(cache) == []


@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_changes_between_attempts_is_not_glued_together(server, cache, heeds_if_range):
    changed = BODY[::-1]

    def change():
        server.body, server.version = changed, '"two"'

    server.heeds_if_range = heeds_if_range
    server.drops, server.in_the_middle = [300_000], change
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == changed
    assert server.ranges[1] is not None
    assert names(cache) == ["weights.npz"]


def test_a_part_of_a_file_of_another_length_is_not_taken(server, cache):
    """A server whose ETag and If-Range mean nothing."""
    changed = BODY[::-1] + b"more"

    def change():
        server.body, server.says_length = changed, len(changed)

    server.heeds_if_range = False
    server.drops, server.in_the_middle = [300_000], change
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == changed
    assert server.ranges[1] is not None
    assert names(cache) == ["weights.npz"]


def test_a_part_of_a_later_call_is_compared_with_the_length_of_the_first(server, cache):
    server.drops = [600_000, 0, 0, 0, 0]
    refusal(f"{server.url}/weights.npz")
    server.body = BODY[::-1] + b"more"
    server.says_length, server.heeds_if_range = len(server.body), False
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == server.body


def test_a_part_whose_version_is_not_said_is_not_taken(server, cache):
    changed = BODY[::-1]

    def change():
        server.body = changed

    server.heeds_if_range = server.repeats_version = False
    server.drops, server.in_the_middle = [300_000], change
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == changed
    assert server.ranges[1] is not None


@pytest.mark.parametrize(("age", "resumes"), [(0, False), (30, False), (3600, True)])
def test_a_date_counts_as_a_version_once_it_is_old(server, age, resumes):
    """A file that changes twice in a second has one date for two versions."""
    server.version, server.drops = "", [300_000]
    server.modified = email.utils.formatdate(time.time() - age, usegmt=True)
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == BODY
    assert (server.ranges[1] is not None) == resumes


def test_a_file_that_shrank_under_the_same_version_is_fetched_anew(server, cache):
    address = f"{server.url}/weights.npz"
    server.drops = [600_000, 0, 0, 0, 0]
    refusal(address)
    server.body, server.says_length = BODY[:1000], 1000
    assert addresses.fetch_file(address).read_bytes() == BODY[:1000]
    assert names(cache) == ["weights.npz"]


def test_a_part_that_was_not_asked_for_is_not_taken(server, cache):
    server.drops, server.start_instead = [300_000], 5
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == BODY
    assert names(cache) == ["weights.npz"]


def test_a_length_that_is_not_known_is_no_hindrance(server):
    server.says_length = None
    assert addresses.fetch_file(f"{server.url}/weights.npz", sha256=DIGEST).read_bytes() == BODY


def test_a_chunked_answer_that_ends_early_is_not_taken_for_the_whole(server, cache):
    server.chunked, server.version = True, ""
    server.drops = [300_000] * 5
    assert "failed 5 times" in refusal(f"{server.url}/weights.npz")
    assert names(cache) == []
    server.drops = [300_000, 0]
    assert addresses.fetch_file(f"{server.url}/weights.npz").read_bytes() == BODY


def test_without_a_length_a_file_is_whole_if_it_can_be_read(server, cache):
    """The end of the connection may be the end of the file, or a fault."""
    whole = io.BytesIO()
    np.savez(whole, a=np.arange(100_000))
    for name, body in (
        ("w.npz", whole.getvalue()),
        ("w.safetensors", save({"a": np.arange(100_000)})),
        ("w.safetensors.index.json", b'{"weight_map": {"a": "b.safetensors"}}'),
    ):
        server.body, server.says_length = body, None
        server.drops = [len(body) // 2]
        sentence = refusal(f"{server.url}/{name}")
        assert "does not say how long the file is" in sentence
        assert "cut off" in sentence
        assert not [kept for kept in names(cache) if kept == name or "partial" in kept]
        assert addresses.fetch_file(f"{server.url}/{name}").read_bytes() == body
    server.drops = [10]
    digest = hashlib.sha256(body).hexdigest()
    assert digest in refusal(f"{server.url}/other.npz", sha256=digest)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (404, "there is no file at"),
        (403, "may not be read without permission (403 Forbidden)"),
        (418, "the server answered 418"),
        (503, "failed 5 times (503 Service Unavailable)"),
    ],
)
def test_a_refusal_of_the_server_is_one_sentence(server, cache, status, sentence):
    server.status = status
    address = f"{server.url}/weights.npz"
    assert sentence in (refused := refusal(address))
    assert address in refused
    assert names(cache) == []


def test_objects_of_google_cloud_storage_have_a_web_address():
    assert (
        download.web_url("gs://vit_models/augreg/S 16.npz")
        == "https://storage.googleapis.com/vit_models/augreg/S%2016.npz"
    )


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_file_with_another_digest_is_deleted(server, cache, algorithm):
    address = f"{server.url}/weights.npz"
    digest = hashlib.new(algorithm, BODY).hexdigest()
    sentence = refusal(address, **{algorithm: "0" * 32})
    assert digest in sentence
    assert "0" * 32 in sentence
    assert names(cache) == []
    assert addresses.fetch_file(address, **{algorithm: digest.upper()}).read_bytes() == BODY


@pytest.mark.parametrize("variable", download.OFFLINE_VARIABLES)
def test_offline_nothing_is_fetched_and_the_place_for_the_file_is_named(
    server, monkeypatch, variable
):
    monkeypatch.setenv(variable, "1")
    address = f"{server.url}/weights.npz"
    sentence = refusal(address)
    assert f"{variable} forbids the network" in sentence
    assert server.ranges == []
    place = Path(re.search(r"put the file at '(.*)'", sentence)[1])
    place.parent.mkdir(parents=True)
    place.write_bytes(BODY)
    assert addresses.fetch_file(address) == place


def test_a_server_that_is_not_there_is_named(server, cache):
    server.stop()
    sentence = refusal(f"{server.url}/weights.npz")
    assert "cannot reach 127.0.0.1" in sentence
    assert "Connection refused" in sentence
    assert "give init_from the path of the file" in sentence
    assert names(cache) == []


def test_processes_that_want_the_same_file_fetch_it_once(server, cache):
    address = f"{server.url}/weights.npz"
    arrived = threading.Event()
    server.drops = [len(BODY)]  # not an interruption: a pause until both processes wait
    server.in_the_middle = lambda: arrived.wait(20)
    script = f"print('here', flush=True); print(outcome('fetch_file', {address!r}))"
    processes = [python(script) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "here\n"
    arrived.set()
    paths = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert Path(paths.pop()).read_bytes() == BODY
    assert not paths
    assert server.ranges == [None]


def test_a_file_that_cannot_fit_is_refused_before_it_comes(server, cache):
    server.says_length = 10**18
    sentence = refusal(f"{server.url}/weights.npz")
    assert f"needs {10**18:,} bytes" in sentence
    assert f"'{cache}' has " in sentence
    assert names(cache) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB; only privileged users on Linux can mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("cannot mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_leaves_nothing_behind(server, small_disk, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    server.says_length = None  # so that it is only noticed during the download
    assert "the disk is full" in refusal(f"{server.url}/weights.npz")
    assert names(small_disk / "tljax" / "checkpoints") == []


def test_a_write_that_fails_leaves_nothing_behind(server, cache):
    """Simulates a full disk by a limit on the size of files, which any user can set."""
    process = python(f"""
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
print(outcome("fetch_file", "{server.url}/weights.npz"))
""")
    sentence = process.communicate()[0].strip()
    assert sentence.startswith("refused: ")
    assert f"in '{cache}' (File too large)" in sentence
    assert "\n" not in sentence
    assert names(cache) == []


def test_a_cache_that_cannot_be_made_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "set XDG_CACHE_HOME" in refusal(f"{server.url}/weights.npz")


class HubHandler(BaseHTTPRequestHandler):
    """The part of the Hugging Face hub that a download uses."""

    protocol_version = "HTTP/1.1"
    FILES = {  # noqa: RUF012
        "/timm/vit/resolve/main/weights.npz": BODY,
        "/timm/vit/resolve/main/config.json": b"{}",
        "/timm/vit/resolve/v2/deep/weights.npz": BODY[:10],
        "/timm/cut/resolve/main/model.safetensors.index.json": json.dumps(
            {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        ).encode(),
        **{f"/timm/cut/resolve/{COMMIT}/model-{n}.safetensors": b"cut%d" % n for n in (1, 2)},
    }

    def do_HEAD(self):
        body = self.FILES.get(self.path, b"")
        if body:
            self.send_response(200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        elif self.path.startswith("/timm/gated/"):
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
        elif self.path.startswith(("/timm/vit/", "/timm/cut/")):
            known = "/resolve/main/" in self.path
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RevisionNotFound")
            if known:
                self.send_header("X-Repo-Commit", COMMIT)
        else:
            self.send_response(401)
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.FILES.get(self.path, b""))

    def log_message(self, *args):
        pass


def hub_outcomes(*calls: tuple, **environment: str) -> list[str]:
    """Runs `fetch_file` (one argument) or `fetch_sidecar` (two) in a process with `environment`.

    Returns what each returned or raised, and what the process wrote to stderr.
    """
    named = [
        ("fetch_sidecar" if len(args) == 2 else "fetch_file", args, digests)
        for args, digests in calls
    ]
    process = python(
        "print(json.dumps([outcome(name, *args, **digests)"
        " for name, args, digests in json.load(sys.stdin)]))",
        **environment,
    )
    out, err = process.communicate(json.dumps(named))
    assert process.returncode == 0, err
    return [*json.loads(out), err]


def test_files_of_the_hub_and_its_refusals(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    online = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    weights = ("hf://timm/vit/weights.npz",)
    mismatch, found, tagged, config, no_sidecar, *refused, said = hub_outcomes(
        (weights, {"sha256": "0000"}),
        (weights, {"sha256": DIGEST[:8]}),
        (("hf://timm/vit@v2/deep/weights.npz",), {}),
        ((*weights, "config.json"), {}),
        ((*weights, "preprocessor_config.json"), {}),
        (("hf://timm/vit/other.npz",), {}),
        (("hf://timm/vit@v3/weights.npz",), {}),
        (("hf://timm/gated/weights.npz",), {}),
        (("hf://timm/private/weights.npz",), {}),
        (("hf://timm/-bad-/weights.npz",), {}),
        **online,
    )
    server.shutdown()
    server.server_close()

    assert DIGEST in mismatch
    assert Path(found).read_bytes() == BODY  # so the file with the wrong digest was deleted
    assert Path(tagged).read_bytes() == BODY[:10]
    assert Path(config).read_bytes() == b"{}"
    assert no_sidecar == "None"
    assert "cannot read" not in said, "the repository has no such file, and says so"
    parts = [
        "has no file 'other.npz' at revision 'main'",
        "has no revision 'v3'",
        "'timm/gated' on the Hugging Face hub is gated",
        "no repository 'timm/private' on the Hugging Face hub, or it is private",
        "is not an address on the Hugging Face hub",
    ]
    for sentence, part in zip(refused, parts, strict=True):
        assert part in sentence
        assert "\n" not in sentence

    # The hub is gone: cached files are found, others are refused, offline or not.
    for variable in (None, "HF_HUB_OFFLINE", "TLJAX_OFFLINE"):
        again, config, no_sidecar, no_other, missing, said = hub_outcomes(
            (weights, {"sha256": "0000"}),
            ((*weights, "config.json"), {}),
            (("hf://timm/deit/weights.npz", "config.json"), {}),
            (("hf://timm/deit/weights.npz", "preprocessor_config.json"), {}),
            (("hf://timm/deit/weights.npz",), {}),
            **online,
            **({variable: "1"} if variable else {}),
        )
        assert again == found
        assert Path(config).name == "config.json"
        assert no_sidecar == no_other == "None"
        why = "cannot read config.json of the weights, which says how images are prepared"
        assert said.count("cannot read") == said.count(why) == 1, said
        assert (f"{variable} forbids" if variable else "Connection refused") in missing
        assert "init_from" in missing


def test_whole_repositories_of_the_hub(tmp_path):
    """The weights of the usual name, or the files of one version that an index lists."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    script = """
from tljax.weights import folders

def tried(address):
    try:
        files = folders.fetch_weights(address)
    except InputError as error:
        return "refused: " + str(error)
    return [[str(path) for path in files.paths], str(folders.find_cached(address))]

print(json.dumps([tried(address) for address in json.load(sys.stdin)]))
"""
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    def outcomes(*tried: str) -> list:
        process = python(script, **environment)
        out, err = process.communicate(json.dumps(tried))
        assert process.returncode == 0, err
        return json.loads(out)

    (files, index), private, other = outcomes(
        "hf://timm/cut", "hf://timm/private", "hf://timm/vit@main"
    )
    server.shutdown()
    server.server_close()
    assert [Path(file).read_bytes() for file in files] == [b"cut1", b"cut2"]
    assert {Path(file).parent.name for file in (*files, index)} == {COMMIT}
    assert index.endswith("/model.safetensors.index.json")
    assert "no repository 'timm/private' on the Hugging Face hub" in private
    assert "holds none of model.safetensors, model.safetensors.index.json, pytorch_mod" in other
    assert "hf://timm/vit@main/PATH" in other
    (again,) = outcomes("hf://timm/cut@main")  # the hub is gone
    assert again == [files, index]
    environment["TLJAX_OFFLINE"] = "1"
    again, missing = outcomes("hf://timm/cut", "hf://timm/vit")
    assert again == [files, index]
    assert (
        "hf://timm/vit/model.safetensors is not in the cache and TLJAX_OFFLINE forbids" in missing
    )


def test_the_open_copies_of_gated_weights_are_in_the_zoo():
    for place in ("vits16", "vits16plus", "vitb16", "vitl16", "vith16plus", "convnext-tiny"):
        copy = addresses.open_copy(f"facebook/dinov3-{place}-pretrain-lvd1689m")
        assert copy in zoo.entries(), place
    assert addresses.open_copy("facebook/dinov3-vitl16-pretrain-sat493m") in zoo.entries()
    assert addresses.open_copy("facebook/dinov2-small") is None
