import csv
import io
import re

import numpy as np
import pytest
from support.browser import browser
from support.small_ranking import CLASSES, FILES, ranking
from support.torchrun import wait_for

from dist_rmd.data.labels.table import read_label_table
from dist_rmd.suspects.page import page

EVIL = ("<img src=x onerror=alert('image')>", "</script><script>alert('script')</script>", "&lt;b&gt;", "{data}", "$&")


def pictures(places):
    """Image i is of one colour, which only it has."""
    colours = np.stack([places % 7 * 36, places // 7 % 7 * 36, places // 49 % 7 * 36], axis=1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (len(places), 8, 8, 3)).copy()


@pytest.fixture
def chromium(tmp_path):
    (tmp_path / "saved").mkdir()
    with browser(tmp_path / "saved") as found:
        yield found


@pytest.fixture
def shown(chromium, tmp_path):
    """shown(ranking, most) -> the browser, with the page of the ranking."""

    def shown(ranks, most=100_000):
        path = tmp_path / "suspects.html"
        path.write_text(page(ranks, "Suspects", "about them", most, pictures))
        chromium.open(path)
        return chromium

    return shown


def rows(content):
    return list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))


def card(image):
    return f".card[data-image='{image}']"


def saved(browser):
    browser.click("#save")
    return rows(browser.downloaded("labels.csv"))


def test_clicks_and_keys_decide_and_the_table_is_saved(shown):
    names = [f"{number}.png" for number in range(8)]
    classes = ("ape", "bat", "cat")
    browser = shown(ranking(names, classes))
    browser.click(f"{card(0)} .relabel")
    browser.click(f"{card(1)} .drop")
    browser.click(f"{card(2)} .picture")
    browser.press("k")  # image 2, and on to the next one
    browser.press("d")  # image 3
    browser.press("ArrowRight")  # to 5
    browser.press("r")
    browser.press("ArrowLeft")  # back to 5
    browser.press("u")
    browser.press("ArrowRight")
    browser.choose("#choice", 1)  # image 6, given as ape, becomes a bat
    assert browser.value("document.getElementById('tally').textContent") == (
        "1 kept · 2 relabelled · 2 dropped · 3 not looked at"
    )
    given = {"file": "label", **{names[i]: classes[i % 3] for i in range(8)}}
    decided = {**given, "0.png": "bat", "6.png": "bat"}
    del decided["1.png"], decided["3.png"]
    assert dict(saved(browser)) == decided
    browser.choose("#others", "probable")
    decided |= {f"{i}.png": classes[(i + 2) % 3] for i in (4, 5, 7)}
    assert dict(saved(browser)) == decided
    assert browser.messages == []


def test_a_second_click_takes_a_decision_back(shown):
    browser = shown(ranking())
    for _ in range(2):
        browser.click(f"{card(1)} .drop")
    assert browser.value("document.getElementById('tally').textContent").startswith("0 kept · 0 relabelled · 0 dropped")


def test_decisions_outlive_a_reload(shown):
    browser = shown(ranking())
    browser.click(f"{card(1)} .drop")
    assert browser.value("localStorage.length") == 1

    def outlived() -> bool:  # Chromium hands what is stored to the next page in the background
        browser.reload()
        return browser.value(f'document.querySelector("{card(1)}").className') == "card drop "

    wait_for(outlived, 60)
    browser = shown(ranking(files=[*FILES[:-1], "other"]))  # a page of other images
    assert browser.value(f'document.querySelector("{card(1)}").className') == "card  "


def test_filters_by_class_pair_decision_set_and_twins(shown):
    browser = shown(ranking([f"{number}.png" for number in range(12)]))

    def listed():
        return sorted(browser.value("[...document.querySelectorAll('.card')].map(card => +card.dataset.image)"))

    browser.choose("#given", 1)
    assert listed() == [1, 5, 9]
    browser.choose("#proposed", 2)
    assert listed() == [1, 5, 9]
    browser.choose("#proposed", 3)
    assert listed() == []
    browser.choose("#given", "")
    assert listed() == [2, 6, 10]
    browser.click(f"{card(6)} .keep")
    browser.choose("#show", "decided")
    assert listed() == [6]
    browser.choose("#show", "open")
    assert listed() == [2, 10]
    browser.choose("#proposed", "")
    for name, images in {"twins": [0, 1], "clean": [1, 5, 9], "open set": [3, 7, 11]}.items():
        browser.choose("#show", name)
        assert listed() == images


def test_names_of_files_and_classes_are_text_and_run_nothing(shown):
    browser = shown(ranking(EVIL, EVIL))
    for image, name in enumerate(EVIL):
        browser.click(f"{card(image)} .picture")
        assert browser.value("document.querySelector('aside h2').textContent") == name
        assert browser.value(f'document.querySelector("{card(image)} .given").textContent') == name
    assert browser.value("document.images.length") == 0
    assert browser.value("document.scripts.length") == 3
    assert browser.messages == []
    assert [row[0] for row in saved(browser)[1:]] == list(EVIL)


def test_what_is_smuggled_into_the_page_is_refused_by_its_policy(chromium, tmp_path):
    """Were a name ever to become markup, it would still not run."""
    text = page(ranking(), "Suspects", "about", 10, pictures)
    planted = text.replace("</main>", "</main><img src=x onerror=alert(1)><script>alert(2)</script>")
    (tmp_path / "planted.html").write_text(planted)
    chromium.open(tmp_path / "planted.html")
    chromium.until("document.querySelector('.card') !== null")
    refused = [message for message in chromium.messages if "Content Security Policy" in message]
    assert len(refused) >= 2
    assert not {"1", "2"} & {*chromium.messages}


def test_the_saved_table_is_read_back_whatever_the_names(shown, tmp_path):
    browser = shown(ranking())
    browser.click(f"{card(0)} .relabel")
    browser.click("#save")
    (tmp_path / "labels.csv").write_bytes(browser.downloaded("labels.csv"))
    positions, labels = read_label_table(tmp_path / "labels.csv", "label", FILES, CLASSES, "here")
    np.testing.assert_array_equal(positions, np.arange(len(FILES)))
    np.testing.assert_array_equal(labels, [ranking().proposed[0], *ranking().given[1:]])


def test_every_picture_is_its_own(shown):
    """Also those of later sheets: what is drawn is the colour that the image has."""
    browser = shown(ranking([f"{number}.png" for number in range(343)]))
    browser.value("document.getElementById('list').scrollTop = 1e6")
    browser.until(f'document.querySelector("{card(342)}") !== null')
    for image in (330, 342):
        red, green, blue = pictures(np.array([image]))[0, 0, 0]
        colour = browser.value(
            f'(async () => {{ const p = document.querySelector("{card(image)} .picture");'
            " const sheet = new Image(); sheet.src = p.style.backgroundImage.slice(5, -2); await sheet.decode();"
            " const [x, y] = p.style.backgroundPosition.split(' ').map(v => -parseFloat(v) / 120 * 8);"
            " const canvas = new OffscreenCanvas(1, 1).getContext('2d');"
            " canvas.drawImage(sheet, x + 4, y + 4, 1, 1, 0, 0, 1, 1);"
            " return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); })()"
        )
        assert colour == [red, green, blue]


def test_images_beyond_those_shown_are_in_the_saved_table(shown):
    names = [f"{number}.png" for number in range(12)]
    browser = shown(ranking(names), most=5)
    assert browser.value("document.getElementById('count').textContent") == "5 of 5 images"
    browser.click(f"{card(0)} .drop")
    assert dict(saved(browser)) == {"file": "label", **{names[i]: saved_class(i % 4) for i in range(1, 12)}}
    browser.choose("#others", "probable")
    assert dict(saved(browser)) == {"file": "label", **{names[i]: saved_class((i + 2) % 4) for i in range(1, 12)}}


def saved_class(label):
    return ("'" if label in (0, 2) else "") + CLASSES[label]


def test_fifty_thousand_images_are_listed_at_once(shown):
    """With a few dozen elements for those in sight; their pictures are decoded when they come into sight."""
    count = 50_000
    browser = shown(ranking([f"train/some class/{number:06d}.png" for number in range(count)]))
    assert browser.value("document.querySelectorAll('*').length") < 1000
    assert browser.value("sheets.size") < 5
    for place in range(10):
        browser.value(f"document.getElementById('list').scrollTop = {place} * 170000")
        browser.until(f"document.querySelector('.card').dataset.image >= {place} * 170000 / 202 * 4")
    assert browser.value("document.querySelectorAll('.card').length") < 100
    assert len(saved(browser)) == count + 1


def test_the_page_asks_nothing_of_any_network():
    text = page(ranking(), "Suspects", "about", 10, pictures)
    assert not re.findall(r"https?://|url\((?!\$)|@import|<link|src=", text)
    assert "default-src 'none'" in text
