"""The corrected json has none of the faults that can be corrected, and all of the others."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from injected_scenes import OF_PICTURES, Scenes, write_text

from panoptic_segformer.data.validation import ALL_FAULTS, correct

FIXABLE = [name for name in OF_PICTURES if ALL_FAULTS[name].is_fixable]
OTHERS = ["picture-missing", "png-incomplete", "stuff-twice", "id-not-in-json", "size-of-png", "picture-turned"]


def test_fixable_faults_are_these():
    names = (
        "size-in-json segment-not-in-png segment-empty area-wrong bbox-wrong area-missing bbox-missing crowd-on-stuff"
    )
    assert set(FIXABLE) == set(names.split()) == {fault.name for fault in ALL_FAULTS.values() if fault.is_fixable}


def test_json_without_fault_stays_as_it_is(scenes):
    correction = correct(scenes.validate())
    assert correction.content == scenes.content
    assert correction.done == correction.left == {}


@settings(max_examples=20)
@given(names=st.lists(st.sampled_from([*FIXABLE, *OTHERS]), min_size=1, max_size=6))
def test_correction_leaves_only_what_it_says(names, sound_scenes, tmp_path_factory):
    scenes = Scenes(sound_scenes, tmp_path_factory.mktemp("several") / "scenes")
    for k, name in enumerate(names):
        OF_PICTURES[name](scenes, k)
    before = json.dumps(scenes.content)
    found = scenes.validate()
    correction = correct(found)
    assert json.dumps(found.document.content) == before
    assert correction.done == {name: names.count(name) for name in set(names) & set(FIXABLE)}
    assert correction.left == {name: names.count(name) for name in set(names) & set(OTHERS)}
    scenes.content = correction.content
    assert scenes.counts() == correction.left


@pytest.mark.parametrize("change", [lambda ids: ids * 0, lambda ids: ids + (ids > 0)])
def test_truth_is_kept_where_png_and_json_do_not_belong_together(scenes, change):
    """A png that is void, or of other ids, does not say that the segments are gone."""
    scenes.write_ids(1, change(scenes.ids(1)))
    correction = correct(scenes.validate())
    assert (correction.done, correction.left) == ({}, {"png-of-another-json": 1})
    assert correction.content == scenes.content


def test_what_was_damaged_has_its_old_value_again(scenes):
    sound = json.dumps(scenes.content)
    for k, name in enumerate(("size-in-json", "segment-empty", "area-wrong", "bbox-wrong", "crowd-on-stuff")):
        OF_PICTURES[name](scenes, k)
    assert json.loads(sound) == correct(scenes.validate()).content


def test_corrected_json_never_replaces_a_file(scenes, tmp_path):
    correction = correct(scenes.validate())
    text = scenes.json_path.read_text()
    with pytest.raises(ValueError, match="exists"):
        correction.write(scenes.json_path)
    assert scenes.json_path.read_text() == text
    with pytest.raises(ValueError, match="does not exist"):
        correction.write(tmp_path / "absent/new.json")
    correction.write(tmp_path / "new.json")
    assert json.loads((tmp_path / "new.json").read_text()) == scenes.content


@pytest.mark.parametrize("text", ["{", "[]"])
def test_json_that_is_none_is_not_corrected(text, scenes):
    write_text(scenes, text)
    with pytest.raises(ValueError, match="can't be corrected"):
        correct(scenes.validate())
