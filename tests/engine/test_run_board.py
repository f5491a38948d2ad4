"""TensorBoard's own reading of what is written for it."""

import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from dist_rmd.engine.run_board import show_end, show_start


def entry(folder):
    """(settings, ended well) of the run's entry, and the text of its configuration."""
    board = EventAccumulator(str(folder))
    board.Reload()
    content = board.PluginTagToContent(metadata.PLUGIN_NAME)
    started = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in started.hparams.items()}
    (text,) = board.Tensors("configuration/text_summary")
    return settings, metadata.SESSION_END_INFO_TAG in content, text.tensor_proto.string_val[0].decode()


def test_one_entry_and_one_text_however_often_the_run_was_started(tmp_path):
    show_start(tmp_path, "seed: 0\n", {"relation.k": 1.0})
    time.sleep(0.01)
    show_start(tmp_path, "seed: 1\nstages:\n- rgrl\n", {"relation.k": 0.5, "stages": "rgrl", "flip": True})
    settings, ended, text = entry(tmp_path)
    assert settings == {"relation.k": 0.5, "stages": "rgrl", "flip": True}
    assert not ended
    assert text == "    seed: 1\n    stages:\n    - rgrl\n"
    show_end(tmp_path)
    assert entry(tmp_path)[:2] == (settings, True)


def test_a_run_does_not_depend_on_it(tmp_path):
    (tmp_path / "tb").write_text("a file in the way")
    show_start(tmp_path / "tb", "seed: 0\n", {})
    show_end(tmp_path / "tb")
