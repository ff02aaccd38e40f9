#!/usr/bin/env bash
# torch 2.13.0 and NumPy 2.4.6: a row of float32 numbers has another sum when zeros stand behind it.
#
# Guess: to add zero changes nothing, so a query that is padded to the length of a longer one keeps its MaxSim scores.
# Seen: which numbers are added up first depends on the length of the row, so of 10,000 rows of 98 numbers some hundred
# by torch, and thousands by NumPy, have another last bit when they are padded to 128. With it nearly equal passages
# change places, by what else is in the batch. cumsum does not depend on it, nor do sums of blocks of one fixed length.
. "$(dirname "$0")/lib/environment.sh"
run_with 'torch==2.13.0' 'numpy==2.4.6' <<'PY'
import numpy as np
import torch

rows = torch.from_numpy(np.random.default_rng(0).random((10_000, 98), dtype=np.float32))
padded = torch.nn.functional.pad(rows, (0, 30))
changed = {
    "torch": int((padded.sum(1) != rows.sum(1)).sum()),
    "numpy": int((padded.numpy().sum(1) != rows.numpy().sum(1)).sum()),
    "torch cumsum": int((padded.cumsum(1)[:, -1] != rows.cumsum(1)[:, -1]).sum()),
}
print("rows whose sum has changed:", changed)
assert changed["torch"] > 100 and changed["numpy"] > 100 and changed["torch cumsum"] == 0
blocks = [torch.nn.functional.pad(rows, (0, width - 98)).reshape(10_000, -1, 32).sum(2)[:, :4] for width in (128, 160)]
assert torch.equal(*blocks)
PY
