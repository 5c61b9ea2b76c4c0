#!/usr/bin/env bash
# Commands: from data to a report on built-in phantoms, as small as it can be.
#
#     bash examples/03_commands.sh [FOLDER]
#
# FOLDER is out/example by default. The model is trained for seconds only, so its scores are
# near chance: `make demo` trains long enough. Research use only, not a medical device.
set -euo pipefail
PATH="$PWD/.venv/bin:$PATH"
DATA="phantoms:chest?n=120&size=32&difficulty=0.2"
OUT="${1:-out/example}"

diffdx train "$DATA" --out "$OUT/run" --image-size 32 --steps 40 --batch-size 16 --overwrite \
  --set train.validation_images=12 --set train.validation_trials=3
diffdx classify "$OUT/run" "$DATA" --split test --trials 5 --out "$OUT/predictions" --overwrite
diffdx evaluate "$OUT/predictions"
diffdx report "$OUT/predictions"
diffdx sample "$OUT/run" --class OPACITY --n 4 --steps 10 --out "$OUT/samples" --overwrite
