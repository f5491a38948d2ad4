import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchrun import on_ranks

from dist_rmd.data.batch import Batch
from dist_rmd.evaluation.knn import knn, vote
from dist_rmd.evaluation.splits import Splits


class Share:
    """One rank's rows of a table of features and labels."""

    def __init__(self, features, labels, rank=0, world=1):
        self.rows = torch.arange(rank, len(labels), world).split(5)
        self.features, self.labels = features, labels

    def epoch(self, epoch):
        for rows in self.rows:
            yield Batch((self.features[rows],), self.labels[rows], rows, (len(rows),))


def table(images, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images,), generator=generator)
    return torch.eye(3, 6)[labels] + 0.7 * torch.randn(images, 6, generator=generator), labels


def score(rank=0, world=1):
    net = nn.ModuleDict({"encoder": nn.Identity()})
    splits = Splits(
        train=lambda: Share(*table(61, 0), rank, world), test=lambda: Share(*table(37, 1), rank, world), classes=3
    )
    return knn(net, splits)["test/knn_top1"]


def test_vote_equals_the_naive_float64_formula():
    (bank, labels), (queries, _) = table(61, 0), table(37, 1)
    bank, queries = F.normalize(bank), F.normalize(queries)
    predicted = vote(queries, bank, labels, classes=3, neighbours=7)
    for query, found in zip(queries.double().numpy(), predicted, strict=True):
        cosine = bank.double().numpy() @ query
        nearest = np.argsort(-cosine)[:7]
        votes = [sum(np.exp(cosine[i] / 0.1) for i in nearest if labels[i] == c) for c in range(3)]
        assert np.argmax(votes) == found


def test_separable_classes_are_found():
    assert score() > 60


def test_the_same_on_three_ranks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch.distributed as dist\n"
        f"sys.path.insert(0, {str(__file__.rpartition('/')[0])!r})\n"
        "from test_knn import score\n"
        "dist.init_process_group('gloo')\n"
        "value = score(dist.get_rank(), dist.get_world_size())\n"
        "open(f'{sys.argv[1]}/{dist.get_rank()}', 'w').write(str(value))\n"
        "dist.destroy_process_group()\n"
    )
    on_ranks(3, script, tmp_path)
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [str(score())] * 3
