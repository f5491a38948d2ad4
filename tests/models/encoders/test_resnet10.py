from support.encoders import assert_resnet

from dist_rmd.models.encoders.resnet10 import resnet10


def test_it_is_the_published_network_with_either_stem():
    assert_resnet(resnet10, millions=4.90, features=512)
