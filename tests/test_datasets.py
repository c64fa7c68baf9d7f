"""The shipped data sets: their numbers, their shape, and that nothing can change them."""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from robustfit import datasets

REFERENCE = json.loads(
    (Path(__file__).parent / "reference" / "datasets_ols.json").read_text("utf-8")
)["sets"]

each_set = pytest.mark.parametrize("name", sorted(REFERENCE))


def test_table_files_and_reference_name_the_same_sets():
    shipped = {
        entry.name.removesuffix(".csv")
        for entry in files(datasets).iterdir()
        if entry.name.endswith(".csv")
    }
    assert set(datasets.names()) == shipped == set(REFERENCE)
    assert datasets.names() == tuple(sorted(datasets.names()))


@each_set
def test_shape_names_and_dtype(name):
    data, expected = datasets.load(name), REFERENCE[name]
    assert data.A.shape == (expected["n"], len(expected["names"]))
    assert data.b.shape == (expected["n"],)
    assert list(data.names) == expected["names"]
    assert data.response == expected["response"]
    assert data.A.dtype == data.b.dtype == np.float64
    assert np.isfinite(data.A).all()
    assert np.isfinite(data.b).all()
    assert (data.A[:, 0] == 1).all()


@each_set
def test_ols_equals_r(name):
    data = datasets.load(name)
    x = np.linalg.lstsq(data.A, data.b, rcond=None)[0]
    np.testing.assert_allclose(x, REFERENCE[name]["ols"], rtol=1e-8)


@each_set
def test_every_set_says_where_it_comes_from(name):
    data = datasets.load(name)
    assert all(len(text) > 20 for text in (data.description, data.source, data.note))
    assert any(f"({year})" in data.source for year in range(1960, 1990))


def test_nothing_can_be_changed():
    data = datasets.load("hbk")
    for array in (data.A, data.b):
        assert not array.flags.writeable
        # A view of a writable array could still be changed through its base.
        assert array.base is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.b = np.zeros(75)


def test_each_load_is_a_fresh_object():
    assert not np.shares_memory(datasets.load("hbk").A, datasets.load("hbk").A)


@pytest.mark.parametrize("name", ["Stackloss", "", "../losses", "stackloss.csv"])
def test_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ValueError, match="name=") as caught:
        datasets.load(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in datasets.names())
