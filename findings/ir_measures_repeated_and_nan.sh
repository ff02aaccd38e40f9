#!/usr/bin/env bash
# ir_measures 0.4.3: a passage listed twice counts with its last score, and where one with score NaN ranks is an accident.
#
# Guess: a repeated passage is refused, or its best score counts; NaN is refused, or ranks last.
# Seen: neither is said. A second, worse line for the right passage takes Success@1 from 1 to 0. A passage with NaN, as a
# model in half precision gives, ranks first or last by what the passages are called.
. "$(dirname "$0")/lib/environment.sh"
run_with 'ir-measures==0.4.3' <<'PY'
import ir_measures
from ir_measures import RR, Qrel, ScoredDoc, Success


def scores(*run, right="b"):
    lines = [ScoredDoc("query", *line) for line in run]
    measured = ir_measures.calc_aggregate([Success @ 1, RR], [Qrel("query", right, 1)], lines)
    return {str(name): value for name, value in measured.items()}


once = scores(("b", 1.0), ("a", 0.7))
twice = scores(("b", 1.0), ("a", 0.7), ("b", 0.5))
print("once:", once, "\ntwice:", twice)
assert once == {"Success@1": 1.0, "RR": 1.0}
assert twice == {"Success@1": 0.0, "RR": 0.5}
nan = float("nan")
named = {pair: scores((pair[0], nan), (pair[1], 0.7), right=pair[0])["Success@1"] for pair in ("ba", "ab")}
print("Success@1 where the right passage has NaN, by the names of right and wrong:", named)
assert named == {"ba": 1.0, "ab": 0.0}
PY
