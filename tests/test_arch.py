"""The architecture as a value."""

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raynas.arch import Arch
from raynas.errors import OutOfSpaceError
from raynas.spaces import make_space

leaves = st.one_of(st.integers(-10, 10), st.text(max_size=5))
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
archs = st.builds(
    lambda id, spec: Arch.make("toy", id, **spec),
    st.text(max_size=8),
    st.dictionaries(st.sampled_from(["ops", "edges", "width"]), values),
)


@given(archs)
@settings(deadline=None)
def test_the_plain_form_is_json_and_leads_back(arch: Arch) -> None:
    config = json.loads(json.dumps(arch.to_config()))
    again = Arch.from_config(config)
    assert again == arch
    assert again.spec == arch.spec  # equality looks at the id alone
    assert again.to_config() == config


def test_lists_become_tuples_and_back() -> None:
    arch = Arch.make("toy", "1", edges=[[0, 1], [1, 2]], ops=["a", "b"])
    assert arch["edges"] == ((0, 1), (1, 2))
    assert arch.to_config() == {"space": "toy", "id": "1", "edges": [[0, 1], [1, 2]], "ops": ["a", "b"]}


def test_space_and_id_make_the_identity() -> None:
    arch = Arch.make("toy", "1", ops=["a"])
    assert arch == Arch.make("toy", "1", ops=["b"])  # another description of the same network
    assert len({arch, Arch.make("toy", "1", ops=["b"]), Arch.make("toy", "2", ops=["a"]), Arch.make("other", "1")}) == 3


def test_it_cannot_be_changed() -> None:
    arch = Arch.make("toy", "1", ops=["a"])
    with pytest.raises(AttributeError):
        arch.id = "2"  # type: ignore[misc]
    with pytest.raises(TypeError):
        arch["ops"] = "b"  # type: ignore[index]
    arch.to_config()["ops"].append("c")
    assert arch["ops"] == ("a",)


def test_it_travels_between_processes() -> None:
    arch = Arch.make("toy", "1", ops=["a"])
    for other in (pickle.loads(pickle.dumps(arch)), copy.deepcopy(arch)):
        assert other == arch
        assert other.spec == arch.spec
        assert hash(other) == hash(arch)


def test_a_field_that_is_missing_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="depth"):
        Arch.make("toy", "1", ops=["a"])["depth"]


@pytest.mark.parametrize(("config", "missing"), [({}, "id, space"), ({"space": "toy"}, "id"), ({"id": "1", "ops": []}, "space")])
def test_a_form_without_space_or_id_is_refused(config: dict[str, Any], missing: str) -> None:
    with pytest.raises(OutOfSpaceError, match=f"missing: {missing}"):
        Arch.from_config(config)


@pytest.mark.parametrize("name", ["nasbench101", "nasbench201", "darts"])
def test_a_space_reads_what_its_architectures_write(name: str) -> None:
    space = make_space(name)
    for seed in range(20):
        arch = space.sample(np.random.default_rng(seed))
        config = json.loads(json.dumps(arch.to_config()))
        assert space.from_config(config) == arch == Arch.from_config(config)
        assert space.from_config(config).spec == arch.spec
        assert space.contains(arch)
        assert not space.contains(Arch(arch.space, "another id", arch.spec))
        assert not space.contains(Arch("another space", arch.id, arch.spec))
