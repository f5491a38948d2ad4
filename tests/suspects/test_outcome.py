from dist_rmd.suspects.outcome import Outcome, Trained, outcome


def page(**other):
    content = {
        "title": "<b>pets</b>", "tag": "test/top1", "name": "cleaned", "before": Trained(50.125, 52.0),
        "after": Trained(56.0, 57.0), "images": 2000, "left": 1900, "done": "300 of <2,000> labels",
        "commands": ["dist-rmd train 'name=<img src=x onerror=alert(1)>'", "bytes \udcff"],
    }  # fmt: skip
    return outcome(Outcome(**{**content, **other}), b"\x89PNG", "given/suspects.html")


def test_it_says_what_came_out():
    text = page()
    assert "<tr><td>the labels as given</td><td>2,000</td><td>50.12</td><td>52.00</td></tr>" in text
    assert "<tr><td>cleaned labels</td><td>1,900</td><td>56.00</td><td>57.00</td></tr>" in text
    assert "<p>300 of &lt;2,000&gt; labels.</p>" in text
    assert "wrong as well" not in text
    assert "some of which are wrong as well" in page(tag="test/top1_unverified")


def test_names_are_text_in_it_and_nothing_runs():
    text = page()
    assert "<b>pets" not in text
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "default-src 'none'" in text
    assert "<script" not in text
    text.encode("utf-8")
