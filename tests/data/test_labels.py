import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rmd.data.labels import LabelView, given_view, noisy_view
from dist_rmd.errors import DataError, WriteFailed

TRUE = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 0])


def test_noise_rate_counts_the_wrong_labels():
    view = LabelView(np.array([4, 7]), np.array([0, 2]), np.array([0, 0]), 3)
    assert view.noise_rate == 0.5
    assert LabelView(view.indices, view.given, None, 3).noise_rate is None
    clean = LabelView.of(TRUE, 3)
    assert clean.noise_rate == 0
    np.testing.assert_array_equal(clean.indices, range(10))


@pytest.mark.parametrize(
    ("indices", "given_labels", "true", "message"),
    [
        ([0, 1], [0], None, "1 given labels for 2 indices"),
        ([0, 1], [0, 1], [0], "1 true labels for 2 indices"),
        ([0, 1], [0, 3], None, "given labels are 0..3, which is outside 0..2"),
        ([0, 1], [0, 1], [-1, 1], "true labels are -1..1"),
        ([1, 1], [0, 1], None, "twice"),
        ([-1, 1], [0, 1], None, "negative"),
        ([0, 1], [0.0, 1.0], None, "integers"),
        ([[0, 1]], [[0, 1]], None, "integers"),
    ],
)
def test_arrays_that_contradict_each_other(indices, given_labels, true, message):
    with pytest.raises(ValueError, match=message):
        LabelView(np.array(indices), np.array(given_labels), None if true is None else np.array(true), 3)


def test_the_digest_depends_on_every_array():
    one, two = np.array([3, 1]), np.array([0, 1])
    views = [
        LabelView(one, two, two, 3),
        LabelView(one[::-1], two, two, 3),
        LabelView(one, two[::-1], two, 3),
        LabelView(one, two, two[::-1], 3),
        LabelView(one, two, None, 3),
        LabelView(one, two, two, 4),
    ]
    assert len({view.digest for view in views}) == len(views)
    assert views[0].digest == LabelView(one.astype(np.int32), two.tolist(), two, 3).digest


@pytest.mark.parametrize("known", [True, False])
def test_save_and_load(tmp_path, known):
    view = LabelView(np.array([9, 2]), np.array([0, 2]), np.array([1, 2]) if known else None, 3)
    view.save(tmp_path / "labels.npz")
    loaded = LabelView.load(tmp_path / "labels.npz")
    assert loaded.digest == view.digest
    assert (loaded.true is None) is not known
    assert [path.name for path in tmp_path.iterdir()] == ["labels.npz"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "labels.npz"
    LabelView.of(TRUE, 3).save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(WriteFailed, match="No space left"):
        LabelView.of(TRUE[:3], 3).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=100), per_class=st.integers(1, 30))
def test_noisy_view_takes_the_first_images_of_every_class(labels, per_class):
    true = np.array(labels)
    view = noisy_view(true, 5, "symmetric", 0.4, seed=1, per_class=per_class)
    expected = sorted(i for label in range(5) for i in np.flatnonzero(true == label)[:per_class])
    np.testing.assert_array_equal(view.indices, expected)
    np.testing.assert_array_equal(view.true, true[expected])
    for label in range(5):
        chosen = view.given[view.true == label]
        assert (chosen != label).sum() == round(0.4 * len(chosen))


def test_noisy_view_of_all_images():
    view = noisy_view(np.arange(100) % 4, 4, "symmetric", 0.4, seed=1)
    np.testing.assert_array_equal(view.indices, range(100))
    assert view.noise_rate == pytest.approx(0.4)
    with pytest.raises(ValueError, match="per_class is 0"):
        noisy_view(TRUE, 3, "none", 0, seed=0, per_class=0)


def test_given_view_of_an_npy(tmp_path):
    labels = np.array([2, 1, 1, 1, 0, 2, 0, 0, 1, 0], np.uint8)
    np.save(tmp_path / "mine.npy", labels)
    view = given_view(TRUE, 3, tmp_path / "mine.npy")
    np.testing.assert_array_equal(view.given, labels)
    np.testing.assert_array_equal(view.true, TRUE)
    assert view.noise_rate == 0.2
    few = given_view(TRUE, 3, tmp_path / "mine.npy", per_class=1)
    np.testing.assert_array_equal(few.indices, [0, 1, 2])
    np.testing.assert_array_equal(few.given, [2, 1, 1])


@pytest.mark.parametrize("known", [True, False])
def test_given_view_of_an_overlay(tmp_path, known):
    indices = np.array([8, 2, 0, 5])
    overlay = LabelView(indices, np.array([1, 0, 2, 2]), TRUE[indices] if known else None, 3)
    overlay.save(tmp_path / "run.npz")
    view = given_view(TRUE, 3, tmp_path / "run.npz")
    np.testing.assert_array_equal(view.indices, indices)
    np.testing.assert_array_equal(view.given, overlay.given)
    np.testing.assert_array_equal(view.true, TRUE[indices])
    few = given_view(TRUE, 3, tmp_path / "run.npz", per_class=1)
    np.testing.assert_array_equal(few.indices, [8, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(9, np.int64), "9 labels, but the dataset has 10 images"),
        (np.full(10, 3), "given labels are 3..3, which is outside 0..2"),
        (np.zeros(10), "given must be a list of integers, not float64"),
        (np.zeros((10, 1), np.int64), r"of shape \(10, 1\)"),
        (np.array([{}] * 10, object), "not a readable .npy or .npz of numbers"),
    ],
)
def test_an_npy_that_does_not_fit(tmp_path, content, message):
    path = tmp_path / "mine.npy"
    np.save(path, content)
    with pytest.raises(DataError, match=message) as raised:
        given_view(TRUE, 3, path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (LabelView.of(TRUE, 4), "made for 4 classes, but the dataset has 3"),
        (LabelView.of([*TRUE, 0], 3), "names image 10, but the dataset has 10 images"),
        (LabelView.of(TRUE[::-1], 3), "made for another one"),
    ],
)
def test_an_overlay_of_another_dataset(tmp_path, overlay, message):
    overlay.save(tmp_path / "run.npz")
    with pytest.raises(DataError, match=f"run.npz: .*{message}"):
        given_view(TRUE, 3, tmp_path / "run.npz")


def test_files_that_are_no_labels(tmp_path):
    with pytest.raises(DataError, match=r"none.npy: no such file"):
        given_view(TRUE, 3, tmp_path / "none.npy")
    (tmp_path / "text.npy").write_text("0 1 2")
    (tmp_path / "empty.npz").write_bytes(b"")
    LabelView.of(TRUE, 3).save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    np.savez(tmp_path / "contradictory.npz", indices=[0, 0], given=[0, 1], num_classes=3)
    np.save(tmp_path / "plain.npy", TRUE)
    for name in ("text.npy", "empty.npz", "cut.npz", "other.npz", "contradictory.npz"):
        with pytest.raises(DataError, match=name):
            given_view(TRUE, 3, tmp_path / name)
    for name in ("cut.npz", "other.npz", "plain.npy"):
        with pytest.raises(DataError, match=name):
            LabelView.load(tmp_path / name)
