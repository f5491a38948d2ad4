import pytest

from dist_rmd.data.labels.look_alikes import difference, look_alike


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("Cat", "cat", "upper and lower case"),
        ("cat ", "cat", "blanks, underscores or invisible marks"),
        ("black_cat", "black  cat", "blanks, underscores or invisible marks"),
        ("c\u200bat", "cat", "blanks, underscores or invisible marks"),
        ("cafe\u0301", "caf\u00e9", "how Unicode spells its letters"),
        ("\uff43at", "cat", "how Unicode spells its letters"),
        ("Cafe\u0301", "caf\u00e9", "upper and lower case and how Unicode spells its letters"),
        ("STRASSE", "stra\u00dfe", "upper and lower case"),
    ],
)
def test_names_that_look_alike_and_in_what_they_differ(name, other, words):
    assert look_alike(name, ["dog", other]) == other
    assert difference(name, other) == words


def test_other_names_and_the_name_itself_are_no_look_alikes():
    assert look_alike("cat", ["cat", "cats", "dog", "at"]) is None
