from __future__ import annotations

import copy
import gc
import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core.assignment import assign_layers, assign_variables
from dlr_tf.core.groups import (
    LayerGroup,
    _even_cuts,
    check_groups,
    default_names,
    model_of,
    split_evenly,
    split_layers,
    split_layerwise,
)
from dlr_tf.core.model_tree import leaf_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer

LAYERS = keras.layers


def key(variable: Any) -> int:
    return id(variable)


def reload(model: keras.Model, directory: Path) -> keras.Model:
    model.save(directory / "model.keras")
    return keras.models.load_model(directory / "model.keras")


def chain(*sizes: int) -> keras.Model:
    """Dense layers a, b, c, ... of these widths on 4 inputs."""
    layers = [LAYERS.Dense(size, name=chr(97 + i)) for i, size in enumerate(sizes)]
    return keras.Sequential([keras.Input((4,)), *layers])


def branches() -> keras.Model:
    """`p` inside the nested model `bb`, and a layer `p` beside it."""
    inputs = keras.Input((4,))
    backbone = keras.Model(inputs, LAYERS.Dense(4, name="p")(inputs), name="bb")
    inputs = keras.Input((4,))
    return keras.Model(inputs, LAYERS.Dense(4, name="p")(backbone(inputs)))


@keras.saving.register_keras_serializable(package="dlr_tf_tests")
class Transposed(LAYERS.Layer):
    """Projects back with the weights of an embedding."""

    def __init__(self, embedding: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, inputs: Any) -> Any:
        return keras.ops.matmul(inputs, keras.ops.transpose(self.embedding.embeddings))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "embedding": keras.saving.serialize_keras_object(self.embedding),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Transposed:
        embedding = keras.saving.deserialize_keras_object(config.pop("embedding"))
        return cls(embedding, **config)


def tied() -> keras.Model:
    inputs = keras.Input((3,), dtype="int32")
    embedding = LAYERS.Embedding(5, 4, name="embedding")
    x = LAYERS.Dense(4, name="mid")(embedding(inputs))
    return keras.Model(inputs, Transposed(embedding, name="tied")(x))


@keras.saving.register_keras_serializable(package="dlr_tf_tests")
class FromArguments(keras.Model):
    """A Functional model that its own code builds again on reload, with names Keras gives."""

    def __init__(self, units: int = 3, **kwargs: Any) -> None:
        inputs = keras.Input((4,))
        x = LAYERS.Dense(units)(inputs)
        super().__init__(inputs, LAYERS.Dense(2, name="named")(LAYERS.Dense(units)(x)), **kwargs)
        self.units = units

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units, "name": self.name}


class OwnWeights(keras.Model):
    """Weights of its own beside its layers: before them, and in a nested model behind one."""

    def __init__(self, *, inner: bool = True) -> None:
        super().__init__()
        self.first = LAYERS.Dense(4)
        self.inner = OwnWeights(inner=False) if inner else None
        self.last = LAYERS.Dense(4)

    def build(self, input_shape: Any) -> None:
        self.token = self.add_weight((4,), name="token")
        for layer in (self.first, self.inner, self.last):
            if layer is not None:
                layer.build((None, 4))
        self.built = True

    def call(self, inputs: Any) -> Any:
        x = self.first(inputs + self.token)
        return self.last(self.inner(x) if self.inner else x)


def test_a_layer_group_is_a_frozen_record_that_keras_can_serialise():
    group = LayerGroup("body", ["a", "b/c"])
    assert group.layers == ("a", "b/c")
    assert group == LayerGroup("body", ("a", "b/c"))
    assert len({group, LayerGroup("body", ("a", "b/c"))}) == 1
    with pytest.raises(AttributeError, match="cannot assign to field 'name'"):
        group.name = "other"
    config = keras.saving.serialize_keras_object(group)
    assert config["registered_name"] == "dlr_tf>LayerGroup"
    assert keras.saving.deserialize_keras_object(config) == group


@pytest.mark.parametrize(
    ("name", "layers", "error", "message"),
    [
        ("", ("a",), ValueError, "Argument `name` should not be empty"),
        ("g", (), ValueError, "Group 'g' has no layers. Give it at least one"),
        ("g", ("a", "b", "a"), ValueError, r"Group 'g' names \['a'\] more than once"),
        ("g", "abc", TypeError, "`layers` should be a tuple of layer paths. Received: .*'abc'"),
        ("g", {"a"}, TypeError, "`layers` should be a tuple of layer paths"),
        ("g", ("a", 1), TypeError, r"should be strings. Received: name='g', layers=\('a', 1\)"),
        (1, ("a",), TypeError, "should be strings. Received: name=1"),
    ],
)
def test_a_wrong_layer_group_says_what_is_wrong(name, layers, error, message):
    with pytest.raises(error, match=message):
        LayerGroup(name, layers)


def test_groups_hold_the_layers_between_boundaries_before_and_after_reloading(sample, tmp_path):
    model = sample.model()
    groups = sample.groups(model)
    assert tuple(group.layers for group in groups) == sample.layers
    reloaded = reload(model, tmp_path)
    assert sample.groups(reloaded) == groups
    for split in (split_layerwise, lambda model: split_evenly(model, 3)):
        assert split(reloaded) == split(model)
    for left, right in zip(assign_variables(model, groups), assign_variables(reloaded, groups)):
        assert (left.key, left.group) == (right.key, right.group)
        np.testing.assert_array_equal(left.variable.numpy(), right.variable.numpy())


def test_every_variable_belongs_to_exactly_one_group(sample):
    model = sample.model()
    for groups in (sample.groups(model), split_evenly(model, 2), split_layerwise(model)):
        places = assign_variables(model, groups)
        assert sorted(key(place.variable) for place in places) == sorted(map(key, model.weights))
        assert len({place.key for place in places}) == len(places)
        assert {place.group for place in places} == set(range(len(groups)))
        numbers = [place.group for place in places]
        assert numbers == sorted(numbers)


def test_boundaries_may_be_layers_or_names_or_paths(samples):
    model = samples["nested"].model()
    expected = samples["nested"].groups(model)
    backbone = model.get_layer("backbone")
    names = ("early", "middle", "head")
    layers = [backbone.get_layer("body"), model.get_layer("top")]
    assert split_layers(model, layers, names) == expected
    assert split_layers(model, tuple(layers), list(names)) == expected
    assert split_layers(model, ["backbone/body", layers[1]], names) == expected
    by_name = split_layers(model, ["norm", "top"], names)  # stands in one place only
    assert by_name[0].layers == ("backbone/stem",)


def test_a_nested_model_as_boundary_stands_for_its_first_layer():
    inputs = keras.Input((4,))
    backbone = keras.Model(inputs, LAYERS.Dense(4, name="p")(inputs), name="bb")
    inputs = keras.Input((4,))
    x = backbone(LAYERS.Dense(4, name="before")(inputs))
    model = keras.Model(inputs, LAYERS.Dense(2, name="after")(x))
    for boundary in (backbone, "bb", "bb/p"):
        groups = split_layers(model, [boundary, "after"])
        assert [group.layers for group in groups] == [("before",), ("bb/p",), ("after",)]


def test_no_boundary_makes_one_group_and_default_names_end_in_head(samples):
    model = samples["sequential"].model()
    assert split_layers(model, []) == (LayerGroup("head", ("stem", "norm", "body", "top")),)
    assert [group.name for group in split_layers(model, ["body", "top"])] == [
        "group_0",
        "group_1",
        "head",
    ]
    assert default_names(1) == ("head",)


def test_the_order_is_the_models_own_whatever_the_names_say():
    # With a name from another layer's class, and names that sort the other way around.
    layers = [LAYERS.Dense(4, name=name) for name in ("z", "conv2d", "a")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    assert [unit.path for unit in leaf_layers(model)] == ["z", "conv2d", "a"]


def test_a_shared_layer_counts_once_where_it_first_stands(samples):
    model = samples["shared"].model()
    assert [unit.path for unit in leaf_layers(model)] == ["twice", "norm", "body", "top"]
    shared = LAYERS.Dense(4, name="shared")
    a = keras.Sequential([keras.Input((4,)), shared, LAYERS.Dense(4, name="own")], name="a")
    b = keras.Sequential([keras.Input((4,)), shared, LAYERS.Dense(4, name="own")], name="b")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, b(a(a(inputs))))
    assert [unit.path for unit in leaf_layers(model)] == ["a/shared", "a/own", "b/own"]


def test_a_composite_layer_is_never_split(samples):
    model = samples["attention"].model()
    attention = model.get_layer("attention")
    assert len(attention.weights) == 8
    groups = samples["attention"].groups(model)
    assert {p.group for p in assign_variables(model, groups) if "attention" in p.path} == {1}
    inner = attention._flatten_layers(include_self=False)
    for boundary in inner:
        assert not any(unit.layer is boundary for unit in leaf_layers(model))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: LAYERS.Bidirectional(LAYERS.LSTM(2)), (3, 4)),
        (lambda: LAYERS.RNN([LAYERS.LSTMCell(2), LAYERS.GRUCell(2)]), (3, 4)),
        (lambda: LAYERS.TimeDistributed(chain(2, 3)), (3, 4)),
        (lambda: LAYERS.Normalization(), (4,)),
        (lambda: LAYERS.SpectralNormalization(LAYERS.Dense(2)), (4,)),
        (lambda: LAYERS.SeparableConv2D(2, 3), (4, 4, 2)),
        (lambda: LAYERS.RandomFlip(), (4, 4, 2)),
    ],
    ids=["bidirectional", "cells", "model_inside", "normalization", "spectral", "conv", "random"],
)
def test_layers_that_hold_layers_are_one_unit_before_and_after_reloading(layer, shape, tmp_path):
    layers = [layer(), LAYERS.Flatten(name="flat"), LAYERS.Dense(2, name="top")]
    model = keras.Sequential([keras.Input(shape), *layers])
    paths = [layers[0].name, "flat", "top"]
    for candidate in (model, reload(model, tmp_path)):
        assert [unit.path for unit in leaf_layers(candidate)] == paths
        head = split_layers(candidate, ["top"]) if layers[0].weights else None
        assert head is None or head[0].layers == tuple(paths[:2])
        assert split_layerwise(candidate)[-1].layers[-1] == "top"


def test_a_models_own_weight_goes_with_the_layer_before_it():
    model = OwnWeights()
    model.build((None, 4))
    groups = split_layers(model, ["inner/last", "last"], ["early", "middle", "head"])
    by_path = {place.path: place.group for place in assign_variables(model, groups)}
    assert by_path["token"] == 0
    assert by_path["inner/token"] == 0  # stands before the inner model's layers
    assert by_path["first/kernel"] == by_path["inner/first/kernel"] == 0
    assert by_path["inner/last/kernel"] == 1
    groups = split_layers(model, ["inner", "last"], ["early", "middle", "head"])
    by_path = {place.path: place.group for place in assign_variables(model, groups)}
    assert (by_path["inner/token"], by_path["inner/first/bias"]) == (0, 1)
    assert len(by_path) == len(model.weights)


def test_variables_that_two_layers_share_belong_to_the_first(tmp_path):
    model = tied()
    for candidate in (model, reload(model, tmp_path)):
        groups = split_layerwise(candidate)
        assert [group.layers for group in groups] == [("embedding",), ("mid", "tied")]
        assert split_evenly(candidate, 2) == split_layers(candidate, ["mid"])
        assert len(assign_variables(candidate, groups)) == 3
        with pytest.raises(
            ValueError, match=r"'head' would have no weights of its own.*\['tied'\]"
        ):
            split_layers(candidate, ["tied"])


def test_layers_that_code_names_anew_on_reload_go_by_attribute_or_number(tmp_path):
    model = FromArguments()
    paths = [unit.path for unit in leaf_layers(model)]
    assert paths == ["1", "2", "named"]
    reloaded = reload(model, tmp_path)
    assert [layer.name for layer in reloaded.layers] != [layer.name for layer in model.layers]
    assert [unit.path for unit in leaf_layers(reloaded)] == paths
    names = [layer.name for layer in reloaded.layers]
    assert split_layers(reloaded, [names[2]]) == split_layers(model, [model.layers[2]])


def test_paths_of_attributes_in_lists_dictionaries_and_private_names():
    class Attributes(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self._private = LAYERS.Dense(4)
            self.table = {"b": LAYERS.Dense(4), "a": [LAYERS.Dense(4)]}
            self.alias = self._private
            self.pair = (LAYERS.Dense(4), LAYERS.Dense(4))

        def call(self, inputs: Any) -> Any:
            x = self.table["a"][0](self.table["b"](self._private(inputs)))
            return self.pair[1](self.pair[0](x))

    model = Attributes()
    model(np.zeros((1, 4), "float32"))
    model.compile("sgd", "mse", metrics=["mae"])  # Keras keeps what it adds in attributes too
    assert [unit.path for unit in leaf_layers(model)] == [
        "_private",
        "table/b",
        "table/a/0",
        "pair/0",
        "pair/1",
    ]


def test_split_layerwise_gives_every_layer_with_weights_a_group(sample):
    model = sample.model()
    groups = split_layerwise(model)
    weighted = [unit for unit in leaf_layers(model) if unit.layer.weights]
    assert [group.name for group in groups] == [unit.path for unit in weighted]
    assert [p for group in groups for p in group.layers] == [u.path for u in leaf_layers(model)]
    for group, unit in zip(groups, weighted):
        assert unit.path in group.layers


def test_a_layer_without_weights_goes_with_the_layer_before_it(samples):
    groups = split_layerwise(samples["attention"].model())
    assert [group.layers for group in groups] == [
        ("reshape", "embed"),
        ("norm",),
        ("attention", "flatten"),
        ("top",),
    ]


@pytest.mark.parametrize("n_groups", [1, 2, 3])
def test_split_evenly_cuts_between_layers_and_keeps_the_head_alone(sample, n_groups):
    model = sample.model()
    groups = split_evenly(model, n_groups)
    assert [group.name for group in groups] == list(default_names(n_groups))
    units = leaf_layers(model)
    assert [path for group in groups for path in group.layers] == [unit.path for unit in units]
    if n_groups > 1:
        last = [unit for unit in units if unit.layer.weights][-1]
        assert [p.variable for p in assign_variables(model, groups) if p.group == n_groups - 1] == (
            last.layer.weights
        )


def test_every_output_layer_with_weights_is_in_the_head():
    inputs = keras.Input((4,))
    x = LAYERS.Dense(4, name="a")(inputs)
    x = LAYERS.Dense(4, name="b")(x)
    early = LAYERS.Activation("softmax")(LAYERS.Dense(2, name="early")(x))
    x = LAYERS.Dense(4, name="c")(x)
    late = LAYERS.Dense(3, name="late")(x)
    model = keras.Model(inputs, [early, late])
    groups = split_evenly(model, 3)
    weighted = [[p for p in group.layers if "activation" not in p] for group in groups]
    assert weighted == [["a"], ["b", "c"], ["early", "late"]]
    with pytest.raises(ValueError, match="at most 4 groups"):
        split_evenly(model, 5)


def test_the_output_of_a_nested_model_is_the_head():
    inner_inputs = keras.Input((4,))
    x = LAYERS.Dense(4, name="a")(inner_inputs)
    inner = keras.Model(inner_inputs, LAYERS.Dense(2, name="out")(x), name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, LAYERS.Softmax()(inner(LAYERS.Dense(4, name="first")(inputs))))
    assert split_evenly(model, 2)[-1].layers[0] == "inner/out"


@pytest.mark.parametrize(
    "norm", [LAYERS.BatchNormalization, LAYERS.LayerNormalization, LAYERS.GroupNormalization]
)
def test_a_normalization_layer_stays_with_what_it_normalizes(norm):
    arguments = {"groups": 2} if norm is LAYERS.GroupNormalization else {}
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for number in range(4):
        x = LAYERS.Conv2D(4, 3, padding="same", name=f"conv_{number}")(x)
        x = norm(name=f"norm_{number}", **arguments)(x)
    x = LAYERS.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(x))
    for n_groups in range(2, 6):
        for group in split_evenly(model, n_groups)[:-1]:
            assert group.layers[0].startswith("conv_")
    with pytest.raises(ValueError, match="at most 5 groups"):
        split_evenly(model, 6)


def test_nothing_is_cut_between_two_branches_and_their_normalization():
    inputs = keras.Input((8, 8, 3))
    left, right = (LAYERS.Conv2D(4, 3, name=f"conv_{side}")(inputs) for side in ("l", "r"))
    left, right = (
        LAYERS.BatchNormalization(name=f"norm_{s}")(x) for s, x in (("l", left), ("r", right))
    )
    x = LAYERS.Add()([left, right])
    x = LAYERS.Conv2D(4, 3, name="late")(x)
    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(LAYERS.Flatten()(x)))
    first = split_evenly(model, 3)[0].layers
    assert {"conv_l", "conv_r", "norm_l", "norm_r"} <= set(first)


def test_an_output_that_is_normalized_brings_its_layer_into_the_head():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            LAYERS.Dense(4, name="a"),
            LAYERS.Dense(4, name="b"),
            LAYERS.BatchNormalization(name="norm"),
        ]
    )
    assert [group.layers for group in split_evenly(model, 2)] == [("a",), ("b", "norm")]


def test_a_subclassed_model_as_the_last_layer_is_the_head_with_its_last_layer(samples):
    inputs = keras.Input((4,))
    x = LAYERS.Dense(8, name="first")(inputs)
    model = keras.Model(inputs, samples["subclassed"].build()(x))
    body, head = split_evenly(model, 2)
    assert len(head.layers) == 1
    assert head.layers[0].endswith("/head")
    assert body.layers[0] == "first"


def test_an_output_that_two_branches_reach_is_found_once():
    inputs = keras.Input((4,))
    x = LAYERS.Dense(4, name="top")(LAYERS.Dense(4, name="body")(inputs))
    outputs = LAYERS.Add(name="add")([LAYERS.ReLU(name="a")(x), LAYERS.ReLU(name="b")(x)])
    head = split_evenly(keras.Model(inputs, outputs), 2)[-1]
    assert head.layers == ("top", "a", "b", "add")


def test_a_copy_of_groups_is_the_same_groups():
    model = chain(3, 2)
    groups = split_layers(model, ["b"])
    assert copy.copy(groups[0]) is groups[0]
    assert copy.deepcopy(groups) == groups
    assert model_of(copy.deepcopy(groups)) is model


def test_groups_remember_their_model_weakly_and_do_not_save_it(samples):
    model = samples["sequential"].model()
    for groups in (split_layers(model, ["top"]), split_evenly(model, 2), split_layerwise(model)):
        assert isinstance(groups, tuple)
        assert model_of(groups) is model
        assert groups == tuple(groups)
        assert model_of(copy.deepcopy(groups)) is model
        assert model_of(check_groups(groups)) is model
        assert model_of(groups[::-1]) is model
        assert model_of([*groups]) is model
        assert groups[-1].model is model
        hand_made = LayerGroup(groups[0].name, groups[0].layers)
        assert hand_made.model is None
        assert hand_made == groups[0] and hash(hand_made) == hash(groups[0])
        assert repr(hand_made) == repr(groups[0])
        assert model_of([hand_made, *groups[1:]]) is model
        other = split_layers(samples["sequential"].model(), ["top"])
        assert model_of([*groups[:-1], other[-1]]) is None
        loaded = pickle.loads(pickle.dumps(groups))
        assert loaded == groups
        assert model_of(loaded) is None
    groups = split_layers(model, ["top"])
    del model
    gc.collect()
    assert model_of(groups) is None


def test_split_evenly_counts_parameters_not_layers():
    model = chain(1, 2, 2, 13, 2, 1)
    assert [layer.count_params() for layer in model.layers] == [5, 4, 6, 39, 28, 3]
    assert [group.layers for group in split_evenly(model, 3)] == [
        ("a", "b", "c", "d"),
        ("e",),
        ("f",),
    ]
    assert [group.layers for group in split_evenly(model, 4)] == [
        ("a", "b", "c"),
        ("d",),
        ("e",),
        ("f",),
    ]


def test_even_cuts_have_the_least_sum_of_squares_of_all():
    rng = np.random.default_rng(0)
    for _ in range(60):
        sizes = rng.integers(0, 50, rng.integers(1, 9)).tolist()
        for n_parts in range(1, len(sizes) + 1):
            cuts = _even_cuts(sizes, n_parts)
            assert len(cuts) == n_parts - 1
            edges = [0, *cuts, len(sizes)]
            assert all(a < b for a, b in itertools.pairwise(edges))

            def cost(edges: Any, sizes: Any = sizes) -> int:
                return sum(sum(sizes[a:b]) ** 2 for a, b in itertools.pairwise(edges))

            best = min(
                cost([0, *middle, len(sizes)])
                for middle in itertools.combinations(range(1, len(sizes)), n_parts - 1)
            )
            assert cost(edges) == best


def test_numpy_integers_are_integers(samples):
    model = samples["sequential"].model()
    assert split_evenly(model, np.int64(2)) == split_evenly(model, 2)


@pytest.mark.parametrize(
    ("boundaries", "error", "message"),
    [
        (["topp"], ValueError, r"'topp' is not a layer of model .*Did you mean 'top'\?.*\['stem'"),
        (["xyzzy"], ValueError, r"'xyzzy' is not a layer of model '\w+'\. Layers of the model"),
        (
            ["top", "body"],
            ValueError,
            r"out of order: 'body' comes before 'top'.*\['body', 'top'\]",
        ),
        (
            ["stem"],
            ValueError,
            "'group_0' would have no weights.*no layers. Move or remove",
        ),
        (["body", "body"], ValueError, "'group_1' would have no weights.*there are no layers"),
        (["flat", "top"], ValueError, r"'group_1' would have no weights.*only \['flat'\]"),
        (
            ["end"],
            ValueError,
            r"'head' would have no weights.*only \['end'\].*boundaries=\['end'\]",
        ),
        ("top", TypeError, "`boundaries` should be a list of layers.*Received: boundaries='top'"),
        (5, TypeError, "`boundaries` should be a list of layers.*Received: boundaries=5"),
        (
            [2],
            TypeError,
            "boundary should be a layer, or its name or path. Received: 2 of type int",
        ),
        ([None], TypeError, "boundary should be a layer.* of type NoneType"),
    ],
)
def test_wrong_boundaries(boundaries, error, message):
    layers = [
        LAYERS.Dense(4, name="stem"),
        LAYERS.Dense(4, name="body"),
        LAYERS.Flatten(name="flat"),
        LAYERS.Dense(2, name="top"),
        LAYERS.Activation("softmax", name="end"),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers])
    with pytest.raises(error, match=message):
        split_layers(model, boundaries)


def test_boundaries_that_are_layers_of_something_else(samples):
    model = samples["sequential"].model()
    with pytest.raises(ValueError, match="Boundary 'loose' is a layer object that model"):
        split_layers(model, [LAYERS.Dense(2, name="loose")])
    with pytest.raises(ValueError, match="The model itself cannot be a boundary"):
        split_layers(model, [model])
    with pytest.raises(TypeError, match="`boundaries` should be a list of layers"):
        split_layers(model, model.layers[-1])
    other = samples["sequential"].model().get_layer("top")
    with pytest.raises(ValueError, match="Boundary 'top' is a layer object that model"):
        split_layers(model, [other])


def test_ambiguous_names():
    def block(name: str) -> keras.Model:
        layers = [LAYERS.Dense(4, name="dense"), LAYERS.Dense(4, name="project")]
        return keras.Sequential([keras.Input((4,)), *layers], name=name)

    model = keras.Sequential([keras.Input((4,)), block("a"), block("b"), LAYERS.Dense(2, name="c")])
    message = r"'project' is ambiguous: .* at \['a/project', 'b/project'\]. Give the path"
    with pytest.raises(ValueError, match=message):
        split_layers(model, ["project"])
    assert split_layers(model, ["b/project"])[1].layers == ("b/project", "c")
    # A path is exact, even where a layer elsewhere bears the name.
    assert split_layers(branches(), ["p"])[0].layers == ("bb/p",)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["a"], ValueError, r"1 boundaries make 2 groups, so 2 names.*Received: names=\['a'\]"),
        (["a", "b", "c"], ValueError, "2 names were expected"),
        (["a", "a"], ValueError, r"names should be unique. Received: names=\['a', 'a'\]"),
        (["a", ""], ValueError, "`name` should not be empty"),
        (["a", 1], TypeError, "should be strings"),
        ("ab", TypeError, "`names` should be a list of strings. Received: names='ab'"),
    ],
)
def test_wrong_names(names, error, message):
    with pytest.raises(error, match=message):
        split_layers(chain(2, 2), ["b"], names)


@pytest.mark.parametrize(
    ("n_groups", "error", "message"),
    [
        (0, ValueError, "`n_groups` should be at least 1. Received: n_groups=0"),
        (3, ValueError, "has 2 layers with weights and can be cut into at most 2 groups.*=3"),
        (2.0, TypeError, "`n_groups` should be an integer. Received: n_groups=2.0"),
        ("2", TypeError, "`n_groups` should be an integer"),
        (True, TypeError, "`n_groups` should be an integer"),
    ],
)
def test_wrong_numbers_of_groups(n_groups, error, message):
    with pytest.raises(error, match=message):
        split_evenly(chain(2, 2), n_groups)


SPLITS = {
    "split_layers": lambda model: split_layers(model, ["top"]),
    "split_evenly": lambda model: split_evenly(model, 2),
    "split_layerwise": split_layerwise,
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_models_that_cannot_be_split(split):
    with pytest.raises(TypeError, match=r"`model` should be a `keras.Model`. Received: model='m'"):
        split("m")
    unbuilt = keras.Sequential([LAYERS.Dense(2, name="top")])
    with pytest.raises(ValueError, match=r"is not built, .*Not built: \['sequential.*'top'\]"):
        split(unbuilt)
    weightless = keras.Sequential([keras.Input((4,)), LAYERS.Flatten(name="top")])
    with pytest.raises(ValueError, match="has no layer with weights: nothing to train"):
        split(weightless)

    class Partly(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.top, self.unused = LAYERS.Dense(2, name="top"), LAYERS.Dense(2, name="unused")

        def call(self, inputs: Any) -> Any:
            return self.top(inputs)

    partly = Partly()
    with pytest.warns(UserWarning, match="looks like it has unbuilt state"):
        partly(np.zeros((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"is not built.*Not built: \['unused'\]"):
        split(partly)


def test_the_path_of_a_nested_model_stands_for_all_its_layers(samples):
    model = samples["nested"].model()
    groups = (LayerGroup("backbone", ("backbone",)), LayerGroup("head", ("body", "top")))
    found = {unit.path: group for unit, group in assign_layers(model, groups)}
    assert found == {
        "backbone/stem": 0,
        "backbone/norm": 0,
        "backbone/body": 0,
        "body": 1,
        "top": 1,
    }
    assert len(assign_variables(model, groups)) == len(model.weights)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            (LayerGroup("g", ("stem", "tpo")), LayerGroup("h", ("body", "wat"))),
            r"'g' names the layer 'tpo', which the model does not have\. Did you mean 'top'\?"
            r".*not found: \['tpo', 'wat'\]\. Layers of the model: \['body', 'norm', 'stem', ",
        ),
        (
            (LayerGroup("g", ("stem",)), LayerGroup("h", ("top", "stem"))),
            r"'stem' is claimed twice, by the groups \['g', 'h'\]",
        ),
        ((LayerGroup("g", ("stem", "top")), LayerGroup("h", ("body", "x" * 9))), "'x{9}', which"),
    ],
)
def test_groups_that_do_not_fit_the_model(samples, groups, message):
    model = samples["sequential"].model()
    with pytest.raises(ValueError, match=message):
        assign_variables(model, groups)
    with pytest.raises(ValueError, match=message):
        assign_layers(model, groups)


def test_a_nested_model_and_a_layer_in_it_claim_twice(samples):
    model = samples["nested"].model()
    groups = (LayerGroup("g", ("backbone",)), LayerGroup("h", ("backbone/stem", "top")))
    with pytest.raises(
        ValueError,
        match=r"'backbone/stem' is claimed twice, .*\['h', 'g'\]|"
        r"'backbone/stem' is claimed twice, .*\['g', 'h'\]",
    ):
        assign_variables(model, groups)


def test_a_group_without_variables_is_an_error_but_a_frozen_one_is_not(samples):
    model = samples["attention"].model()
    groups = (LayerGroup("flat", ("flatten",)), LayerGroup("head", ("top",)))
    with pytest.raises(ValueError, match=r"'flat' claims no variable .*\['flatten'\] have no weig"):
        assign_variables(model, groups)
    model.get_layer("embed").trainable = False
    groups = (LayerGroup("frozen", ("embed",)), LayerGroup("head", ("top",)))
    assert {place.group for place in assign_variables(model, groups)} == {0, 1}


def test_long_lists_are_cut_short():
    model = keras.Sequential([keras.Input((4,)), *(LAYERS.Dense(4) for _ in range(30))])
    with pytest.raises(ValueError, match="and 20 more") as error:
        split_layers(model, ["nothing"])
    assert len(str(error.value)) < 600


def test_parameters_are_counted_where_they_stand_first():
    model = tied()
    groups = split_evenly(model, 2)
    sizes = [0, 0]
    for place in assign_variables(model, groups):
        sizes[place.group] += math.prod(place.variable.shape)
    assert sizes == [20, 20]


class Block(keras.layers.Layer):
    """Holds a layer that it never calls."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.called, self.other = keras.layers.Dense(3), keras.layers.Dense(3)

    def build(self, shape: Any) -> None:
        self.called.build(shape)

    def call(self, inputs: Any) -> Any:
        return self.called(inputs)


def test_a_layer_without_variables_inside_a_built_layer_may_stay_unbuilt() -> None:
    words = keras.layers.TextVectorization(max_tokens=9, output_sequence_length=4)
    words.adapt(["a b", "c d"])
    inputs = keras.Input((), dtype="string")
    x = keras.layers.Embedding(9, 3, name="embed")(words(inputs))
    x = Block(name="block")(keras.layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    groups = split_layers(model, ["block", "head"])
    optimizer = MultiGroupOptimizer(groups, [0.1, 0.2, 0.3])
    optimizer.bind(model)
    model.compile(optimizer, "mse", run_eagerly=True)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.fit(tf.constant(["a b", "d c"]), np.ones((2, 2), "float32"), verbose=0)
    assert len(before) == 5
    assert all(
        np.any(variable.numpy() != known)
        for variable, known in zip(model.trainable_variables, before, strict=True)
    )
    unbuilt = keras.Sequential([keras.layers.Dense(2), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="is not built"):
        split_evenly(unbuilt, 2)
