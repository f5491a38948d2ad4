import numpy as np
import pytest
from support.cifar_archive import tiny
from torchvision.datasets import CIFAR100

from dist_rmd.data.datasets.cifar10 import read
from dist_rmd.data.datasets.cifar100 import cifar100
from dist_rmd.errors import DataError

FINE = [f"fine {i}" for i in range(100)]


def test_fine_labels_and_fine_names(tmp_path):
    kind, contents = tiny(CIFAR100, tmp_path, "fine_labels", FINE, ["train"])
    source = read("cifar100", kind, tmp_path, None)
    assert source.classes == tuple(FINE)
    np.testing.assert_array_equal(source.splits["train"].labels, contents["train"]["fine_labels"])
    np.testing.assert_array_equal(source.splits["test"].labels, contents["test"]["fine_labels"])


def test_it_reads_cifar_100(tmp_path):
    with pytest.raises(DataError, match=r"neither cifar-100-python.tar.gz nor cifar-100-python is here"):
        cifar100(tmp_path, None)
