from support.encoders import assert_resnet

from dist_rmd.models.encoders.resnet18 import resnet18


def test_it_is_the_published_network_with_either_stem():
    assert_resnet(resnet18, millions=11.17, features=512)
