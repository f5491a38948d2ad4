import shutil
import subprocess

import pytest

from dist_rmd.reports._typeset import Table, escape, latex, markdown

TABLE = Table(
    ("method", ""),
    (("symmetric", "0.1"), ("symmetric", "0.2"), ("pairflip", "0.4")),
    (
        (("NCE_AGCE", "ours", "90.00 ± 0.10", "—", "8.0†"), ("", "difference", "+1.00", "-2.50", "")),
        (("a|b", "ours", "1", "2", "3"),),
    ),
)


def test_markdown_is_aligned_and_keeps_its_columns():
    lines = markdown(TABLE).splitlines()
    assert lines == [
        "| method   |            | symmetric 0.1 | symmetric 0.2 | pairflip 0.4 |",
        "| -------- | ---------- | ------------: | ------------: | -----------: |",
        "| NCE_AGCE | ours       |  90.00 ± 0.10 |             — |         8.0† |",
        "|          | difference |         +1.00 |         -2.50 |              |",
        r"| a\|b     | ours       |             1 |             2 |            3 |",
    ]


def test_latex_has_a_heading_over_the_columns_that_share_it():
    text = latex(TABLE, "Accuracy (%) of a_b", ["10 % of it.", "K: 1 -> 0.1."])
    assert r"\caption{Accuracy (\%) of a\_b}" in text
    assert r"\begin{tabular}{llrrr}" in text
    assert r" &  & \multicolumn{2}{c}{symmetric} & \multicolumn{1}{c}{pairflip} \\" in text
    assert r"\cmidrule(lr){3-4}\cmidrule(lr){5-5}" in text
    assert r"method &  & 0.1 & 0.2 & 0.4 \\" in text
    assert r"NCE\_AGCE & ours & 90.00 $\pm$ 0.10 & --- & 8.0$^\dagger$ \\" in text
    assert r" & difference & $+$1.00 & $-$2.50 &  \\" in text
    assert r"10 \% of it. K: 1 $\to$ 0.1." in text
    assert text.count(r"\midrule") == 2


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        (r"50 % of {x} & y_z # $ \a", r"50 \% of \{x\} \& y\_z \# \$ \textbackslash{}a"),
        ("~^<>|", r"\textasciitilde{}\textasciicircum{}$<$$>$\textbar{}"),
        ("-1 +2 a-1 CE+RMDNet", "$-$1 $+$2 a-1 CE+RMDNet"),
        ("lr: 1 -> -2", r"lr: 1 $\to$ $-$2"),
        ("1 ± 2†‡ —", r"1 $\pm$ 2$^\dagger$$^\ddagger$ ---"),
    ],
)
def test_escaping(text, escaped):
    assert escape(text) == escaped


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_latex_compiles(tmp_path):
    every = "".join(map(chr, range(32, 127))) + " ± † ‡ — -> -1"
    body = latex(TABLE, every, [every]) + latex(Table(("x",), (("accuracy",),), ((("CE", every),),)), "one level")
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\usepackage{{graphicx}}\begin{{document}}{body}"
    (tmp_path / "page.tex").write_text(document + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "page.log").read_text()
