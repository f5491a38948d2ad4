import functools
import http.server
import shutil
import threading

import numpy as np
import pytest
from support.cifar_archive import tiny
from torchvision.datasets import CIFAR10

from dist_rmd.data.datasets.cifar10 import cifar10, read
from dist_rmd.errors import DataError

CLASSES = [f"class {i}" for i in range(10)]


@pytest.fixture
def published(tmp_path):
    kind, contents = tiny(CIFAR10, tmp_path / "dir", "labels", CLASSES, ["data_batch_1", "data_batch_2"])
    return kind, contents, tmp_path / "dir"


def test_batches_become_images_labels_and_names(published):
    kind, contents, folder = published
    source = read("cifar10", kind, folder, None)
    assert (source.name, source.side, source.classes) == ("cifar10", 32, tuple(CLASSES))
    train, test = source.splits["train"], source.splits["test"]
    assert (len(train.files), len(test.files)) == (12, 6)
    assert train.files[7] == "train/00007"
    second = contents["data_batch_2"]
    np.testing.assert_array_equal(train.labels[6:], second["labels"])
    np.testing.assert_array_equal(train.read(7), second["data"][1].reshape(3, 32, 32).transpose(1, 2, 0))
    np.testing.assert_array_equal(test.labels, contents["test_batch"]["labels"])
    assert read("cifar10", kind, folder, 16).splits["test"].read(5).shape == (16, 16, 3)


def test_the_archive_the_batches_or_the_folder_of_batches(published):
    kind, _, folder = published
    inside = read("cifar10", kind, folder / kind.base_folder, None)
    shutil.rmtree(folder / kind.base_folder)
    unpacked = read("cifar10", kind, folder, None)
    np.testing.assert_array_equal(inside.splits["train"].read(3), unpacked.splits["train"].read(3))
    assert [path.name for path in folder.iterdir()] == [kind.filename]


def test_a_download_goes_to_the_cache_once(published, tmp_path, monkeypatch):
    kind, _, folder = published
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    nobody, handler = kind.url, functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kind.url = f"http://127.0.0.1:{server.server_port}/{kind.filename}"
        assert len(read("cifar10", kind, None, None).splits["train"].files) == 12
        server.shutdown()
    assert (tmp_path / "cache" / "dist_rmd" / kind.filename).is_file()
    kind.url = nobody
    assert len(read("cifar10", kind, None, None).splits["train"].files) == 12


def test_without_a_network_it_says_what_to_fetch(published, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"127.0.0.1:9/cifar-10-python.tar.gz cannot be downloaded.*--from its folder"):
        read("cifar10", published[0], None, None)


def test_files_that_are_not_there_or_not_the_published_ones(published, tmp_path):
    kind, _, folder = published
    with pytest.raises(DataError, match="gone: no such folder"):
        cifar10(tmp_path / "gone", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"neither cifar-10-python.tar.gz nor cifar-10-batches-py is here; get it from"):
        cifar10(tmp_path / "empty", None)
    with pytest.raises(DataError, match="cifar-10-batches-py: not as published"):
        cifar10(folder, None)  # the real class knows the real checksums
    shutil.rmtree(folder / kind.base_folder)
    with pytest.raises(DataError, match=r"cifar-10-python.tar.gz: not the published archive, or damaged"):
        cifar10(folder, None)
