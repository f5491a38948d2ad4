import csv
import json
import os

import numpy as np
import pytest
import torch

from dist_rmd.data.labels.files import given_view
from dist_rmd.data.labels.view import LabelView, noisy_view
from dist_rmd.data.prepared.beton import Dataset
from dist_rmd.errors import ConfigError, DataError

TRUE = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1, 0])
GIVEN = np.array([2, 1, 1, 1, 0, 2, 0, 0, 1, 0])
CLASSES = ("ape", "bee", "cow")
FILES = [f"train/{i}ä.png" for i in range(10)]


@pytest.fixture
def make_dataset(tmp_path):
    """A dataset as far as labels are concerned: no images."""

    def make(true=TRUE, classes=CLASSES, files=FILES, verified=True):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        with open(folder / "train.csv", "w", newline="", encoding="utf-8") as text:
            rows = csv.writer(text)
            rows.writerow(["index", "label", "class", "file"])
            rows.writerows([i, label, "" if label < 0 else classes[label], files[i]] for i, label in enumerate(true))
        return Dataset(folder, "folder", 8, classes, (0.5,) * 3, (0.5,) * 3, {}, {}, {}, verified)

    return make


@pytest.fixture
def dataset(make_dataset):
    return make_dataset()


def refused(dataset, path, *words, column=None, error=DataError):
    """The file is refused in one line that begins with its name (or the key) and has these words."""
    with pytest.raises(error) as raised:
        given_view(dataset, path, column)
    message = str(raised.value)
    assert message.startswith(f"{path}: " if error is DataError else "noise.column")
    assert "\n" not in message
    assert all(word in message for word in (*words, path.name)), message


# .npy


def test_an_npy(dataset, tmp_path):
    np.save(tmp_path / "mine.npy", GIVEN.astype(np.uint8))
    view = given_view(dataset, tmp_path / "mine.npy")
    np.testing.assert_array_equal(view.given, GIVEN)
    np.testing.assert_array_equal(view.true, TRUE)
    assert view.noise_rate == 0.2
    assert view.origin == {"kind": "file", "file": "mine.npy", "column": None}
    few = given_view(dataset, tmp_path / "mine.npy", per_class=1)
    np.testing.assert_array_equal(few.indices, [0, 1, 2])
    np.testing.assert_array_equal(few.given, [2, 1, 1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(9, np.int64), "9 labels, but the dataset has 10 images"),
        (np.full(10, 3), "given labels are 3..3, which is outside 0..2"),
        (np.zeros(10), "given must be a list of integers, not float64"),
        (np.zeros((10, 1), np.int64), "of shape (10, 1)"),
        (np.int64(3), "of shape ()"),
        (np.array([{}] * 10, object), "not a readable .npy or .npz of numbers"),
    ],
)
def test_an_npy_that_does_not_fit(dataset, tmp_path, content, message):
    np.save(tmp_path / "mine.npy", content)
    refused(dataset, tmp_path / "mine.npy", message)


def test_files_that_cannot_be_read(dataset, tmp_path):
    for name in ("none.npy", "none.npz", "none.csv", "none.pt"):
        refused(dataset, tmp_path / name, "o such file", column="a" if name == "none.pt" else None)
    for name in ("text.npy", "text.npz", "text.csv", "text.pt"):
        (tmp_path / name).write_text("0 1 2")
        refused(dataset, tmp_path / name, column="a" if name == "text.pt" else None)
    kinds = ".npy, .npz, .csv, .tsv, .txt, .json, .pt, .pth"
    refused(dataset, tmp_path / "labels.xlsx", f"read from {kinds}, not from .xlsx")
    refused(dataset, tmp_path / "labels.pkl", "not from .pkl, since a pickle can run code: save a list of them as .npy")


def test_a_list_in_json(dataset, tmp_path):
    path = tmp_path / "noise.json"
    path.write_text(json.dumps(GIVEN.tolist()))
    view = given_view(dataset, path)
    np.testing.assert_array_equal(view.given, GIVEN)
    assert view.origin == {"kind": "file", "file": "noise.json", "column": None}
    for text, words in {
        "{}": "holds a dict, not a list",
        "[0, 1": "Expecting",
        "[0.5]": "integers",
        "[[0], [1, 2]]": "",
    }.items():
        path.write_text(text)
        refused(dataset, path, words)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_as_other_programs_save_it(dataset, tmp_path, separator, encoding):
    lines = ["file,label", *(f'"{name}",{label}' for name, label in zip(FILES, GIVEN, strict=True)), "", ","]
    path = tmp_path / ("mine.tsv" if separator == "\t" else "mine.csv")
    path.write_bytes("\r\n".join(lines).replace(",", separator).encode(encoding))
    np.testing.assert_array_equal(given_view(dataset, path).given, GIVEN)


@pytest.mark.parametrize("change", ["./{}", "/data/pets/{}", "pets/{}"] )
def test_a_name_that_is_nearly_right_is_put_right(dataset, tmp_path, change):
    name = change.format(FILES[3])
    path = write_csv(tmp_path / "mine.csv", f"file,label\n{name},0\n")
    refused(dataset, path, "line 2, column file: no image", f"did you mean {FILES[3]!r}?")
    path = write_csv(tmp_path / "mine.csv", "file,label\n" + FILES[3].replace("/", "\\") + ",0\n")
    refused(dataset, path, "line 2, column file: no image", f"did you mean {FILES[3]!r}?")
    path = write_csv(tmp_path / "mine.csv", "file,label\nnothing,0\n")
    refused(dataset, path, f"they are called like {FILES[0]!r}")


def test_a_column_of_a_file_without_columns(dataset, tmp_path):
    np.save(tmp_path / "mine.npy", GIVEN)
    refused(dataset, tmp_path / "mine.npy", "no columns", column="label", error=ConfigError)
    LabelView.of(TRUE, 3).save(tmp_path / "run.npz")
    refused(dataset, tmp_path / "run.npz", "no columns", column="label", error=ConfigError)


# .npz of another run


@pytest.mark.parametrize("known", [True, False])
def test_the_labels_of_another_run(dataset, tmp_path, known):
    indices = np.array([8, 2, 0, 5])
    overlay = LabelView(indices, np.array([1, 0, 2, 2]), TRUE[indices] if known else None, 3)
    overlay.save(tmp_path / "run.npz")
    view = given_view(dataset, tmp_path / "run.npz")
    np.testing.assert_array_equal(view.indices, indices)
    np.testing.assert_array_equal(view.given, overlay.given)
    np.testing.assert_array_equal(view.true, TRUE[indices])
    few = given_view(dataset, tmp_path / "run.npz", per_class=1)
    np.testing.assert_array_equal(few.indices, [8, 0])


def test_what_another_run_recorded_is_kept(dataset, tmp_path):
    made = noisy_view(TRUE, 3, "asymmetric", 0.5, seed=3, class_map={0: 2})
    made.save(tmp_path / "run.npz")
    view = given_view(dataset, tmp_path / "run.npz")
    assert view.origin == made.origin
    assert view.digest == made.digest
    view.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "run.npz").read_bytes()
    LabelView(made.indices, made.given, made.true, 3).save(tmp_path / "silent.npz")
    assert given_view(dataset, tmp_path / "silent.npz").origin == {"kind": "file", "file": "silent.npz", "column": None}


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (LabelView.of(TRUE, 4), "made for 4 classes, but the dataset has 3"),
        (LabelView.of([*TRUE, 0], 3), "names image 10, but the dataset has 10 images"),
        (LabelView.of(TRUE[::-1], 3), "made for another one"),
    ],
)
def test_the_labels_of_a_run_on_another_dataset(dataset, tmp_path, overlay, message):
    overlay.save(tmp_path / "run.npz")
    refused(dataset, tmp_path / "run.npz", message)


# .csv


def write_csv(path, text, **options):
    path.write_text(text, encoding="utf-8", **options)
    return path


def test_a_csv_of_names_and_numbers(dataset, tmp_path):
    """In any order, some images only, by name or number; other columns do not matter."""
    path = write_csv(tmp_path / "mine.csv", f"who,file,label\nA,{FILES[7]},cow\nB,{FILES[0]}, 1\n\nC,{FILES[3]},ape\n")
    view = given_view(dataset, path)
    assert view.indices.tolist() == [0, 3, 7]
    assert view.given.tolist() == [1, 0, 2]
    np.testing.assert_array_equal(view.true, TRUE[[0, 3, 7]])
    assert view.origin == {"kind": "file", "file": "mine.csv", "column": "label"}
    assert given_view(dataset, path, per_class=1).indices.tolist() == [0, 3, 7]


def test_another_column_of_a_csv(dataset, tmp_path):
    path = write_csv(tmp_path / "mine.csv", f"file,label,Anna's\n{FILES[0]},0,cow\n{FILES[1]},0,bee\n")
    view = given_view(dataset, path, "Anna's", per_class=1)
    assert view.given.tolist() == [2, 1]
    assert view.origin["column"] == "Anna's"


def test_a_csv_from_a_spreadsheet(dataset, tmp_path):
    """Excel begins with a byte order mark and ends lines its own way."""
    path = tmp_path / "mine.csv"
    path.write_bytes(f'file,label\r\n"{FILES[2]}","bee"\r\n'.encode("utf-8-sig"))
    assert given_view(dataset, path).given.tolist() == [1]


def test_the_datasets_own_csv_gives_its_own_labels(dataset):
    for column in ("label", "class"):
        np.testing.assert_array_equal(given_view(dataset, dataset.folder / "train.csv", column).given, TRUE)


def test_class_names_that_are_numbers(make_dataset, tmp_path):
    """As with digits, "2" means class 2; where it is the name of class 1, it could mean either."""
    path = write_csv(tmp_path / "mine.csv", f"file,label\n{FILES[0]},2\n")
    assert given_view(make_dataset(classes=("0", "1", "2")), path).given.tolist() == [2]
    refused(make_dataset(classes=("1", "2", "3")), path, "line 2, column label", "'2'", "may mean either")
    write_csv(path, f"file,label\n{FILES[0]},3\n")
    assert given_view(make_dataset(classes=("1", "2", "3")), path).given.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("no column 'file'", "it has none")),
        ("image,label\na,b\n", ("no column 'file'", "it has image, label")),
        ("file,class\na,b\n", ("no column 'label'", "noise.column", "it has file, class")),
        ("file,label\n", ("lists no image",)),
        (f"file,label\n{FILES[0]},ape\ntrain/x.png,ape\n", ("line 3, column file", "no image 'train/x.png'")),
        (f"file,label\n{FILES[0]},ape\n{FILES[1]},ape\n{FILES[0]},ape\n", ("line 4, column file", "on line 2 already")),
        (f"file,label\n{FILES[0]},dog\n", ("line 2, column label", "'dog'", "0..2")),
        (f"file,label\n{FILES[0]},3\n", ("line 2, column label", "'3'", "0..2")),
        (f"file,label\n{FILES[0]},-1\n", ("line 2, column label", "'-1'")),
        (f"file,label\n{FILES[0]},1.0\n", ("line 2, column label", "'1.0'")),
        (f"file,label\n{FILES[0]},\n", ("line 2, column label", "''")),
        (f"file,label\n{FILES[0]}\n", ("line 2 has 1 fields, but the header has 2 (file, label)",)),
        (f"file,label\n{'x' * 200000},ape\n", ("field larger than field limit",)),
    ],
)
def test_mistakes_in_a_csv(dataset, tmp_path, text, words):
    refused(dataset, write_csv(tmp_path / "mine.csv", text), *words)


# .pt as of CIFAR-10N and CIFAR-100N

FINE = {"clean_label": TRUE, "worse_label": GIVEN}


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path):
    """save(content) -> a .pt, in torch's present and its former format."""

    def save(content):
        path = tmp_path / "human.pt"
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
        return path

    return save


@pytest.mark.parametrize(
    "values", [GIVEN, GIVEN.astype(np.uint8), GIVEN.astype(">i4"), torch.tensor(GIVEN), [*GIVEN.tolist()]]
)
def test_a_column_of_a_pt(dataset, save, values):
    path = save({"clean_label": TRUE, "aggre_label": values, "random_label1": TRUE})
    view = given_view(dataset, path, "aggre_label")
    np.testing.assert_array_equal(view.given, GIVEN)
    np.testing.assert_array_equal(view.true, TRUE)
    assert view.origin == {"kind": "file", "file": "human.pt", "column": "aggre_label"}
    assert given_view(dataset, path, "aggre_label", per_class=1).given.tolist() == [2, 1, 1]


def test_a_pt_from_before_numpy_2(dataset, save, monkeypatch):
    """Its arrays are made by numpy.core.multiarray._reconstruct, as in the published files."""
    reconstruct = np.empty(0).__reduce__()[0]
    monkeypatch.setattr(reconstruct, "__module__", "numpy.core.multiarray", raising=False)
    path = save(FINE)
    assert b"numpy.core.multiarray" in path.read_bytes()
    np.testing.assert_array_equal(given_view(dataset, path, "worse_label").given, GIVEN)


def test_which_columns_there_are(dataset, save):
    path = save(FINE)
    refused(dataset, path, "clean_label, worse_label", error=ConfigError)
    refused(dataset, path, "no column 'aggre'", "clean_label, worse_label", column="aggre")


def test_a_pt_of_another_dataset_or_order(dataset, save):
    path = save({"clean_label": TRUE[::-1].copy(), "worse_label": GIVEN})
    refused(dataset, path, "column clean_label: class 0 for image 0", "another order", column="worse_label")
    path = save({"clean_label": TRUE[:9], "worse_label": GIVEN})
    refused(dataset, path, "column clean_label: 9 labels", column="worse_label")


def test_coarse_labels_are_no_fine_ones(dataset, save):
    """Their numbers are valid class numbers."""
    coarse = TRUE // 2
    path = save({**FINE, "clean_coarse_label": coarse, "noisy_coarse_label": coarse})
    refused(dataset, path, "column clean_coarse_label", "other classes", column="noisy_coarse_label")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (GIVEN[:9], "9 labels, but the dataset has 10 images"),
        (GIVEN + 1, "given labels are 1..3, which is outside 0..2"),
        (GIVEN / 2, "integers"),
        (torch.zeros(10, dtype=torch.bfloat16, requires_grad=True), "grad"),
        (torch.zeros(10, dtype=torch.bfloat16), "BFloat16"),
        (["a"] * 10, "integers"),
        ("text", "integers"),
    ],
)
def test_a_column_that_does_not_fit(dataset, save, values, words):
    path = save({**FINE, "mine": values})
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        words = "UnpicklingError"  # arrays of fractions are not among what may be made
    refused(dataset, path, words, column="mine")


def test_a_pt_without_columns(dataset, save):
    refused(dataset, save(torch.tensor(GIVEN)), "holds a Tensor, not columns by name", column="worse_label")


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize(
    "wrap", [lambda evil: evil, lambda evil: {**FINE, "mine": evil}, lambda evil: {"a": np.array([evil])}]
)
def test_code_in_a_pt_never_runs(dataset, save, tmp_path, wrap):
    path = save(wrap(Malicious(tmp_path / "ran")))
    refused(dataset, path, "not readable as columns of numbers", column="worse_label")
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


def test_what_may_be_unpickled_is_forgotten_again(dataset, save):
    before = set(torch.serialization.get_safe_globals())
    given_view(dataset, save(FINE), "worse_label")
    assert set(torch.serialization.get_safe_globals()) == before


# Images of none of the classes, and labels that nobody has verified


@pytest.fixture
def pooled(make_dataset):
    """The dataset with two more images, of none of its classes."""
    return make_dataset([*TRUE, -1, -1], files=[*FILES, "open/a.png", "open/b.png"])


def test_an_npy_and_a_pt_do_not_speak_of_images_of_no_class(pooled, tmp_path):
    np.save(tmp_path / "mine.npy", GIVEN)
    torch.save({"clean_label": TRUE, "worse_label": GIVEN}, tmp_path / "human.pt")
    for name, column in {"mine.npy": None, "human.pt": "worse_label"}.items():
        view = given_view(pooled, tmp_path / name, column)
        np.testing.assert_array_equal(view.indices, range(10))
        np.testing.assert_array_equal(view.true, TRUE)
    np.save(tmp_path / "mine.npy", np.append(GIVEN, [0, 0]))
    refused(pooled, tmp_path / "mine.npy", "12 labels, but the dataset has 10 images")


def test_a_csv_and_an_npz_may_name_images_of_no_class(pooled, tmp_path):
    path = write_csv(tmp_path / "mine.csv", f"file,label\nopen/b.png,bee\n{FILES[0]},cow\n")
    view = given_view(pooled, path)
    assert (view.indices.tolist(), view.given.tolist(), view.true.tolist()) == ([0, 11], [2, 1], [2, -1])
    view.save(tmp_path / "run.npz")
    again = given_view(pooled, tmp_path / "run.npz", per_class=1)
    assert (again.digest, again.counts) == (view.digest, {"clean": 1, "closed": 0, "open": 1})


def test_without_verified_labels_the_truth_stays_unknown(make_dataset, tmp_path):
    dataset = make_dataset(verified=False)
    np.save(tmp_path / "mine.npy", GIVEN)
    LabelView.of(TRUE, 3).save(tmp_path / "run.npz")
    write_csv(tmp_path / "mine.csv", f"file,label\n{FILES[0]},cow\n")
    torch.save({"clean_label": TRUE[::-1].copy(), "worse_label": GIVEN}, tmp_path / "human.pt")
    for name in ("mine.npy", "run.npz", "mine.csv", "human.pt"):
        column = "worse_label" if name == "human.pt" else None
        assert given_view(dataset, tmp_path / name, column).true is None
