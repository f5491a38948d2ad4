import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rmd.data.labels.noise import OPEN, corrupt, openset
from dist_rmd.data.labels.view import TYPES, LabelView, noisy_view, openset_view
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
        ([0, 1], [0, 1], [-2, 1], "true labels are -2..1, which is outside -1..2"),
        ([0, 1], [-1, 1], [0, 1], "given labels are -1..1, which is outside 0..2"),
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


def test_the_digest_of_labels_is_what_it_always_was():
    """Artefacts are found again by it."""
    assert noisy_view(np.arange(1000) % 10, 10, "symmetric", 0.4, seed=3).digest == (
        "a4be98a34a3443785e22a7821084f422fc07a293eb43e0a45fee0bbcb674c8db"
    )
    assert noisy_view(np.arange(1000) % 7, 7, "symmetric", 0.2, seed=0, per_class=50).digest == (
        "00ea57106dac3690dd593177c71c5241c637ce72768b5549827f857a2b6c3828"
    )


def test_the_digest_does_not_depend_on_how_the_labels_came_about():
    view = noisy_view(TRUE, 3, "pairflip", 0.5, seed=1)
    assert LabelView(view.indices, view.given, view.true, 3).digest == view.digest


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


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("symmetric", {"include_true": True}),
        ("asymmetric", {"class_map": {2: 0, 0: 2}}),
        ("pairflip", {"exact": False}),
    ],
)
def test_noisy_view_hands_everything_on(kind, options):
    true = np.arange(300) % 3
    view = noisy_view(true, 3, kind, 0.4, 5, **options)
    np.testing.assert_array_equal(view.given, corrupt(true, kind, 0.4, 3, 5, **options))
    assert (view.given != corrupt(true, "symmetric", 0.4, 3, 5)).any()


def test_what_is_recorded_beside_the_labels(tmp_path):
    """Readable by numpy alone, without pickle, and the same after a round trip."""
    view = noisy_view(TRUE, 3, "asymmetric", 0.5, seed=7, class_map={2: 0}, exact=False)
    view.save(tmp_path / "labels.npz")
    with np.load(tmp_path / "labels.npz", allow_pickle=False) as content:
        assert json.loads(str(content["origin"])) == {
            "kind": "asymmetric",
            "rate": 0.5,
            "seed": 7,
            "exact": False,
            "include_true": False,
            "class_map": {"2": 0},
        }
        assert str(content["digest"]) == view.digest
        counts = content["transitions"]
    assert counts.sum() == len(TRUE)
    for (true, given_label), count in np.ndenumerate(counts):
        assert count == ((view.true == true) & (view.given == given_label)).sum()
    assert LabelView.load(tmp_path / "labels.npz").origin == view.origin


def test_labels_without_a_truth_have_no_transitions(tmp_path):
    view = LabelView(np.arange(2), np.array([0, 1]), None, 2)
    assert view.transitions is None
    view.save(tmp_path / "labels.npz")
    assert "transitions" not in np.load(tmp_path / "labels.npz", allow_pickle=False)


def test_altered_labels_are_refused(tmp_path):
    path = tmp_path / "labels.npz"
    LabelView.of(TRUE, 3).save(path)
    content = dict(np.load(path, allow_pickle=False))
    content["given"][4] = 1
    np.savez(path, **content)
    with pytest.raises(DataError, match=r"labels.npz: altered since it was written"):
        LabelView.load(path)


def test_labels_that_record_nothing_can_be_read(tmp_path):
    np.savez(tmp_path / "labels.npz", indices=[3, 1], given=[0, 1], num_classes=2)
    view = LabelView.load(tmp_path / "labels.npz")
    assert view.origin == {}
    assert view.given.tolist() == [0, 1]


def test_the_first_images_of_every_class():
    view = LabelView(np.array([8, 2, 0, 5]), np.array([1, 0, 2, 2]), np.array([1, 1, 2, 2]), 3, {"kind": "file"})
    few = view.first(1)
    assert (few.indices.tolist(), few.given.tolist(), few.true.tolist()) == ([8, 0], [1, 2], [1, 2])
    assert few.origin == {"kind": "file"}
    assert view.first(None) is view
    with pytest.raises(ValueError, match="per_class is 0"):
        view.first(0)
    unverified = LabelView(view.indices, view.given, None, 3).first(1)  # given labels are all there is
    assert (unverified.indices.tolist(), unverified.given.tolist()) == ([8, 2, 0], [1, 0, 2])


def test_some_images_of_every_class_are_left_to_others():
    """Of class 0 positions 0, 2, 4, 6 are there, of class 1 positions 1, 3, 5; 7 and 8 are of none."""
    true = np.array([0, 1, 0, 1, 0, 1, 0, OPEN, OPEN])
    view = LabelView(np.arange(9), np.where(true == OPEN, 0, true), true, 2)
    assert view.first(None, skip=1).indices.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert view.first(1, skip=2).indices.tolist() == [4, 5, 7, 8]
    assert view.first(5, skip=3).indices.tolist() == [6, 7, 8]
    assert not set(view.first(2).indices[:4]) & set(view.first(2, skip=2).indices[:-2])
    skipped = openset_view(np.array([0, 1] * 10 + [OPEN] * 8), 2, 0.5, 0.5, seed=0, per_class=4, skip=3)
    assert sorted(skipped.counts.values()) == [2, 2, 4]
    assert not set(range(6)) & set(skipped.indices.tolist())
    assert noisy_view([0, 1] * 5, 2, "symmetric", 0.5, 0, skip=4).indices.tolist() == [8, 9]


@pytest.mark.parametrize("known", [True, False])
def test_a_part_held_out_has_its_share_of_every_given_label(known):
    labels = np.repeat([0, 1, 2], [40, 25, 3])
    true = np.roll(labels, 5) if known else None
    view = LabelView(np.arange(68) * 2, labels, true, 3, {"kind": "file"})
    rest, held_out = view.split(0.2, seed=3)
    assert np.bincount(held_out.given, minlength=3).tolist() == [8, 5, 1]
    for part in (rest, held_out):
        rows = part.indices // 2
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(part.given, labels[rows])
        if known:
            np.testing.assert_array_equal(part.true, true[rows])
        assert part.origin == view.origin
    assert sorted([*rest.indices, *held_out.indices]) == view.indices.tolist()
    again, other = view.split(0.2, seed=3)[1], view.split(0.2, seed=4)[1]
    np.testing.assert_array_equal(again.indices, held_out.indices)
    assert not np.array_equal(other.indices, held_out.indices)
    assert len(view.split(0, seed=3)[1]) == 0


# Images of none of the classes, and labels that nobody has verified

POOLED = np.concatenate([TRUE, [OPEN] * 8])


def test_the_types_of_labels():
    view = LabelView(np.arange(5), np.array([0, 1, 2, 1, 0]), np.array([0, 2, OPEN, 1, OPEN]), 3)
    assert [TYPES[kind] for kind in view.types] == ["clean", "closed", "open", "clean", "open"]
    assert view.counts == {"clean": 2, "closed": 1, "open": 2}
    assert view.noise_rate == 0.6
    assert view.transitions.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 1]]
    clean = view.clean()
    assert (clean.indices.tolist(), clean.given.tolist(), clean.true.tolist()) == ([0, 1, 3], [0, 2, 1], [0, 2, 1])
    assert view.best_known().digest == clean.digest
    few = view.first(1)
    assert few.indices.tolist() == [0, 1, 2, 3, 4]  # the images of no class are not counted
    assert LabelView.of(TRUE, 3).counts == {"clean": 10, "closed": 0, "open": 0}


def test_of_unknown_truth_nothing_is_said():
    view = LabelView.of(POOLED, 3, verified=False)
    assert (view.true, view.types, view.counts, view.noise_rate, view.transitions) == (None,) * 5
    np.testing.assert_array_equal(view.given, TRUE)
    assert view.best_known() is view
    with pytest.raises(ValueError, match="the correct labels are unknown"):
        view.clean()


def test_other_noise_does_not_touch_the_images_of_no_class():
    for kind in ("none", "symmetric", "pairflip"):
        with_pool, without = (noisy_view(labels, 3, kind, 0.4, seed=3, per_class=2) for labels in (POOLED, TRUE))
        assert with_pool.digest == without.digest


@pytest.mark.parametrize("options", [{}, {"include_true": True}, {"keep_label": True}])
def test_openset_view_hands_everything_on(options):
    view = openset_view(POOLED, 3, 0.8, 0.5, seed=5, **options)
    given_labels, taken = openset(TRUE, 8, 0.8, 0.5, 3, 5, **options)
    np.testing.assert_array_equal(view.given, given_labels)
    opened = taken >= 0
    assert opened.sum() == 4
    np.testing.assert_array_equal(view.indices, np.where(opened, 10 + taken, np.arange(10)))
    np.testing.assert_array_equal(view.true, np.where(opened, OPEN, TRUE))
    assert view.origin == {
        "kind": "openset", "rho1": 0.8, "rho2": 0.5, "seed": 5, "include_true": False, "keep_label": False, **options
    }  # fmt: skip


def test_openset_view_takes_the_first_images_of_every_class():
    view = openset_view(np.concatenate([np.arange(60) % 3, [OPEN] * 9]), 3, 0.5, 0.5, seed=1, per_class=10)
    assert view.counts == {"clean": 15, "closed": 7, "open": 8}
    assert set(view.indices[view.true != OPEN]) < set(range(30))
    assert set(view.indices[view.true == OPEN]) < set(range(60, 69))
    with pytest.raises(ValueError, match="15 images of none of the classes are needed, but there are 9"):
        openset_view(np.concatenate([np.arange(60) % 3, [OPEN] * 9]), 3, 0.5, 1.0, seed=1, per_class=10)


def test_open_labels_are_saved_with_their_counts(tmp_path):
    view = openset_view(POOLED, 3, 0.8, 0.5, seed=5)
    view.save(tmp_path / "labels.npz")
    with np.load(tmp_path / "labels.npz", allow_pickle=False) as content:
        assert content["counts"].tolist() == [2, 4, 4]
        assert content["transitions"].shape == (4, 3)
        assert content["transitions"][3].sum() == 4
        assert json.loads(str(content["origin"]))["rho2"] == 0.5
    loaded = LabelView.load(tmp_path / "labels.npz")
    assert (loaded.digest, loaded.origin, loaded.counts) == (view.digest, view.origin, view.counts)


def test_a_part_held_out_keeps_its_types():
    view = openset_view(np.concatenate([np.arange(300) % 3, [OPEN] * 90]), 3, 0.5, 0.5, seed=1)
    rest, held_out = view.split(0.2, seed=3)
    assert len(held_out) == pytest.approx(60, abs=2)
    both = {kind: rest.counts[kind] + held_out.counts[kind] for kind in TYPES}
    assert both == view.counts
    assert held_out.counts["open"] > 0


def test_images_of_a_part_keep_their_rows():
    view = LabelView([5, 2, 9, 7], [0, 1, 1, 2], [0, 1, 2, -1], 3)
    assert view.rows.tolist() == [0, 1, 2, 3]
    part = view.part(np.array([3, 1]))
    assert (part.indices.tolist(), part.given.tolist(), part.true.tolist()) == ([7, 2], [2, 1], [-1, 1])
    assert part.rows.tolist() == [3, 1]
    assert part.part(np.array([1])).rows.tolist() == [1]
    assert view.part(np.array([0]), given=np.array([2])).given.tolist() == [2]
    rest, held_out = view.split(0.5, seed=0)
    assert rest.rows.tolist() == list(range(len(rest))), "a split is a view of its own"
    assert held_out.rows.tolist() == list(range(len(held_out)))


def test_the_row_of_an_image_is_found_by_its_position():
    view = LabelView([5, 2, 9, 7], [0, 1, 1, 2], None, 3)
    assert view.rows_of(np.array([9, 5, 7])).tolist() == [2, 0, 3]
    for other in (3, 12):
        with pytest.raises(KeyError, match=f"image {other} is not in the view"):
            view.rows_of(np.array([9, other]))


def test_files_that_are_no_labels(tmp_path):
    with pytest.raises(DataError, match=r"none.npz: no such file"):
        LabelView.load(tmp_path / "none.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    LabelView.of(TRUE, 3).save(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    np.savez(tmp_path / "contradictory.npz", indices=[0, 0], given=[0, 1], num_classes=3)
    np.savez(tmp_path / "pickled.npz", indices=np.array([{}], object), given=[0], num_classes=3)
    np.savez(tmp_path / "text.npz", indices=[0], given=[0], num_classes=3, origin=np.array("{"))
    np.save(tmp_path / "plain.npy", TRUE)
    for path in list(tmp_path.iterdir()):
        with pytest.raises(DataError, match=path.name) as raised:
            LabelView.load(path)
        assert "\n" not in str(raised.value)
