from support.encoders import assert_resnet

from dist_rmd.models.encoders.resnet101 import resnet101


def test_it_is_the_published_network_with_either_stem():
    assert_resnet(resnet101, millions=42.49, features=2048)
