#!/usr/bin/env bash
# Runs on a TPU VM, started by launch_tpu_vm.sh on each of its hosts: a tljax command whose workdir
# is a folder of this host, and what lies at an address of Google Cloud Storage a copy of it.
#
# usage: tpu_vm_worker.sh gs://BUCKET/DIR SECONDS [gs://BUCKET/DATA ...] -- COMMAND [ARGUMENT ...]
#
# The copy is fetched before the start, and brought up to date every so many SECONDS and after the
# end. Exit code 75 of tljax means "again". All but the first host only compute.
set -uo pipefail

address=${1%/} every=$2
shift 2
data=()
while [ "$1" != -- ]; do
  data+=("${1%/}")
  shift
done
shift

home=$HOME/tljax          # where tljax was unpacked; paths of the command are relative to it
workdir=$HOME/workdir
snapshot=$HOME/snapshot   # on the same disk as the workdir
pause=${TLJAX_PAUSE:-10}  # seconds before something is tried again
attributes=http://metadata.google.internal/computeMetadata/v1/instance/attributes
number=$(curl --silent --fail -H 'Metadata-Flavor: Google' "$attributes/agent-worker-number") || number=0

cd "$home" || exit 1
exec 9> "$HOME/.worker"
flock --nonblock 9 || { echo "a worker is running here already"; exit 0; }

is_there() {  # whether anything lies at the address; tried until that is known
  local told
  until told=$(gcloud storage ls "$1" 2>&1); do
    case $told in *"matched no objects"*) return 1 ;; esac
    echo "cannot look at $1: $told"
    sleep "$pause"
  done
}

# Checkpoints do not change once they are there, so links to them are a snapshot. Whatever comes to
# an end in the middle of this, what lies at the address is a workdir that a run can go on from:
# metrics are copied later than their checkpoints but arrive earlier, the result arrives last, and
# nothing is deleted there before all that replaces it has arrived.
push() {
  rm -rf "$snapshot"
  cp --archive --link "$workdir" "$snapshot" 2> /dev/null  # what is deleted meanwhile is missing
  find "$snapshot" '(' -name .lock -o -name '.*.[0-9]*' -o -name '*checkpoint-tmp*' ')' \
    -prune -exec rm -rf {} +
  (cd "$workdir" && find . -type f -not -path '*/checkpoints/*' -not -name '.*' \
    -exec cp --remove-destination --preserve=timestamps --parents {} "$snapshot" ';')
  gcloud storage rsync --recursive --exclude='.*checkpoints/.*|.*result\.json$' \
    "$snapshot" "$address" &&
    gcloud storage rsync --recursive --exclude='.*result\.json$' "$snapshot" "$address" &&
    gcloud storage rsync --recursive --delete-unmatched-destination-objects \
      "$snapshot" "$address"
}

push_alone() { (flock 8 && push) 8> "$HOME/.push" 9>&- > "$HOME/push.log" 2>&1; }

mkdir -p "$workdir"
if [ "$number" = 0 ] && is_there "$address/**"; then
  until gcloud storage rsync --recursive "$address" "$workdir"; do sleep "$pause"; done
fi
mkdir -p "$workdir/launch"
rm -f "$HOME/exit_code"
exec >> "$workdir/launch/worker-$number.log" 2>&1
for source in "${data[@]}"; do
  mkdir -p "data/${source##*/}"
  until gcloud storage rsync --recursive "$source" "data/${source##*/}"; do sleep "$pause"; done
done

terminated=
child=
trap 'terminated=yes; [ -z "$child" ] || kill -TERM "$child"' TERM
pusher=
if [ "$number" = 0 ]; then
  (trap - TERM; while sleep "$every"; do push_alone; done) &
  pusher=$!
fi

code=75
while [ "$code" = 75 ] && [ -z "$terminated" ]; do
  .venv/bin/tljax "$@" --workdir "$workdir" &
  child=$!
  wait "$child"
  code=$?
  while kill -0 "$child" 2> /dev/null; do  # a signal ended the waiting, not the run
    wait "$child"
    code=$?
  done
  child=
  echo "tljax ended with exit code $code"
  [ "$code" != 75 ] || [ -n "$terminated" ] || sleep "$pause"
done

if [ "$number" = 0 ]; then
  kill "$pusher" 2> /dev/null
  until push_alone; do
    cat "$HOME/push.log"
    [ -z "$terminated" ] || break
    sleep "$pause"
  done
  if [ "$code" != 75 ]; then # after it the VM may be deleted
    echo "$code" > "$HOME/exit_code"
    until gcloud storage cp "$HOME/exit_code" "$address/launch/exit_code"; do sleep "$pause"; done
  fi
fi
exit "$code"
