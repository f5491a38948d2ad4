import csv
import io

import numpy as np
from support.small_ranking import CLASSES, FILES, ranking

from dist_rmd.data.labels.table import read_label_table
from dist_rmd.suspects.ranking import COLUMNS


def test_the_table_has_every_column_and_runs_nothing_in_a_spreadsheet():
    rows = list(csv.reader(io.StringIO(ranking().csv())))
    assert tuple(rows[0]) == COLUMNS
    assert rows[1] == ["'@SUM(1).png", "'=HYPERLINK(A1)", "cat, tame", "1.0000", "0.0000", "0.0000", "'-1", "", "0"]
    assert rows[2] == ["''=x.png", "cat, tame", "'-1", "0.8333", "0.1667", "0.0833", "plain", "clean", "0"]
    assert rows[4][-2:] == ["open", ""]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_the_table_is_read_back_as_labels(tmp_path):
    """Names and all: quotes, commas, line breaks, and bytes that are no UTF-8."""
    path = tmp_path / "suspects.csv"
    path.write_bytes(ranking().csv().encode("utf-8", "surrogateescape"))
    order = [3, 1, 0, 5, 4, 2]
    files = [FILES[place] for place in order]
    for column in ("given", "proposed"):
        positions, labels = read_label_table(path, column, files, CLASSES, "here")
        np.testing.assert_array_equal(positions, np.arange(6))
        np.testing.assert_array_equal(labels, getattr(ranking(), column)[order])
    _, labels = read_label_table(path, "label", files, CLASSES, "here")
    np.testing.assert_array_equal(labels, ranking().probable[order])


def test_the_table_to_train_on_leaves_out_what_is_not_clear(tmp_path):
    path = tmp_path / "cleaned.csv"
    path.write_bytes(ranking().cleaned().encode("utf-8", "surrogateescape"))
    positions, labels = read_label_table(path, "label", FILES, CLASSES, "here")
    np.testing.assert_array_equal(positions, np.flatnonzero(ranking().sure))
    np.testing.assert_array_equal(labels, ranking().probable[positions])
