from support.encoders import assert_resnet

from dist_rmd.models.encoders.resnet50 import resnet50


def test_it_is_the_published_network_with_either_stem():
    assert_resnet(resnet50, millions=23.50, features=2048)
