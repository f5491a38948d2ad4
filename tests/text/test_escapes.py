import warnings

import matplotlib
import pytest

from dist_rmd.text.escapes import markdown, prepare_drawing, slurm_pattern, spreadsheet, visible


def test_a_name_stays_on_its_line_and_commands_no_terminal():
    assert visible("a\nb\r\x1b[31m\x00") == r"a\nb\r\x1b[31m\x00"
    assert visible("caf\udce9 \u2028") == r"caf\udce9 \u2028"
    assert visible("猫 & 犬 ±") == "猫 & 犬 ±"


def test_a_cell_of_a_table_stays_one():
    assert markdown("a|b*c`d\n") == r"a\|b\*c\`d\n"
    assert markdown("CE+RMDNet (K=1)") == "CE+RMDNet (K=1)"


def test_a_node_number_is_none_in_a_path():
    assert slurm_pattern("runs/sym40%noise") == "runs/sym40%%noise"


def test_letters_that_no_font_has_are_told_once_and_dollars_are_no_mathematics(tmp_path):
    from matplotlib import pyplot

    unassigned = "\U0003fffd"
    with matplotlib.rc_context():
        with pytest.warns(UserWarning, match="no font of this machine has the letters"):
            prepare_drawing(["ship", f"a {unassigned}", r"$\no{math$"])
        with warnings.catch_warnings(record=True) as said:
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            prepare_drawing(["ship", "Käse", "рыба"])
            pyplot.figure().text(0, 0, r"$\no{math$")
            pyplot.savefig(tmp_path / "a.png")
            pyplot.close()
    assert said == []


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=1", "''-x"])
def test_what_a_spreadsheet_may_run_has_an_apostrophe_before_it(cell):
    assert spreadsheet(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "a=1", "'a", "1-1", " =1", "cat's"])
def test_other_cells_stay_as_they_are(cell):
    assert spreadsheet(cell) == cell
