import numpy as np
import pytest
import torch

from dist_rmd.evaluation import _separation as module
from dist_rmd.evaluation._separation import agreement, distances, separation


def table(images=90, classes=4, dim=6, seed=0):
    """Features around their true class, of any length; a quarter of the given labels is wrong."""
    generator = torch.Generator().manual_seed(seed)
    true = torch.randint(classes, (images,), generator=generator)
    wrong = torch.rand(images, generator=generator) < 0.25
    given = torch.where(wrong, (true + 1) % classes, true)
    features = 2 * torch.eye(classes, dim)[true] + torch.randn(images, dim, generator=generator)
    return features * torch.rand(images, 1, generator=generator) * 5, given, true


def unit(features):
    rows = features.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def naive_distances(features, given):
    rows, found = unit(features), []
    for i, label in enumerate(given.tolist()):
        others = [rows[j] for j in range(len(rows)) if given[j] == label and j != i]
        if others:
            centre = np.mean(others, axis=0)
            found.append(1 - rows[i] @ centre / np.linalg.norm(centre))
        else:
            found.append(np.nan)
    return np.array(found)


def naive_auroc(distance, wrong):
    pairs = [
        1.0 if distance[i] > distance[j] else 0.5 if distance[i] == distance[j] else 0.0
        for i in np.flatnonzero(wrong & ~np.isnan(distance))
        for j in np.flatnonzero(~wrong & ~np.isnan(distance))
    ]
    return np.mean(pairs)


def naive_agreement(features, labels, neighbours):
    rows, labels, shares = unit(features), labels.numpy(), []
    for i in range(len(rows)):
        cosine = rows @ rows[i]
        cosine[i] = -np.inf
        shares.append(np.mean(labels[np.argsort(-cosine)[:neighbours]] == labels[i]))
    return np.array(shares)


@pytest.fixture(params=[2**24, 200, 1], ids=["one chunk", "chunks", "row by row"])
def chunks(request, monkeypatch):
    monkeypatch.setattr(module, "SIMILARITIES", request.param)


def test_distances_equal_the_naive_float64_formula():
    features, given, _ = table()
    np.testing.assert_allclose(distances(features, given).numpy(), naive_distances(features, given), rtol=1e-12)


def test_more_images_than_a_chunk_of_distances_holds():
    features, given, _ = table(images=4099)
    found = distances(features, given)
    sums = torch.stack([torch.from_numpy(unit(features))[given == label].sum(0) for label in range(4)])
    others = sums[given[-1]] - torch.from_numpy(unit(features))[-1]
    assert len(found) == 4099
    assert found[-1].item() == pytest.approx(1 - unit(features)[-1] @ others.numpy() / others.norm().item(), rel=1e-12)


@pytest.mark.usefixtures("chunks")
def test_agreement_equals_the_naive_float64_formula():
    features, given, true = table()
    for neighbours in (1, 7, 89):
        shares = agreement(features, (given, true), neighbours)
        for labels, share in zip((given, true), shares, strict=True):
            np.testing.assert_allclose(share.numpy(), naive_agreement(features, labels, neighbours), rtol=1e-12)


@pytest.mark.usefixtures("chunks")
def test_the_numbers_are_means_over_clean_and_mislabelled_images():
    features, given, true = table()
    found, wrong = separation(features, given, true, neighbours=5), (given != true).numpy()
    assert (found.images, found.mislabelled, found.neighbours) == (90, wrong.sum(), 5)
    assert found.auroc == pytest.approx(naive_auroc(naive_distances(features, given), wrong), rel=1e-12)
    for labels, clean, mislabelled in (
        (given, found.given_clean, found.given_mislabelled),
        (true, found.true_clean, found.true_mislabelled),
    ):
        shares = naive_agreement(features, labels, 5)
        assert clean == pytest.approx(shares[~wrong].mean(), rel=1e-12)
        assert mislabelled == pytest.approx(shares[wrong].mean(), rel=1e-12)


def test_features_of_the_true_class_give_the_wrong_labels_away():
    """Two well separated classes: every mislabelled image is far from its given class and near its true one."""
    true = torch.arange(40) % 2
    given = true.clone()
    given[:6] = 1 - true[:6]
    features = torch.eye(2, 3)[true] + 0.01 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    found = separation(features, given, true, neighbours=3)
    assert found.auroc == 1
    assert found.true_clean == found.true_mislabelled == 1
    assert found.given_mislabelled < 0.5 < found.given_clean


def test_features_fitted_to_the_given_labels_hide_them():
    """The network tells the given classes apart perfectly, and nothing else: chance, and neighbours that agree."""
    true = torch.arange(40) % 2
    given = torch.where(torch.arange(40) < 10, 1 - true, true)
    found = separation(torch.eye(2)[given], given, true, neighbours=3)
    assert found.auroc == 0.5  # all distances are level
    assert found.given_clean == found.given_mislabelled == 1
    assert found.true_clean == pytest.approx(14 / 19)  # of each class's 19 others, 14 are clean ones
    assert found.true_mislabelled == pytest.approx(4 / 19)


@pytest.mark.usefixtures("chunks")
def test_equally_near_neighbours_share_the_places():
    """Two nearer ones, then four that are level for one place: what comes out on average over all orders."""
    degrees = torch.tensor([0.0, 10, 10, 60, 60, 60, 60, 120])
    features = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 0, 1, 1, 1, 0])
    (share,) = agreement(features, (labels,), 3)
    assert share[0].item() == pytest.approx((1 + 1 / 4) / 3)


def test_the_order_of_images_does_not_matter_even_where_all_features_are_the_same():
    given = torch.tensor([0] * 8 + [1] * 2)
    for order in (torch.arange(10), torch.arange(9, -1, -1)):
        (share,) = agreement(torch.ones(10, 3), (given[order],), 4)
        expected = torch.where(given[order] == 0, 7 / 9, 1 / 9).double()
        torch.testing.assert_close(share, expected)


def test_lengths_do_not_count():
    features, given, true = table()
    lengths = torch.rand(len(given), 1, generator=torch.Generator().manual_seed(1)) + 0.1
    ours, theirs = separation(features, given, true), separation(features * lengths, given, true)
    assert ours.auroc == pytest.approx(theirs.auroc, abs=1e-12)
    assert ours.given_clean == pytest.approx(theirs.given_clean, abs=1e-12)


def test_the_only_image_of_a_class_has_no_centre_and_is_left_out_of_the_auroc():
    features, given, true = table()
    given[0], true[0] = 9, 2  # class 9 has no other, classes 4 to 8 none at all
    distance = distances(features, given)
    assert distance.isnan().nonzero().flatten().tolist() == [0]
    expected = naive_auroc(naive_distances(features, given), (given != true).numpy())
    assert separation(features, given, true).auroc == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("given", "true", "undefined"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], {"auroc", "given_mislabelled", "true_mislabelled"}),
        ([0, 0, 1, 1], [1, 1, 0, 0], {"auroc", "given_clean", "true_clean"}),
        ([0, 1, 2, 3], [0, 1, 2, 0], {"auroc"}),  # no class has a centre
        ([0, 0, 1, 2], [0, 0, 1, 1], {"auroc"}),  # the mislabelled one has none
    ],
)
def test_what_cannot_be_measured_is_none(given, true, undefined):
    found = separation(torch.eye(4), torch.tensor(given), torch.tensor(true))
    assert {name for name, value in vars(found).items() if value is None} == undefined
    assert found.neighbours == 3  # all the others


def test_features_of_length_zero_are_as_far_as_any():
    features, given, true = table()
    features[3] = 0
    assert distances(features, given)[3] == 1
    assert separation(features, given, true).auroc is not None


def test_one_image_has_no_neighbours():
    with pytest.raises(ValueError, match="1 images have no neighbours"):
        separation(torch.ones(1, 3), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
