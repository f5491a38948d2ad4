from support.encoders import assert_resnet

from dist_rmd.models.encoders.resnet34 import resnet34


def test_it_is_the_published_network_with_either_stem():
    assert_resnet(resnet34, millions=21.28, features=512)
