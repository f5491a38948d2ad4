import torch

from dist_rmd.models.encoder import BLOCKS, encoder


def test_every_name_builds_its_blocks():
    for name, blocks in BLOCKS.items():
        assert len(encoder(name, width=2).blocks) == sum(blocks)


def test_weights_come_from_the_global_generator():
    torch.manual_seed(3)
    first = encoder("resnet18", width=2)
    torch.manual_seed(3)
    second = encoder("resnet18", width=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
