#!/usr/bin/env bash
# Runs a tljax command on TPU VMs of Google Cloud until it is done: makes them, installs tljax on
# all their hosts, starts the command there, and replaces VMs that were preempted.
# docs/tpu.md says how, and what of this could be checked.
set -euo pipefail

usage() {
  cat << 'END'
usage: launch_tpu_vm.sh --name NAME --zone ZONE --type TYPE --runtime VERSION
                        --workdir gs://BUCKET/DIR [OPTION ...] -- train|sweep --config FILE [...]

  --name NAME       of the TPU VM; with --vms N they are NAME-0 to NAME-(N-1)
  --zone ZONE       e.g. us-west4-a
  --type TYPE       accelerator type, e.g. v5litepod-8
  --runtime VERSION of the VM's software, e.g. v2-alpha-tpuv5-lite
  --workdir ADDRESS gs://BUCKET/DIR: gets the run's workdir; with --vms N: ADDRESS/NAME-I
  --project NAME    default: gcloud's
  --spot            cheaper VMs that may be preempted at any time
  --queued          wait in the queue for capacity (queued resources)
  --vms N           divide a sweep among N VMs; default 1
  --data ADDRESS    gs://BUCKET/PATH/X: copied to data/X before the start; may be repeated.
                    tfds: data needs none of it: --config.data_dir=gs://BUCKET/DIR
  --every SECONDS   between copies of the workdir to its address; default 120
  --keep            leave the VMs when all is done; default: delete them
  --dry-run         print the commands, run none

The command finds configs/ and experiments/ of this checkout, as they are now, and data/.
What git ignores stays here, and so do new files whose name begins with a dot.
The same command again resumes.
END
}

fail() {
  echo "launch_tpu_vm.sh: $*" >&2
  exit 2
}

name='' zone='' type='' runtime='' workdir='' project='' vms=1 every=120
spot='' queued='' keep='' dry='' data=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --spot) spot=yes ;;
    --queued) queued=yes ;;
    --keep) keep=yes ;;
    --dry-run) dry=yes ;;
    --help | -h) usage && exit 0 ;;
    --name | --zone | --type | --runtime | --workdir | --project | --vms | --every | --data)
      [ $# -gt 1 ] || fail "$1 needs a value; see --help"
      if [ "$1" = --data ]; then data+=("$2"); else printf -v "${1#--}" %s "$2"; fi
      shift
      ;;
    *) fail "unknown option '$1'; see --help" ;;
  esac
  shift
done
[ $# -gt 2 ] || fail "there is no command after --; see --help"
shift
for option in name zone type runtime workdir; do
  [ -n "${!option}" ] || fail "--$option is missing; see --help"
done
for address in "$workdir" ${data[@]+"${data[@]}"}; do
  case $address in gs://?*/?*) ;; *) fail "'$address' is no gs://BUCKET/DIR" ;; esac
done
[[ $vms =~ ^[1-9][0-9]*$ ]] || fail "--vms is $vms; give a number from 1"
[[ $every =~ ^[1-9][0-9]*$ ]] || fail "--every is $every; give seconds from 1"
case $1 in
  train) [ "$vms" = 1 ] || fail "train has one workdir and takes one VM; choose a larger --type" ;;
  sweep) ;;
  *) fail "cannot launch '$1'; give train or sweep" ;;
esac
for word in "$@"; do
  case $word in
    --workdir* | --shard*) fail "${word%%=*} is set here, not after --" ;;
  esac
done
cd "$(dirname "$0")/.."
[ -n "$dry" ] || command -v gcloud > /dev/null || fail "there is no gcloud; install Google's SDK"

poll=${TLJAX_POLL:-60} # seconds between looks at a VM
place=("--zone=$zone" ${project:+"--project=$project"} --quiet)
temporary=$(mktemp -d)
code_archive=$temporary/tljax.tar.gz code_files=$temporary/files
trap 'rm -rf "$temporary"' EXIT

# Prints a command, and runs it unless the run is a dry one.
run() {
  printf '%q ' "$@"
  echo
  [ -n "$dry" ] || "$@"
}

vm() { run gcloud compute tpus tpu-vm "$@" "${place[@]}"; }

create() { # NAME
  if [ -z "$queued" ]; then
    vm create "$1" "--accelerator-type=$type" "--version=$runtime" \
      --scopes=cloud-platform ${spot:+--spot}
    return
  fi
  case $(place_in_queue "$1") in
    '') ;;
    FAILED | SUSPENDED) delete "$1" || return ;;
    *) wait_in_queue "$1" && return ;;
  esac
  run gcloud compute tpus queued-resources create "$1" "--node-id=$1" \
    "--accelerator-type=$type" "--runtime-version=$runtime" \
    --scopes=cloud-platform ${spot:+--spot} "${place[@]}" &&
    wait_in_queue "$1"
}

place_in_queue() { # NAME; nothing if it is not in the queue
  local look
  look=(gcloud compute tpus queued-resources describe "$1" '--format=value(state.state)')
  [ -n "$dry" ] || "${look[@]}" "${place[@]}" 2> /dev/null || true
}

wait_in_queue() { # NAME
  local state=''
  [ -z "$dry" ] || return 0
  while state=$(place_in_queue "$1"); do
    case $state in
      ACTIVE) return 0 ;;
      '' | FAILED | SUSPENDED) return 1 ;;
    esac
    echo "$1: $state"
    sleep "$poll"
  done
}

delete() { # NAME
  if [ -n "$queued" ]; then
    run gcloud compute tpus queued-resources delete "$1" --force "${place[@]}"
  else
    vm delete "$1"
  fi
}

state_of() { # NAME
  gcloud compute tpus tpu-vm describe "$1" '--format=value(state)' "${place[@]}" 2> /dev/null ||
    echo MISSING
}

# Does nothing where a worker is running. The VM's python3 is older than tljax asks for: uv has one.
install() { # NAME
  vm scp "$code_archive" "$1:tljax.tar.gz" --worker=all &&
    vm ssh "$1" --worker=all --command="[ ! -e .worker ] || flock --nonblock .worker true || exit 0; \
mkdir -p tljax && tar -xzf tljax.tar.gz -C tljax && cd tljax && \
python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --allow-existing --python 3.11 .venv && \
python3 -m uv pip install --quiet -c constraints.txt '.[tpu,gcs]'"
}

start() { # NAME ADDRESS COMMAND...
  local vm_name=$1 address=$2 line
  shift 2
  line=$(printf '%q ' bash tljax/experiments/tpu_vm_worker.sh "$address" "$every" \
    ${data[@]+"${data[@]}"} -- "$@")
  vm ssh "$vm_name" --worker=all \
    --command="nohup setsid $line > worker.log 2>&1 < /dev/null & sleep 1; \
flock --nonblock .worker true && [ ! -e exit_code ] && cat worker.log && exit 1 || true"
}

# Sees one VM through to the end of its command; returns tljax's exit code.
see_through() { # NAME ADDRESS COMMAND...
  local vm_name=$1 address=$2 state code new=yes seen='' failures=0
  local told=("$address/launch/exit_code")
  shift 2
  run gcloud storage rm "${told[@]}" 2> /dev/null || true # of an earlier launch
  if [ -n "$dry" ]; then
    create "$vm_name" && install "$vm_name" && start "$vm_name" "$address" "$@"
    run gcloud compute tpus tpu-vm describe "$vm_name" '--format=value(state)' "${place[@]}"
    run gcloud storage cat "${told[@]}"
    [ -n "$keep" ] || delete "$vm_name"
    return
  fi
  while :; do
    state=$(state_of "$vm_name")
    [ "$state" = MISSING ] || seen=yes
    case $state in
      READY)
        if [ -n "$new" ]; then # where a worker runs already it stays the one
          if install "$vm_name" && start "$vm_name" "$address" "$@"; then
            new=''
          elif [ $((failures += 1)) = 5 ]; then
            echo "$vm_name: cannot install or start tljax there; look, or delete it" >&2
            return 2
          fi
        elif code=$(gcloud storage cat "${told[@]}" 2> /dev/null) && [ -n "$code" ]; then
          break
        fi
        ;;
      MISSING | PREEMPTED | TERMINATED | STOPPED)
        echo "$vm_name: $state; making it"
        if [ "$state" != MISSING ] && ! delete "$vm_name"; then
          echo "$vm_name: cannot delete it yet"
        elif create "$vm_name"; then
          new=yes
          continue
        elif [ -z "$seen" ]; then
          return 2 # it never was: gcloud has said why
        fi
        ;;
      *) echo "$vm_name: $state" ;;
    esac
    sleep "$poll"
  done
  echo "$vm_name: tljax ended with exit code $code; its log is $address/launch/worker-0.log"
  [ -n "$keep" ] || delete "$vm_name" || true
  return "$code"
}

# Lists the files that the VMs get, each ended by NUL: those that git tracks, as they are now, and
# new ones, without what git ignores and without hidden ones, as these may hold keys.
list_code() {
  local look=(git ls-files --exclude-standard '--exclude=.*') file new
  local where=(-- pyproject.toml setup.py constraints.txt LICENSE README.md)
  where+=(tljax configs experiments)
  "${look[@]}" -z --cached --others "${where[@]}" 2> /dev/null |
    while IFS= read -r -d '' file; do
      [ ! -e "$file" ] || printf '%s\0' "$file" # git lists what was deleted, too
    done > "$code_files" || true
  grep -zqx pyproject.toml "$code_files" ||
    fail "git does not list the files of $PWD, and not all in it are for a VM; \`git init\` there"
  new=$("${look[@]}" --others "${where[@]}" | wc -l)
  [ "$new" -eq 0 ] ||
    echo "launch_tpu_vm.sh: files that git does not track and the VMs get, too: $((new))" >&2
}

list_code
run tar --null --no-recursion --files-from="$code_files" -czf "$code_archive"
if [ "$vms" = 1 ]; then
  see_through "$name" "${workdir%/}" "$@"
  exit
fi
running=()
for ((i = 0; i < vms; i++)); do
  see_through "$name-$i" "${workdir%/}/$name-$i" "$@" --shard "$i/$vms" &
  running+=($!)
  [ -z "$dry" ] || wait $! # one after the other, to be read
done
worst=0
for process in "${running[@]}"; do
  wait "$process" || worst=$?
done
exit "$worst"
