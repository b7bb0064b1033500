#!/usr/bin/env bash
# Prepares a built-in data set of TFDS with its own builder, and trains from it without TensorFlow.
# usage: experiments/tfds_builtin/run.sh FOLDER     (a new one; about 2 GB, most of it TensorFlow)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:?give a new folder}
mkdir -p "$out"
out=$(cd "$out" && pwd)
make --quiet install
tljax=.venv/bin/tljax

say() { printf '\n$ %s\n' "$*"; "$@"; }

# An environment of its own has TensorFlow; the ordinary one has not.
python3.11 -m venv "$out/prepare"
"$out/prepare/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt '.[prepare]'
if .venv/bin/python -c 'import tensorflow' 2> /dev/null; then
  echo "there is TensorFlow in .venv, which this is to show to be needless" >&2
  exit 1
fi

# The data set's files lie where its builder looks for what is downloaded by hand.
for format in array_record tfrecord; do
  .venv/bin/python experiments/tfds_builtin/photographs.py \
    "$out/$format/downloads/manual/NWPU-RESISC45"
done
say "$out/prepare/bin/tljax" prepare tfds:resisc45 --data_dir "$out/array_record"
say "$out/prepare/bin/python" -c "
import tensorflow_datasets as tfds
tfds.builder('resisc45', data_dir='$out/tfrecord').download_and_prepare()  # TFDS's default format
"
for format in array_record tfrecord; do
  say "$tljax" train --config configs/from_scratch.py --workdir "$out/run_$format" \
    '--config.data=tfds:resisc45?val=train[:15%],test=train[15%:30%],train=train[30%:]' \
    --config.data_dir="$out/$format" --config.steps=60 --config.batch_size=32
done
say "$tljax" evaluate --workdir "$out/run_array_record" --data_dir "$out/tfrecord"
say cmp "$out/run_array_record/metrics.jsonl" "$out/run_tfrecord/metrics.jsonl"
