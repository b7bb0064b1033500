"""The scripts for TPU VMs, with a fake `gcloud` whose VMs and buckets are folders.

Google's own program is not tested. The tests check the commands and their order, and that a run
that loses its VM ends bit-identical.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tljax import cli
from tljax.config import base

REPOSITORY = Path(__file__).parents[1]
LAUNCH = REPOSITORY / "experiments" / "launch_tpu_vm.sh"
WORKER = REPOSITORY / "experiments" / "tpu_vm_worker.sh"
WHERE = ["--name", "pets", "--zone", "us-west4-a", "--type", "v5litepod-8"]
WHERE += ["--runtime", "v2-alpha-tpuv5-lite", "--workdir", "gs://bucket/runs/pets"]

GCLOUD = r"""
import os, re, shutil, signal, subprocess, sys
from pathlib import Path

cloud = Path(os.environ["CLOUD"])
words = [word for word in sys.argv[1:] if not word.startswith("-")]
flags = dict(word.partition("=")[::2] for word in sys.argv[1:] if word.startswith("-"))
with (cloud / "log").open("a") as log:
    log.write(" ".join(sys.argv[1:]).split(" --command")[0] + "\n")

def local(place):
    return cloud / "gs" / place[5:] if place.startswith("gs://") else Path(place)

def files(folder):
    return {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}

if words[0] == "storage":
    verb, *places = words[1:]
    here = [local(place) for place in places]
    if verb == "ls":
        if not files(Path(str(here[0]).removesuffix("/**"))):
            sys.exit("ERROR: (gcloud.storage.ls) One or more URLs matched no objects.")
    elif verb == "cat":
        sys.stdout.write(here[0].read_text())
    elif verb == "rm":
        here[0].unlink()
    elif verb == "cp":
        here[1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(*here)
    elif verb == "rsync":
        assert "--recursive" in flags
        source, target = here
        wanted = files(source)
        if "--exclude" in flags:
            wanted = {n: p for n, p in wanted.items() if not re.match(flags["--exclude"], n)}
        for name, path in wanted.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / name)
        if "--delete-unmatched-destination-objects" in flags:
            for name, path in files(target).items():
                if name not in wanted:
                    path.unlink()
    sys.exit()
assert words[:2] == ["compute", "tpus"], words
verb, name = words[3], words[4]
vm = cloud / "vms" / name.partition(":")[0]
if words[2] == "queued-resources":
    if verb == "create":
        assert flags["--node-id"] == name
    elif verb == "describe":
        if not vm.exists():
            sys.exit("NOT_FOUND")
        print("ACTIVE" if (vm / "state").read_text() == "READY" else "SUSPENDED")
if verb == "create":
    assert flags["--accelerator-type"] == "v5litepod-8" and flags["--zone"] == "us-west4-a"
    if (cloud / "full").exists():
        sys.exit("There is no more capacity in the zone")
    (vm / "home").mkdir(parents=True)
    (vm / "state").write_text("READY")
elif verb == "delete":
    vm.rename(cloud / f"gone-{os.getpid()}")  # whatever still runs there
elif words[2] == "tpu-vm" and verb == "describe":
    if not vm.exists():
        sys.exit("NOT_FOUND")
    print((vm / "state").read_text())
elif verb == "scp":
    target = cloud / "vms" / words[5].partition(":")[0] / "home" / words[5].partition(":")[2]
    shutil.copy(name, target)
elif verb == "ssh":
    assert flags["--worker"] == "all"
    environment = {**os.environ, "HOME": str(vm / "home")}
    done = subprocess.run(["bash", "-c", flags["--command"]], cwd=vm / "home", env=environment)
    sys.exit(done.returncode)
"""

# Replaces `python3 -m pip` and `python3 -m uv` on a VM: makes a .venv with tljax.
PYTHON3 = """#!/bin/bash
case "$*" in
  *"uv pip install"*"[tpu,gcs]"*)
    mkdir -p .venv/bin && cp "$CLOUD/tljax" .venv/bin/tljax ;;
esac
"""


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """Puts fake `gcloud`, `curl` (VM number 0) and `python3` first in PATH; data in `tmp_path`."""
    if not (REPOSITORY / ".git").exists():
        pytest.skip("launch_tpu_vm.sh needs a git checkout, and this is none")
    tools = tmp_path / "tools"
    tools.mkdir()
    programs = {
        "gcloud": f"#!{sys.executable}\n{GCLOUD}",
        "curl": "#!/bin/bash\necho 0\n",
        "python3": PYTHON3,
    }
    for name, text in programs.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("CLOUD", str(tmp_path))
    monkeypatch.setenv("TLJAX_POLL", "0.1")
    monkeypatch.setenv("TLJAX_PAUSE", "0.1")
    return tmp_path


def tljax_on_the_vm(cloud, script):
    (cloud / "tljax").write_text(f"#!/bin/bash\n{script}\n")
    (cloud / "tljax").chmod(0o755)


def launch(*words, options=()):
    command = [str(LAUNCH), *WHERE, "--every", "1", *options, "--", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def counted(cloud, what):
    return sum(what in line for line in (cloud / "log").read_text().splitlines())


# --- on a cloud of folders ---------------------------------------------------------------------


@pytest.mark.soak
def test_a_run_whose_vm_is_taken_away_goes_on_in_another_to_the_same_bits(cloud, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    fields = ["--config.steps=40", "--config.eval_every=8", "--config.batch_size=8"]
    fields += ["--config.last_group=layer1_0"]
    train = ["train", "--config", "configs/from_scratch.py", "--config.train_size=40", *fields]
    # The first VM is preempted as soon as there is a checkpoint: its processes get SIGTERM, and
    # have time to save, as on a spot VM.
    tljax_on_the_vm(
        cloud,
        f"""
        if [ ! -e "$CLOUD/taken" ]; then
          touch "$CLOUD/taken"
          (until compgen -G "$HOME/workdir/checkpoints/*" > /dev/null; do sleep 0.02; done
           kill -TERM $PPID; while kill -0 $PPID 2> /dev/null; do sleep 0.02; done
           printf PREEMPTED > "$CLOUD/vms/pets/state") &
        fi
        exec {sys.executable} -m tljax.cli "$@"
        """,
    )
    done = launch(*train, options=["--spot", "--data", "gs://bucket/photos"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert counted(cloud, "tpu-vm create pets") == 2
    assert counted(cloud, "tpu-vm delete pets") == 2
    assert not (cloud / "vms" / "pets").exists()
    bucket = cloud / "gs" / "bucket" / "runs" / "pets"
    assert (bucket / "launch" / "exit_code").read_text() == "0\n"
    log = (bucket / "launch" / "worker-0.log").read_text()
    assert re.findall(r"exit code (\d+)", log) == ["75", "0"]
    argv = [*train[:2], str(REPOSITORY / train[2]), *train[3:]]
    assert cli.main([*argv, "--workdir", str(cloud / "undisturbed")]) == 0
    for name in ("metrics.jsonl", "classes.json"):
        assert (bucket / name).read_bytes() == (cloud / "undisturbed" / name).read_bytes()
    results = [json.loads((w / "result.json").read_text()) for w in (bucket, cloud / "undisturbed")]
    assert results[0]["test_accuracy"] == results[1]["test_accuracy"]


def test_75_is_run_again_in_place_and_every_other_code_is_told(cloud):
    tljax_on_the_vm(
        cloud, 'echo "$@" >> "$CLOUD/lives"; [ $(wc -l < "$CLOUD/lives") = 3 ] || exit 75'
    )
    done = launch("train", "--config", "a page.py", options=["--keep"])
    assert done.returncode == 0, done.stdout + done.stderr
    home = cloud / "vms" / "pets" / "home"
    assert (
        cloud / "lives"
    ).read_text() == f"train --config a page.py --workdir {home}/workdir\n" * 3
    assert counted(cloud, "tpu-vm create") == 1
    assert counted(cloud, "tpu-vm delete") == 0
    tljax_on_the_vm(cloud, "echo cannot read it; exit 2")
    done = launch("train", "--config", "a page.py")
    assert done.returncode == 2
    assert counted(cloud, "tpu-vm create") == 1, "the VM existed"
    assert counted(cloud, "tpu-vm delete") == 1
    log = cloud / "gs" / "bucket" / "runs" / "pets" / "launch" / "worker-0.log"
    assert "cannot read it" in log.read_text()


def test_a_sweep_is_divided_among_vms_from_the_queue(cloud):
    tljax_on_the_vm(
        cloud, 'mkdir -p "$HOME/workdir/runs/${@: -3:1}"; echo "$@" > "$HOME/workdir/argv"'
    )
    done = launch("sweep", "--config", "p.py", options=["--vms", "2", "--queued", "--spot"])
    assert done.returncode == 0, done.stdout + done.stderr
    for i in range(2):
        argv = (cloud / "gs" / "bucket" / "runs" / "pets" / f"pets-{i}" / "argv").read_text()
        assert argv.startswith(f"sweep --config p.py --shard {i}/2 --workdir ")
    assert counted(cloud, "queued-resources create") == 2
    assert counted(cloud, "queued-resources delete") == 2


def test_a_vm_that_cannot_be_made_ends_the_launch(cloud):
    (cloud / "full").touch()
    tljax_on_the_vm(cloud, "true")
    done = launch("train", "--config", "p.py")
    assert done.returncode == 2
    assert "no more capacity" in done.stderr


def test_what_git_ignores_and_new_hidden_files_stay_on_this_machine(cloud):
    """A checkout of a user: the archive has the tracked files as they are, and new ones."""
    checkout, there = cloud / "checkout", cloud / "vms" / "pets" / "home" / "tljax"
    tracked = ["pyproject.toml", "configs/mine.py", "configs/gone.py", "experiments/.tracked"]
    tracked += ["experiments/launch_tpu_vm.sh", "experiments/tpu_vm_worker.sh"]
    ignored = ["experiments/key.json", "tljax/__pycache__/x.pyc", "configs/runs/big.npz"]
    hidden = ["experiments/.env", "configs/.keys/mine"]
    new = ["configs/new one.py", "tljax/new\nline.py"]
    elsewhere = ["runs/w/config.json", "notes.txt"]
    for name in [*tracked, *ignored, *hidden, *new, *elsewhere]:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("as committed")
    for script in (LAUNCH, WORKER):
        shutil.copy(script, checkout / "experiments")
    (checkout / ".gitignore").write_text("__pycache__/\n*.npz\nkey.json\n")
    subprocess.run(["git", "init", "--quiet", checkout], check=True)
    subprocess.run(["git", "-C", checkout, "add", *tracked], check=True)
    (checkout / "configs" / "mine.py").write_text("as it is now")
    (checkout / "configs" / "gone.py").unlink()
    tljax_on_the_vm(cloud, "true")
    script = str(checkout / "experiments" / "launch_tpu_vm.sh")
    command = [script, *WHERE, "--every", "1", "--keep", "--", "train", "--config", "c"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = {str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()}
    sent -= {".venv/bin/tljax"}
    assert sent == {*tracked, *new} - {"configs/gone.py"}
    assert (there / "configs" / "mine.py").read_text() == "as it is now"
    assert "git does not track and the VMs get, too: 2" in done.stderr


def test_without_a_list_of_git_nothing_is_sent(cloud, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(cloud / "nowhere"))
    done = launch("train", "--config", "p.py")
    assert done.returncode == 2
    assert "`git init` there" in done.stderr
    assert not (cloud / "log").exists(), "gcloud was not called"


@pytest.mark.parametrize("interrupted", range(4))
def test_a_copy_that_was_interrupted_is_one_to_go_on_from(cloud, interrupted):
    """A new checkpoint replaces an old one; copying stops after each of its three parts."""
    old, new = ({"checkpoints/" + n: n, "metrics.jsonl": n} for n in ("1", "12"))
    gcloud = (cloud / "tools" / "gcloud").read_text()
    (cloud / "tools" / "gcloud").write_text(
        gcloud.replace(
            '        assert "--recursive" in flags\n',
            '        parts = (cloud / "parts")\n'
            "        parts.touch()\n"
            f"        if len(parts.read_text()) >= {interrupted}: sys.exit(1)\n"
            '        parts.write_text(parts.read_text() + ".")\n',
        )
    )
    address, home = cloud / "gs" / "b" / "run", cloud / "home"
    for folder, content in ((address, old), (home / "workdir", new | {"result.json": "done"})):
        for name, text in content.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    push = re.search(r"^push\(\) \{.*?^\}", WORKER.read_text(), re.MULTILINE | re.DOTALL)[0]
    script = f"{push}\nworkdir=$HOME/workdir snapshot=$HOME/snapshot address=gs://b/run; push"
    subprocess.run(["bash", "-c", script], env={**os.environ, "HOME": str(home)})
    there = {str(p.relative_to(address)): p.read_text() for p in address.rglob("*") if p.is_file()}
    newest = max(name for name in there if name.startswith("checkpoints/"))
    assert there["metrics.jsonl"].startswith(there[newest]), "rows of the checkpoint"
    assert ("result.json" in there) == (interrupted == 3)
    assert ("checkpoints/1" in there) == (interrupted < 3)


# --- what is printed and refused ---------------------------------------------------------------


def test_a_dry_run_prints_every_command_and_runs_none(cloud):
    done = launch(
        "train",
        "--config",
        "configs/fine_tune.py",
        "--config.data=tfds:pets?val=train[:20%]",
        options=["--spot", "--project", "p", "--dry-run"],
    )
    assert done.returncode == 0, done.stderr
    assert not (cloud / "log").exists()
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    told = [" ".join(word for word in words if not word.startswith("-")) for words in commands]
    assert [words[0] for words in commands[1:]] == ["gcloud"] * (len(commands) - 1)
    assert [line.split()[-2:] for line in told[2:3]] == [["create", "pets"]]
    assert all("--project=p" in words for words in commands if "compute" in words)
    start = next(words for words in commands if any("tpu_vm_worker" in word for word in words))
    line = next(word for word in start if word.startswith("--command="))
    inner = shlex.split(line.removeprefix("--command="))
    ran = inner[inner.index("--") + 1 : inner.index(">")]
    assert ran == ["train", *ran[1:3], "--config.data=tfds:pets?val=train[:20%]"]
    check_flags([*ran, "--workdir", "x"])


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([*WHERE[2:], "--", "train", "--config", "p"], "--name is missing"),
        ([*WHERE, "--", "train"], "there is no command"),
        ([*WHERE, "--vms", "2", "--", "train", "--config", "p"], "takes one VM"),
        ([*WHERE, "--vms", "none", "--", "sweep", "--config", "p"], "--vms is none"),
        ([*WHERE, "--every", "0", "--", "train", "--config", "p"], "--every is 0"),
        ([*WHERE, "--", "predict", "x"], "cannot launch 'predict'"),
        ([*WHERE, "--", "train", "--config", "p", "--workdir", "x"], "--workdir is set here"),
        ([*WHERE, "--", "sweep", "--config", "p", "--shard=0/2"], "--shard is set here"),
        ([*WHERE, "--data", "photos", "--", "train", "--config", "p"], "no gs://BUCKET/DIR"),
        ([*WHERE, "--spott", "--", "train", "--config", "p"], "unknown option '--spott'"),
        ([*WHERE, "--project"], "--project needs a value"),
    ],
)
def test_launch_refuses(words, fragment, cloud):
    done = subprocess.run([str(LAUNCH), *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert fragment in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not (cloud / "log").exists(), "gcloud was not called"


def subcommands():
    actions = cli.build_parser()._subparsers._group_actions
    return next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices


def check_flags(argv):
    """Asserts that the command has every flag, and the config every field."""
    flags = subcommands()[argv[0]]._option_string_actions
    for word in argv[1:]:
        field = re.match(r"--config\.(\w+)=", word)
        assert not field or field[1] in base(), word
        assert field or not word.startswith("--") or word.partition("=")[0] in flags, word


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say():
    scripts = sorted(map(str, (REPOSITORY / "experiments").rglob("*.sh")))
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
