"""The user name, password and query of an address are never kept or shown."""

import json
import logging
import traceback

import pytest
from safetensors import safe_open
from safetensors.numpy import save

import tljax
from tests.test_addresses import Server
from tests.test_unwrapping import RESNET, tensors_of
from tljax import cli, experiment
from tljax.commands.sweep.listing import run_name
from tljax.errors import InputError, hide_secrets, redacted
from tljax.weights import download
from tljax.weights.families import TORCH_RESNET

SECRETS = ("u5er", "pa55", "K3Y", "sig=")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://host/x.npz", "https://host/x.npz"),
        ("https://u5er:pa55@host:80/x?sig=K3Y&b=c#d", "https://***@host:80/x?***"),
        ("http://u5er@host/a@b", "http://***@host/a@b"),
        ("http://u5er:p@a/55?x#@host/x", "http://***@a/55?***"),
        ("http://u5er:pa/55@host/x", "http://***@host/x"),
        ("http://u5er:pa?55@host/x?y", "http://***@host/x?***"),
        ("http://host/x#token=K3Y", "http://host/x#***"),
        ("HTTPS://u5er@host", "HTTPS://***@host"),
        ("s3://u5er:pa55@bucket/x", "s3://***@bucket/x"),
        ("gs://bucket/x?sig=K3Y", "gs://bucket/x?***"),
        ("s3://bucket/x?a=b&X-Amz-Security-Token=K3Y", "s3://bucket/x?***"),
        ("hf://datasets/o/n?label=COLUMN&train=a", "hf://datasets/o/n?label=COLUMN&train=a"),
        ("s3://u5er:pa55@bucket/t/*.parquet?label=y", "s3://***@bucket/t/*.parquet?label=y"),
        ("gs://bucket/shard-?.tar", "gs://bucket/shard-?.tar"),
        ("hf://owner/repo@main/x", "hf://owner/repo@main/x"),
        ("runs/a?b@c", "runs/a?b@c"),
        ("tfds:cifar10?train=train[:80%]", "tfds:cifar10?train=train[:80%]"),
        ("", ""),
    ],
)
def test_an_address_without_secrets(address, shown):
    assert redacted(address) == shown
    assert redacted(shown) == shown, "hiding twice changes nothing"


def test_addresses_in_sentences():
    sentence = (
        "cannot get 'http://u5er:pa 55@h/x?a b' (https://h/x?K3Y); see hf://o/r@v/p, or hf://"
    )
    expected = "cannot get 'http://***@h/x?***' (https://h/x?***); see hf://o/r@v/p, or hf://"
    assert hide_secrets(sentence) == expected
    assert str(InputError(sentence)) == expected
    remedy = "choose the label; write hf://datasets/o/n?label=COLUMN, e.g. ?label=class"
    assert str(InputError(remedy)) == remedy


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server with weights, and an empty cache of downloads."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "_PAUSES", (0.0,) * 4)
    for variable in download.OFFLINE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    server = Server()
    server.body = save(tensors_of(TORCH_RESNET))
    server.says_length = len(server.body)
    yield server
    server.stop()


def address_of(server, key="K3Y"):
    host = server.url.removeprefix("http://")
    return f"http://u5er:pa55@{host}/weights.safetensors?sig={key}"


def assert_hidden(text):
    assert not [secret for secret in SECRETS if secret in text], text


def assert_hidden_in(folder):
    """Neither the names nor the contents of the files in a folder hold a secret."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_hidden(str(path.relative_to(folder)))
        content = path.read_bytes()
        assert not [s for s in ("pa55", "K3Y", "sig=") if s.encode() in content], path


def test_a_run_keeps_and_says_none_and_resumes_with_another_key(
    server, tiny_config, tmp_path, caplog, capsys
):
    config = tiny_config(scenario="feature_extraction", model=RESNET, steps=1)
    config.init_from = address_of(server)
    workdir = tmp_path / "run"
    with caplog.at_level(logging.DEBUG, "tljax"):
        experiment.run(config, workdir)
    assert any("not known how the images of" in message for message in caplog.messages)
    assert any(message.startswith("downloading http://***@") for message in caplog.messages)
    assert_hidden(caplog.text)
    assert_hidden_in(workdir)
    shown = redacted(config.init_from)
    assert json.loads((workdir / "config.json").read_text())["init_from"] == shown

    output = tmp_path / "out" / "e.safetensors"
    output.parent.mkdir()
    argv = ["export", "--workdir", str(workdir), "--format", "timm", "--output", str(output)]
    assert cli.main(argv) == 0
    assert shown in output.with_suffix(".md").read_text()
    converted = output.with_name("c.safetensors")
    argv = ["convert", config.init_from, "--model", RESNET, "--output", str(converted)]
    assert cli.main(argv) == 0
    with safe_open(converted, framework="numpy") as file:
        assert file.metadata()["origin"] == shown
    assert_hidden_in(output.parent)
    assert_hidden("".join(capsys.readouterr()))

    config.init_from = address_of(server, "N3W")
    experiment.run(config, workdir)  # it is the same run
    config.init_from = config.init_from.replace("weights", "others")
    with pytest.raises(InputError, match="init_from was http") as raised:
        experiment.run(config, workdir)
    assert_hidden(str(raised.value))
    kept = json.loads((workdir / "config.json").read_text()) | {"init_from": address_of(server)}
    (workdir / "config.json").write_text(json.dumps(kept))  # as earlier versions wrote it
    assert experiment.read_config(workdir).init_from == shown


def test_errors_show_none_even_in_a_traceback(server):
    for change in ({"status": 403}, {"status": 404}, {"body": b"damaged"}, {"drops": [10] * 5}):
        vars(server).update({"status": 200, "body": b"", "drops": [], "says_length": None} | change)
        assert_hidden(failure(address_of(server)))
    for address in (
        "http://u5er:pa55@127.0.0.1:9/x.npz?sig=K3Y",  # no server
        "http://u5er:pa55@127.0.0.1:99999/x.npz?sig=K3Y",  # no port
        "http://u5er:pa55@/x.npz?sig=K3Y",
        "http://u5er:pa55@host/x.html?sig=K3Y",
        "htp://u5er:pa55@host/x.npz?sig=K3Y",
        "hf://u5er:pa55@owner/repo/x.npz?sig=K3Y",
    ):
        assert_hidden(failure(address))


def failure(address):
    with pytest.raises(InputError) as raised:
        tljax.load(RESNET, address, num_classes=0)
    return "".join(traceback.format_exception(raised.value))


def test_a_hidden_address_is_not_taken_for_the_whole():
    with pytest.raises(InputError, match="give the whole address"):
        tljax.load(RESNET, "https://***@host/x.npz?***", num_classes=0)


def test_the_folders_of_a_sweep_are_named_without(server):
    first, second = ({"init_from": address_of(server, key), "seed": 0} for key in ("K3Y", "N3W"))
    assert_hidden(run_name(first))
    assert run_name(first) != run_name(second)
