import re
import warnings

import pytest

from dist_rmd.engine.logs import logger, rank_log
from dist_rmd.errors import CannotCreate
from dist_rmd.run.folder import RunFolder


def lines(folder, rank):
    return (folder / "logs" / f"rank{rank}.log").read_text().splitlines()


def test_what_is_said_warned_and_died_of(tmp_path):
    with warnings.catch_warnings(record=True) as shown, rank_log(RunFolder(tmp_path), 3):
        logger.info("going on from step 8")
        warnings.warn("step-8.pt: broken; skipped", stacklevel=1)
        try:
            raise KeyError("a bug")
        except KeyError:
            logger.exception("died")
    assert [str(warning.message) for warning in shown] == ["step-8.pt: broken; skipped"]  # as without a log
    said, warned, died, *traceback = lines(tmp_path, 3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ INFO rank 3: going on from step 8", said)
    assert warned.endswith("WARNING rank 3: UserWarning: step-8.pt: broken; skipped")
    assert died.endswith("ERROR rank 3: died")
    assert traceback[-1] == "KeyError: 'a bug'"


def test_another_start_appends(tmp_path):
    for line in ("first", "second"):
        with rank_log(RunFolder(tmp_path), 0):
            logger.info(line)
    logger.warning("after the run")
    assert [line.rpartition(": ")[2] for line in lines(tmp_path, 0)] == ["first", "second"]


def test_everything_is_put_back(tmp_path):
    before, show = list(logger.handlers), warnings.showwarning
    with pytest.raises(ValueError, match="x"), rank_log(RunFolder(tmp_path), 0):
        raise ValueError("x")
    assert logger.handlers == before
    assert warnings.showwarning is show


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "logs").write_text("")
    with pytest.raises(CannotCreate, match=r"rank0\.log: cannot be created"), rank_log(RunFolder(tmp_path), 0):
        pass
