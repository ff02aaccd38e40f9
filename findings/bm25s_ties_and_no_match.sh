#!/usr/bin/env bash
# bm25s 0.3.16: passages of equal score come in no stable order, and a query that matches nothing gets passages.
#
# Guess: ties come in the order of the index (or its reverse), and a query none of whose words is known finds nothing.
# Seen: of 500 equal passages the first twenty are 0, 1, 499, 498, ...; which of them are "retrieved" is an accident of
# the selection. A query of unknown words, or of no words, gets k passages of score 0. Recall@K then depends on where the
# positive stands in the corpus. Scores for all passages (get_scores), ranked by score and id, are free of both.
. "$(dirname "$0")/lib/environment.sh"
run_with 'bm25s==0.3.16' 'numpy==2.4.6' <<'PY'
import bm25s

index = bm25s.BM25()
index.index([["harbour"]] * 500 + [["harbour", "lights"]], show_progress=False)
rows, scores = index.retrieve([["harbour"]], k=20, show_progress=False)
print("twenty of 500 equal passages:", rows[0].tolist())
assert len(set(scores[0].tolist())) == 1
assert rows[0].tolist() not in (sorted(rows[0].tolist()), sorted(rows[0].tolist(), reverse=True))
rows, scores = index.retrieve([["unknown"]], k=3, show_progress=False)
print("for a word that no passage has:", rows[0].tolist(), scores[0].tolist())
assert rows.shape == (1, 3)
assert scores[0].tolist() == [0.0, 0.0, 0.0]
PY
