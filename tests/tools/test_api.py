from tools.api import PAGE, markdown, page, signature


def test_the_page_is_that_of_the_docstrings():
    assert PAGE.read_text() == page(), "docs/api.md is stale: run tools/api"


def test_meanings_become_a_list_and_examples_stay_as_they_are():
    doc = """What it does.

    kept = as it is

kind: which one
    of several
a, b: two
Raises ValueError.

>>> 1 + 1
2

The end."""
    assert (
        markdown(doc)
        == """What it does.

    kept = as it is

- `kind`: which one
  of several
- `a, b`: two

Raises ValueError.

```python
>>> 1 + 1
2
```

The end."""
    )


def test_a_signature_has_defaults_and_no_types():
    def function(self, count: int, *, name: str = "a") -> str: ...

    assert signature("f", function) == "f(self, count, *, name='a')"
    assert signature(".f", function, bound=True) == ".f(count, *, name='a')"
