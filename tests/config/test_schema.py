import copy
import pickle

import pytest

from dist_rmd.config import sections
from dist_rmd.registry import available, lookup
from dist_rmd.stages._task import TaskConfig
from dist_rmd.stages.classifier import Classifier
from dist_rmd.stages.simsiam import SimSiamConfig
from dist_rmd.stages.teacher import Teacher, TeacherConfig


@pytest.fixture
def config():
    return sections.parse(None, ["seed=3", "task.lr=0.5", "teacher.seed=4", "teacher.model=vgg13"])


def test_a_section_is_found_by_its_class(config):
    assert config.section(TaskConfig).lr == 0.5
    with pytest.raises(AttributeError, match="no stage declares a section int"):
        config.section(int)


def test_a_stage_reads_its_sections_and_what_else_is_in_its_key(config):
    scope = Classifier.scope(config)
    assert scope.section(TaskConfig).lr == 0.5
    assert (scope.seed, scope.model, scope.augment) == (3, config.model, config.augment)


def test_what_a_stage_has_of_its_own_stands_for_what_the_run_has(config):
    scope = Teacher.scope(config)
    assert (scope.seed, scope.model.name, scope.section(TeacherConfig).seed) == (4, "vgg13", 4)
    assert Classifier.scope(config).model.name == "resnet18"


@pytest.mark.parametrize("name", ["noise", "data", "precision", "simsiam", "taks"])
def test_reading_what_is_not_in_its_key_is_an_error_that_says_so(config, name):
    with pytest.raises(AttributeError, match=rf"sections task, loss must not read `{name}` .* key would not change"):
        getattr(Classifier.scope(config), name)
    with pytest.raises(AttributeError, match=r"must not read section SimSiamConfig .* declare the section"):
        Classifier.scope(config).section(SimSiamConfig)


@pytest.mark.parametrize("name", available("stages"))
def test_configurations_and_scopes_are_copied_and_pickled(config, name):
    """Job scripts of a cluster carry them."""
    scope = lookup("stages", name).scope(config)
    for original in (config, scope):
        assert copy.deepcopy(original) == original
        assert pickle.loads(pickle.dumps(original)) == original
