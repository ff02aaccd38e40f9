#!/usr/bin/env bash
# torchmetrics 1.9.0: a relevant passage whose score is negative counts as not relevant, in some of the measures.
#
# Guess: a measure of a ranking takes the order of the scores, so that the same number less from every score changes
# nothing; that is what RetrievalNormalizedDCG, HitRate and RPrecision do.
# Seen: RetrievalMRR, MAP, Precision and Recall drop every positive whose score is 0 or less, wherever it ranks (1.6.0
# did not yet). A reranker's logits and unlike texts' cosines are negative: a perfect ranking can have MRR 0 and nDCG 1.
# Beside that, MAP with top_k divides by the positives found, not by those there are, so a cut-off raises it.
. "$(dirname "$0")/lib/environment.sh"
run_with 'torchmetrics==1.9.0' 'torch==2.13.0' 'numpy==2.4.6' <<'PY'
import torch
from torchmetrics import retrieval

scores = torch.tensor([0.9, 0.8, 0.2, 0.1])  # one query, four passages in the order of their scores
relevant = torch.tensor([1, 0, 1, 0])
query = torch.zeros(4, dtype=torch.long)
names = ["MRR", "MAP", "Precision", "Recall", "NormalizedDCG", "HitRate", "RPrecision"]
found = {}
for less in (0, 0.5, 1):
    for name in names:
        measure = getattr(retrieval, f"Retrieval{name}")
        measure = measure() if name == "RPrecision" else measure(top_k=3)
        found[less, name] = round(float(measure(scores - less, relevant, indexes=query)), 3)
    print(f"every score less {less}:", {name: found[less, name] for name in names})
for less in (0.5, 1):
    assert all(found[less, name] == found[0, name] for name in names[4:])
assert [found[0, name] for name in names[:4]] == [1.0, 0.833, 0.667, 1.0]
assert [found[0.5, name] for name in names[:4]] == [1.0, 1.0, 0.333, 0.5]  # the positive in the third place is dropped
assert [found[1, name] for name in names[:4]] == [0.0] * 4

logits = torch.tensor([-1.0, -4.0, -5.0, -6.0])
perfect = torch.tensor([1, 0, 0, 0])
rank = float(retrieval.RetrievalMRR()(logits, perfect, indexes=query))
gain = float(retrieval.RetrievalNormalizedDCG()(logits, perfect, indexes=query))
print("the only positive comes first, all scores are negative: MRR", rank, "nDCG", gain)
assert (rank, gain) == (0.0, 1.0)

whole, cut = (float(retrieval.RetrievalMAP(top_k=k)(scores, relevant, indexes=query)) for k in (None, 1))
print("MAP:", round(whole, 3), "cut off behind the first:", cut)
assert whole < cut == 1.0  # trec_eval's map_cut_1 is 0.5
PY
