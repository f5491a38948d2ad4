import numpy as np
import torch.nn.functional as F
from support.forked import on_ranks
from support.ranks.knn import score, table

from dist_rmd.evaluation._nearest import Bank
from dist_rmd.evaluation.knn import vote


def test_vote_equals_the_naive_float64_formula():
    (bank, labels), (queries, _) = table(61, 0), table(37, 1)
    bank, queries = F.normalize(bank), F.normalize(queries)
    predicted = vote(queries, Bank(bank), labels, classes=3, neighbours=7)
    for query, found in zip(queries.double().numpy(), predicted, strict=True):
        cosine = bank.double().numpy() @ query
        nearest = np.argsort(-cosine)[:7]
        votes = [sum(np.exp(cosine[i] / 0.1) for i in nearest if labels[i] == c) for c in range(3)]
        assert np.argmax(votes) == found


def test_separable_classes_are_found():
    assert score() > 60


def test_the_same_on_three_ranks(tmp_path):
    on_ranks(3, "knn", tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [str(score())] * 3
