from support.encoders import assert_resnet

from dist_rmd.models.encoders.resnet152 import resnet152


def test_it_is_the_published_network_with_either_stem():
    assert_resnet(resnet152, millions=58.14, features=2048)
