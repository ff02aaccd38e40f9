#!/usr/bin/env bash
# mteb 2.26.24: the late-interaction score of a query and a passage depends on the other passages of the call.
#
# Guess: passages of different numbers of tokens are filled up and the filling is masked, so that a pair's score is its
# own: the sum over the query's tokens of the largest product with a token of the passage.
# Seen: they are filled up with zeros that take part. A zero's product is 0, so a passage that is like the query in
# nothing, all its products negative, gets -0.9 alone and 0.0 beside a longer one, and is ranked above that one.
. "$(dirname "$0")/lib/environment.sh"
run_with 'mteb==2.26.24' 'torch==2.13.0' 'numpy==2.4.6' <<'PY'
import torch
from mteb.similarity_functions import max_sim

query = [torch.tensor([[1.0, 0.0]])]
short = torch.tensor([[-0.9, 0.1]])
long = torch.tensor([[-0.5, 0.5], [-0.6, 0.1]])
alone = [round(float(max_sim(query, [passage])[0, 0]), 3) for passage in (short, long)]
together = [round(float(score), 3) for score in max_sim(query, [short, long])[0]]
print("each alone:", alone)
print("together:", together)
assert alone == [-0.9, -0.5]
assert together == [0.0, -0.5]
PY
