"""Layers that hold layers, opened where the user asks for it: a BERT of the user's own code."""

from __future__ import annotations

import pickle
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._keras import direct_layers
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers, split_layerwise
from dlr_tf.core.learning_rates import layerwise_rates
from dlr_tf.core.model_tree import EVERYTHING, leaf_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.freezing import freeze_batch_norm, freeze_to
from tests.core.core_helpers import assert_same, values

LAYERS = keras.layers
register = keras.saving.register_keras_serializable(package="dlr_tf_tests")
WIDTH, LENGTH, WORDS = 4, 3, 7


@register
class BertEmbeddings(LAYERS.Layer):
    """Word and segment embeddings, a position table of its own, and their normalization."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.word_embeddings = LAYERS.Embedding(WORDS, WIDTH)
        self.segment_embeddings = LAYERS.Embedding(2, WIDTH)
        self.LayerNorm = LAYERS.LayerNormalization()

    def build(self, input_shape: Any) -> None:
        self.position = self.add_weight((LENGTH, WIDTH), "random_normal", name="position")
        self.word_embeddings.build(input_shape)
        self.segment_embeddings.build(input_shape)
        self.LayerNorm.build((*input_shape, WIDTH))
        self.built = True

    def call(self, ids: Any) -> Any:
        segments = self.segment_embeddings(keras.ops.zeros_like(ids))
        return self.LayerNorm(self.word_embeddings(ids) + segments + self.position)


@register
class BertLayer(LAYERS.Layer):
    """Attention and a network of two dense layers; all names are those that Keras gives."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention = LAYERS.MultiHeadAttention(2, 2)
        self.norm = LAYERS.BatchNormalization()
        self.dense = [LAYERS.Dense(5, "relu"), LAYERS.Dense(WIDTH)]

    def build(self, input_shape: Any) -> None:
        self.attention.build(input_shape, input_shape)
        self.norm.build(input_shape)
        self.dense[0].build(input_shape)
        self.dense[1].build((*input_shape[:-1], 5))
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = self.norm(x + self.attention(x, x), training=training)
        return x + self.dense[1](self.dense[0](x))


@register
class BertEncoder(LAYERS.Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = [BertLayer() for _ in range(2)]

    def build(self, input_shape: Any) -> None:
        for layer in self.layer:
            layer.build(input_shape)
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        for layer in self.layer:
            x = layer(x, training=training)
        return x


@register
class BertMainLayer(LAYERS.Layer):
    """What HuggingFace calls the main layer: it holds all but the head."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.embeddings = BertEmbeddings()
        self.encoder = BertEncoder()
        self.pooler = LAYERS.Dense(WIDTH, "tanh")

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight((WIDTH,), "ones", name="scale")
        self.embeddings.build(input_shape)
        self.encoder.build((*input_shape, WIDTH))
        self.pooler.build((input_shape[0], WIDTH))
        self.built = True

    def call(self, ids: Any, training: bool | None = None) -> Any:
        x = self.encoder(self.embeddings(ids) * self.scale, training=training)
        return self.pooler(x[:, 0])


@register
class BertForClassification(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bert = BertMainLayer()
        self.classifier = LAYERS.Dense(2)

    def build(self, input_shape: Any) -> None:
        self.bert.build(input_shape)
        self.classifier.build((input_shape[0], WIDTH))
        self.built = True

    def call(self, ids: Any, training: bool | None = None) -> Any:
        return self.classifier(self.bert(ids, training=training))


def subclassed() -> keras.Model:
    model = BertForClassification()
    model.build((None, LENGTH))
    return model


def sequential() -> keras.Model:
    inputs = keras.Input((LENGTH,), dtype="int32")
    return keras.Sequential(
        [inputs, BertMainLayer(name="bert"), LAYERS.Dense(2, name="classifier")]
    )


@pytest.fixture(params=[subclassed, sequential])
def bert(request: pytest.FixtureRequest) -> keras.Model:
    keras.utils.set_random_seed(0)
    return request.param()


def data(n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, WORDS, (n, LENGTH)), rng.normal(size=(n, 2)).astype("float32")


OPEN = ["bert", "bert/encoder"]
PARTS = ("bert/embeddings", "bert/encoder/layer/0", "bert/encoder/layer/1", "bert/pooler")


def groups_of(model: keras.Model) -> tuple[LayerGroup, ...]:
    return split_layerwise(model, expand=OPEN)


def compiled(model: keras.Model, groups: Any = None, **arguments: Any) -> keras.Model:
    groups = groups_of(model) if groups is None else groups
    optimizer = MultiGroupOptimizer(groups, layerwise_rates(groups, 1e-1, 0.8), **arguments)
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


def train(model: keras.Model, steps: int = 2) -> None:
    for _ in range(steps):
        model.train_on_batch(*data())


def learning(model: keras.Model, groups: Any) -> dict[str, int]:
    """The group of each variable that is trainable now, by its path."""
    return {
        entry.path: entry.group
        for entry in assign_variables(model, groups)
        if any(entry.variable is v for v in model.trainable_variables)
    }


# --- Splitting -----------------------------------------------------------------------------------


def test_a_composite_layer_is_one_leaf_unless_it_is_opened(bert):
    assert [leaf.path for leaf in leaf_layers(bert)] == ["bert", "classifier"]
    assert [group.layers for group in split_layerwise(bert)] == [("bert",), ("classifier",)]


def test_expand_opens_one_level(bert):
    assert [g.layers for g in split_layerwise(bert, expand=["bert"])] == [
        ("bert/embeddings",),
        ("bert/encoder",),
        ("bert/pooler",),
        ("classifier",),
    ]


@pytest.mark.parametrize(
    "expand",
    [
        ["bert", "bert/encoder"],
        ["bert/encoder", "bert"],
        ("bert/encoder",),
        ["encoder", "bert"],
        lambda model: [model.get_layer("bert").encoder] if model.name == "x" else OPEN,
    ],
)
def test_what_is_named_is_opened_with_all_that_contains_it_in_any_order(bert, expand):
    expand = expand(bert) if callable(expand) else expand
    layers = [(path,) for path in (*PARTS, "classifier")]
    assert [group.layers for group in split_layerwise(bert, expand=expand)] == layers
    body = split_evenly(bert, 3, expand=expand)
    assert [path for group in body for path in group.layers] == [*PARTS, "classifier"]
    assert split_layers(bert, ["pooler"], expand=expand)[0].layers == PARTS[:3]


def test_a_layer_object_can_be_expanded():
    model = subclassed()
    assert split_layerwise(model, expand=[model.bert.encoder]) == groups_of(model)
    assert split_evenly(model, 2, expand=[model.bert])[1].layers == ("classifier",)


def test_a_boundary_inside_composite_layers_opens_them():
    model = subclassed()
    expected = split_layers(model, ["bert/encoder/layer/1"], expand=OPEN)
    assert [group.layers for group in expected] == [PARTS[:2], (*PARTS[2:], "classifier")]
    for boundary in ("bert/encoder/layer/1", model.bert.encoder.layer[1]):
        assert split_layers(model, [boundary]) == expected
    # A boundary that is a composite layer itself stays whole.
    assert split_layers(model, ["encoder"])[1].layers == (
        "bert/encoder",
        "bert/pooler",
        "classifier",
    )
    # Of an opened layer, it means its first layer.
    assert split_layers(model, ["bert/encoder"], expand=OPEN)[1].layers[0] == PARTS[1]
    deep = split_layers(model, [model.bert.encoder.layer[0].dense[1], "pooler"])
    assert deep[0].layers == (
        "bert/embeddings",
        "bert/encoder/layer/0/attention",
        "bert/encoder/layer/0/norm",
        "bert/encoder/layer/0/dense/0",
    )
    assert deep[1].layers == ("bert/encoder/layer/0/dense/1", "bert/encoder/layer/1")


def test_embeddings_and_their_normalization_are_one_group(bert):
    groups = split_layerwise(bert, expand=["bert/embeddings"])
    assert groups[0].layers == (
        "bert/embeddings/word_embeddings",
        "bert/embeddings/segment_embeddings",
        "bert/embeddings/LayerNorm",
    )
    assert groups[0].name == "bert/embeddings/word_embeddings"
    assert len(groups) == 4
    assert split_evenly(bert, 4, expand=["bert/embeddings"])[0] == LayerGroup(
        "group_0", groups[0].layers
    )
    with pytest.raises(ValueError, match="at most 4 groups: .*embeddings at the start stay togeth"):
        split_evenly(bert, 5, expand=["bert/embeddings"])


def test_a_normalization_inside_the_next_block_is_not_of_the_embeddings():
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = LAYERS.Embedding(WORDS, WIDTH, name="embedding")(inputs)

    class PreNorm(LAYERS.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.norm, self.dense = LAYERS.LayerNormalization(), LAYERS.Dense(WIDTH)

        def build(self, shape: Any) -> None:
            self.norm.build(shape)
            self.dense.build(shape)
            self.built = True

        def call(self, x: Any) -> Any:
            return x + self.dense(self.norm(x))

    model = keras.Model(inputs, LAYERS.Dense(2, name="top")(PreNorm(name="block")(x)))
    groups = split_layerwise(model, expand=["block"])
    assert [g.layers for g in groups] == [
        ("embedding",),
        ("block/norm",),
        ("block/dense",),
        ("top",),
    ]


def test_embeddings_that_are_not_at_the_start_are_layers_as_others():
    ids, numbers = keras.Input((LENGTH,), dtype="int32"), keras.Input((LENGTH, WIDTH))
    x = LAYERS.Dense(WIDTH, name="dense")(numbers)
    a, b = (LAYERS.Embedding(WORDS, WIDTH, name=name)(ids) for name in "ab")
    x = LAYERS.Add(name="add")([x, a, b])
    model = keras.Model([numbers, ids], LAYERS.Dense(2, name="top")(x))
    assert [g.name for g in split_layerwise(model)] == ["dense", "a", "b", "top"]


def test_tied_embeddings_count_where_they_stand_first():
    """The logits come from the embedding, which is no head."""

    class TiedEmbedding(LAYERS.Layer):
        def build(self, shape: Any) -> None:
            self.table = self.add_weight((WORDS, WIDTH), "random_normal")
            self.built = True

        def call(self, inputs: Any, reverse: bool = False) -> Any:
            if reverse:
                return keras.ops.matmul(inputs, keras.ops.transpose(self.table))
            return keras.ops.take(self.table, inputs, axis=0)

    inputs = keras.Input((LENGTH,), dtype="int32")
    embedding = TiedEmbedding(name="embedding")
    x = LAYERS.Dense(WIDTH, name="b")(LAYERS.Dense(WIDTH, name="a")(embedding(inputs)))
    model = keras.Model(inputs, embedding(x, reverse=True))
    assert [group.layers for group in split_evenly(model, 3)] == [("embedding",), ("a",), ("b",)]


def test_an_opened_layer_that_gives_the_output_brings_its_last_layer_into_the_head():
    inputs = keras.Input((LENGTH,), dtype="int32")
    model = keras.Model(inputs, LAYERS.ReLU(name="relu")(BertMainLayer(name="bert")(inputs)))
    groups = split_evenly(model, 3, expand=OPEN)
    assert groups[-1].layers == ("bert/pooler", "relu")


def test_a_shared_subclassed_model_as_the_output_is_not_looked_for_among_its_layers():
    class Whole(keras.Model):
        def __init__(self, layer: Any, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.layer = layer

        def call(self, x: Any) -> Any:
            return self.layer(x)

    inputs = keras.Input((WIDTH,))
    dense = LAYERS.Dense(WIDTH, name="dense")
    x = LAYERS.Dense(WIDTH, name="mid")(dense(inputs))
    model = keras.Model(inputs, Whole(dense, name="again")(x))
    assert [group.layers for group in split_evenly(model, 2)] == [("dense",), ("mid",)]


@pytest.mark.parametrize(
    ("expand", "error", "message"),
    [
        ("bert", TypeError, "`expand` should be a list of layers.*Received: expand='bert'"),
        (5, TypeError, "`expand` should be a list of layers, layer names or paths"),
        ([5], TypeError, "A layer to expand should be a layer, or its name or path. Received: 5"),
        (["brt"], ValueError, "'brt' is not a layer of model .*Did you mean 'bert'?"),
        (["bert/encodr"], ValueError, "Layer to expand .*Did you mean 'bert/encoder'?"),
        (["classifier"], ValueError, r"'classifier' cannot be expanded: .*expand=\['classifier'\]"),
        (["dense/0"], ValueError, "'dense/0' is not a layer of model"),
        (["0"], ValueError, r"'0' is ambiguous: .*'bert/encoder/layer/0', .*Give the path"),
    ],
)
def test_what_cannot_be_expanded(expand, error, message):
    model = subclassed()
    for split in (
        lambda: split_layers(model, ["classifier"], expand=expand),
        lambda: split_evenly(model, 2, expand=expand),
        lambda: split_layerwise(model, expand=expand),
    ):
        with pytest.raises(error, match=message):
            split()


def test_the_model_itself_cannot_be_expanded():
    model = subclassed()
    with pytest.raises(ValueError, match="The model itself cannot be a layer to expand"):
        split_layerwise(model, expand=[model])


def test_a_nested_model_is_open_already(samples):
    model = samples["nested"].model()
    assert split_layerwise(model, expand=["backbone"]) == split_layerwise(model)


def test_a_boundary_that_two_composite_layers_hold_is_ambiguous():
    paths = r"\['bert/encoder/layer/0/norm', 'bert/encoder/layer/1/norm'\]"
    with pytest.raises(ValueError, match=f"'norm' is ambiguous: 2 layers .*{paths}"):
        split_layers(subclassed(), ["norm"])


@pytest.mark.parametrize(
    ("layer", "shape", "inside"),
    [
        (lambda: LAYERS.Bidirectional(LAYERS.LSTM(2)), (3, 4), ["forward_layer", "backward_layer"]),
        (lambda: LAYERS.RNN([LAYERS.LSTMCell(2), LAYERS.GRUCell(2)]), (3, 4), ["cell"]),
        (lambda: LAYERS.SpectralNormalization(LAYERS.Dense(2)), (4,), ["layer"]),
        (
            lambda: LAYERS.TimeDistributed(
                keras.Sequential([keras.Input((4,)), LAYERS.Dense(2, name="inner")])
            ),
            (3, 4),
            ["layer/inner"],
        ),
    ],
    ids=["bidirectional", "cells", "spectral", "model_inside"],
)
def test_layers_of_keras_open_to_the_same_paths_before_and_after_reloading(
    layer, shape, inside, tmp_path
):
    layers = [layer(), LAYERS.Flatten(), LAYERS.Dense(2, name="top")]
    layers[0].name = "composite"
    model = keras.Sequential([keras.Input(shape), *layers])
    groups = split_layerwise(model, expand=["composite"])
    assert [g.name for g in groups] == [*(f"composite/{step}" for step in inside), "top"]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert split_layerwise(loaded, expand=["composite"]) == groups
    assert len(assign_variables(loaded, groups)) == len(loaded.weights)


# --- Groups made by hand, saved, loaded ----------------------------------------------------------


def test_every_variable_has_one_group_and_own_weights_that_of_the_layer_before(bert):
    expand = [*OPEN, "bert/embeddings", "bert/encoder/layer/1"]
    groups = split_layerwise(bert, expand=expand)
    entries = assign_variables(bert, groups)
    assert sorted(map(id, bert.weights)) == sorted(id(entry.variable) for entry in entries)
    group_of = {entry.path: entry.group for entry in entries}
    assert group_of["bert/scale"] == group_of["bert/embeddings/position"] == 0
    assert group_of["bert/encoder/layer/0/norm/gamma"] == 1
    assert groups[2].layers == ("bert/encoder/layer/1/attention",)
    assert group_of["bert/encoder/layer/1/attention/_query_dense/kernel"] == 2


def test_own_weights_of_an_opened_layer_that_is_not_the_first(bert):
    class Tail(LAYERS.Layer):
        def __init__(self) -> None:
            super().__init__(name="tail")
            self.dense = LAYERS.Dense(2)

        def build(self, shape: Any) -> None:
            self.token = self.add_weight((), name="token")
            self.dense.build(shape)
            self.built = True

        def call(self, x: Any) -> Any:
            return self.dense(x) + self.token

    inputs = keras.Input((3,))
    model = keras.Model(inputs, Tail()(LAYERS.Dense(2, name="first")(inputs)))
    groups = split_layerwise(model, expand=["tail"])
    assert {e.path: e.group for e in assign_variables(model, groups)} == {
        "first/kernel": 0,
        "first/bias": 0,
        "tail/token": 0,
        "tail/dense/kernel": 1,
        "tail/dense/bias": 1,
    }


def test_numbers_of_other_layers_do_not_depend_on_what_is_opened(bert):
    whole = [LayerGroup("bert", ("bert",)), LayerGroup("head", ("classifier",))]
    keys = {entry.path: entry.key for entry in assign_variables(bert, whole)}
    opened = {entry.path: entry.key for entry in assign_variables(bert, groups_of(bert))}
    assert keys.keys() == opened.keys()
    assert keys["classifier/kernel"] == opened["classifier/kernel"] == "1.0"
    assert opened["bert/scale"] == "0-0.0"
    assert opened["bert/encoder/layer/1/norm/gamma"].startswith("0-2-1.")


def test_groups_by_hand_pickled_and_from_a_configuration_open_what_their_paths_go_through(bert):
    groups = groups_of(bert)
    by_hand = [
        LayerGroup("body", ("bert/embeddings", "bert/encoder")),
        LayerGroup("head", ("bert/pooler", "classifier")),
    ]
    assert {e.group for e in assign_variables(bert, by_hand) if "encoder" in e.path} == {0}
    expected = [tuple(entry) for entry in assign_variables(bert, groups)]
    config = MultiGroupOptimizer(groups, 0.1).get_config()
    for other in (
        pickle.loads(pickle.dumps(groups)),
        [LayerGroup(g.name, g.layers) for g in groups],
        MultiGroupOptimizer.from_config(config).groups,
    ):
        assert [tuple(entry) for entry in assign_variables(bert, other)] == expected
    with pytest.raises(ValueError, match="'bert/encoder/layer/0' is claimed twice"):
        assign_variables(bert, [*by_hand, LayerGroup("x", ("bert/encoder/layer/0",))])
    with pytest.raises(ValueError, match="'bert/encoder/layer/7', which the model does not have"):
        assign_variables(bert, [LayerGroup("x", ("bert/encoder/layer/7",))])


def test_what_no_group_claims_is_named_by_its_path_inside():
    model = subclassed()
    groups = [LayerGroup("a", PARTS[:1]), LayerGroup("head", ("bert/pooler", "classifier"))]
    optimizer = MultiGroupOptimizer(groups, 0.1)
    optimizer.bind(model)
    with pytest.raises(ValueError, match=r"no group claims: \['bert/encoder'\]"):
        optimizer.build(model.trainable_variables)


@pytest.mark.parametrize("kind", [pytest.param(subclassed, marks=pytest.mark.slow), sequential])
@pytest.mark.parametrize(
    "how",
    ["keras", *(pytest.param(how, marks=pytest.mark.slow) for how in ("weights", "checkpoint"))],
)
def test_training_goes_on_bit_for_bit(kind, how, tmp_path):
    keras.utils.set_random_seed(1)
    model = compiled(kind(), use_ema=True)
    train(model)
    if how == "keras":
        model.save(tmp_path / "model.keras")
        other = keras.models.load_model(tmp_path / "model.keras")
        other.run_eagerly = True
        assert other.optimizer.groups == model.optimizer.groups
    else:
        other = kind()
        compiled(other, groups_of(other)[::-1], use_ema=True)  # the order of groups may differ
    if how == "weights":
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
    if how == "checkpoint":
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "c")
        restored = tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
        restored.assert_consumed()
        other.optimizer.build(other.trainable_variables)
    assert (
        other.optimizer.learning_rates
        == (model.optimizer.learning_rates[:: 1 if how == "keras" else -1])
    )
    train(model)
    train(other)
    assert_same(values(model.weights), values(other.weights))
    assert int(other.optimizer.iterations) == 4


class Pair(LAYERS.Layer):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = [LAYERS.Dense(3), LAYERS.Dense(3)]

    def build(self, shape: Any) -> None:
        for dense in self.dense:
            dense.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.dense[1](self.dense[0](x))


def two_pairs() -> keras.Model:
    inputs = keras.Input((3,))
    return keras.Model(inputs, LAYERS.Dense(3, name="top")(Pair(name="b")(Pair(name="a")(inputs))))


@pytest.mark.parametrize("how", ["weights", "checkpoint"])
def test_state_of_one_opened_layer_never_lands_in_another(how, tmp_path):
    """Both have five layers with weights, and groups of the same numbers of layers."""
    model, other = two_pairs(), two_pairs()
    first = MultiGroupOptimizer(split_layers(model, ["b"], expand=["a"]), 0.1)
    second = MultiGroupOptimizer(split_layers(other, ["b/dense/1"]), 0.1)
    for each, optimizer in ((model, first), (other, second)):
        each.compile(optimizer, "mse", run_eagerly=True)
    model.train_on_batch(np.ones((2, 3)), np.ones((2, 3)))
    second.build(other.trainable_variables)
    before = values(second.variables)
    with pytest.raises(ValueError, match="groups"):
        if how == "weights":
            model.save_weights(tmp_path / "model.weights.h5")
            other.load_weights(tmp_path / "model.weights.h5")
        else:
            path = tf.train.Checkpoint(optimizer=first).save(tmp_path / "c")
            tf.train.Checkpoint(optimizer=second).restore(path)
    assert_same(values(second.variables), before)


def test_the_summary_shows_opened_layers(bert):
    optimizer = MultiGroupOptimizer(groups_of(bert), 0.1)
    lines: list[str] = []
    optimizer.summary(print_fn=lines.append)
    assert "bert/encoder/layer/1 (1)" in "\n".join(lines)


# --- Freezing ------------------------------------------------------------------------------------


def test_freezing_reaches_exactly_the_groups_of_opened_layers(bert):
    groups = split_layerwise(bert, expand=[*OPEN, "bert/embeddings", "bert/encoder/layer/1"])
    everything = learning(bert, groups)
    assert len(everything) == len(bert.trainable_variables)
    for first in (*range(len(groups) + 1), 2, 0, -1, 1):
        freeze_to(bert, groups, first)
        at = first % len(groups) if first < 0 else first
        now = learning(bert, groups)
        assert now == {p: g for p, g in everything.items() if g >= at}
        composite = next(layer for layer in bert.layers if isinstance(layer, BertMainLayer))
        for layer, prefix in ((composite, "bert/"), (composite.encoder, "bert/encoder/")):
            inside = [path for path in now if path.startswith(prefix)]
            assert len(layer.trainable_variables) == len(inside)


def test_a_frozen_batch_norm_inside_an_opened_layer_keeps_its_statistics():
    keras.utils.set_random_seed(0)
    model = compiled(subclassed())
    groups = groups_of(model)
    first, second = (layer.norm for layer in model.bert.encoder.layer)
    freeze_to(model, groups, 2)
    before = values([*first.weights, *second.weights])
    train(model)
    after = values([*first.weights, *second.weights])
    assert_same(before[:4], after[:4])
    assert all(np.any(a != b) for a, b in zip(before[4:], after[4:]))
    freeze_batch_norm(model)
    freeze_to(model, groups, 0)
    before = values([*first.weights, *second.weights])
    train(model)
    assert_same(before, values([*first.weights, *second.weights]))


def test_groups_that_are_thawed_in_training_take_fresh_state_and_frozen_ones_do_not_move():
    keras.utils.set_random_seed(0)
    model = compiled(subclassed())
    groups = groups_of(model)
    freeze_to(model, groups, -1)
    for first in (4, 2, 0):
        freeze_to(model, groups, first)
        before = {e.path: np.array(e.variable) for e in assign_variables(model, groups)}
        train(model, 1)
        moved = {
            e.group
            for e in assign_variables(model, groups)
            if np.any(np.array(e.variable) != before[e.path])
        }
        assert moved == set(range(first, 5))


def test_groups_that_open_other_layers_than_the_call_before(bert):
    whole, parts = split_layerwise(bert), groups_of(bert)
    freeze_to(bert, whole, 1)
    freeze_to(bert, parts, 3)
    assert set(learning(bert, parts).values()) == {3, 4}
    freeze_to(bert, parts, 0)
    assert set(learning(bert, parts).values()) == {0, 1, 2, 3, 4}
    freeze_to(bert, parts, 2)
    freeze_to(bert, whole, 0)
    assert len(bert.trainable_variables) == len(learning(bert, whole)) == 2 * 14 + 10
    freeze_to(bert, whole, 1)
    freeze_to(bert, parts, 0)
    assert len(bert.trainable_variables) == 2 * 14 + 10


# --- What tasks of KerasHub do ------------------------------------------------------------------


class Unbuilt(LAYERS.Layer):
    """A preprocessor: it is called before the model, and never by it."""

    def build(self, shape: Any) -> None:
        raise AssertionError("not part of the model")


class Task(keras.Model):
    """Keeps its backbone under a private name, which a property shows."""

    def __init__(self, **kwargs: Any) -> None:
        inputs = keras.Input((3,))
        backbone = keras.Model(inputs, LAYERS.Dense(3)(LAYERS.Dense(3, name="named")(inputs)))
        head = LAYERS.Dense(2)
        super().__init__(inputs, head(backbone(inputs)), **kwargs)
        self._backbone, self.head, self.preprocessor = backbone, head, Unbuilt()

    @property
    def backbone(self) -> keras.Model:
        return self._backbone


def test_a_backbone_that_a_property_shows_has_its_name_in_paths():
    model = Task()
    groups = split_layers(model, ["head"])
    assert [group.layers for group in groups] == [("backbone/named", "backbone/2"), ("head",)]
    assert split_layers(model, ["backbone/2"])[1].layers == ("backbone/2", "head")


def test_a_layer_that_is_not_built_counts_where_the_model_may_call_it():
    class Calls(Task):
        def call(self, inputs: Any) -> Any:
            return super().call(inputs)

    if not any(isinstance(layer, Unbuilt) for layer in direct_layers(Task())):
        pytest.skip("this Keras does not track a layer beside the graph")
    split_layerwise(Task())
    with pytest.raises(ValueError, match=r"is not built, .*Not built: \['unbuilt"):
        split_layerwise(Calls())


# --- Layers that are held twice ------------------------------------------------------------------


@register
class Tower(keras.Model):
    """Holds a composite layer, a layer inside it, and another composite layer over a part of it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pair = Pair()
        self.inner = self.pair.dense[0]
        self.again = self.pair
        self.over = Over(self.pair.dense[1])
        self.top = LAYERS.Dense(3)

    def build(self, shape: Any) -> None:
        for layer in (self.pair, self.over, self.top):
            layer.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.top(self.over(self.inner(self.again(x))))


class Over(LAYERS.Layer):
    """Uses a layer that stands earlier, and has a weight of its own."""

    def __init__(self, dense: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dense = dense

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight((), "ones", name="scale")
        self.built = True

    def call(self, x: Any) -> Any:
        return self.dense(x) * self.scale


def tower() -> keras.Model:
    model = Tower()
    model.build((None, 3))
    return model


def test_a_layer_inside_an_earlier_composite_layer_counts_there():
    model = tower()
    assert [leaf.path for leaf in leaf_layers(model)] == ["pair", "over", "top"]
    assert [leaf.path for leaf in leaf_layers(model, EVERYTHING)] == [
        "pair/dense/0",
        "pair/dense/1",
        "over",
        "top",
    ]
    with pytest.raises(ValueError, match="'over' cannot be expanded: .*stand earlier in the model"):
        split_layerwise(model, expand=["over"])


@pytest.mark.parametrize("expand", [(), ("pair",)])
def test_a_shared_part_is_frozen_with_the_group_that_has_its_variables(expand):
    model = tower()
    groups = split_layerwise(model, expand=expand)
    everything = learning(model, groups)
    assert len(everything) == len(model.weights) == 7
    for first in (*range(len(groups) + 1), 0):
        freeze_to(model, groups, first)
        assert learning(model, groups) == {p: g for p, g in everything.items() if g >= first}


class Holder(LAYERS.Layer):
    """Two layers, with names and attributes of the test's own."""

    def __init__(self, make: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        make(self)
        self.w = self.add_weight((2,), "ones", name="w")

    def call(self, x: Any) -> Any:
        for layer in direct_layers(self):
            x = layer(x)
        return x * self.w


def holder_model(make: Any) -> keras.Model:
    dense = LAYERS.Dense(2, name="before"), LAYERS.Dense(2, name="head")
    return keras.Sequential([keras.Input((2,)), dense[0], Holder(make, name="held"), dense[1]])


def two_of_one_name(layer: Any) -> None:
    layer._self_first = LAYERS.Dense(2, name="d")
    layer._self_second = LAYERS.Dense(2, name="d")


def a_name_that_is_an_attribute_too(layer: Any) -> None:
    layer.d = LAYERS.Dense(2, name="x")
    layer._self_unconditional_second = LAYERS.Dense(2, name="d")  # hidden, as Keras' records


@pytest.mark.parametrize("make", [two_of_one_name, a_name_that_is_an_attribute_too])
def test_paths_inside_a_composite_layer_are_unique(make):
    groups = split_layerwise(holder_model(make), expand=["held"])
    paths = [path for group in groups for path in group.layers]
    assert len(paths) == len(set(paths)) == 4


def test_a_private_attribute_of_a_users_own_is_a_step():
    groups = split_layerwise(holder_model(two_of_one_name), expand=["held"])
    assert [g.name for g in groups[1:3]] == ["held/_self_first", "held/_self_second"]


@pytest.mark.parametrize("first", [0, 1])
def test_a_weight_that_a_person_froze_stays_frozen_whatever_is_opened(first):
    model = holder_model(two_of_one_name)
    held = model.get_layer("held")
    held.w.trainable = False
    opened, closed = split_layers(model, ["held/_self_second"]), split_layers(model, ["head"])
    for groups in (opened, closed, opened):
        for n in (first, 0):
            freeze_to(model, groups, n)
            assert not held.w.trainable
            assert held.built
    assert model.get_layer("head").kernel.trainable


def test_a_raw_variable_inside_a_composite_layer_belongs_to_its_group():
    model = holder_model(two_of_one_name)
    raw = tf.Variable([1.0, 2.0])
    model.get_layer("held")._self_first.raw = raw
    for expand, group in (((), 1), (["held"], 1)):
        assigned = assign_variables(model, split_layerwise(model, expand=expand))
        assert [entry.group for entry in assigned if entry.variable is raw] == [group]


def test_a_layer_object_of_another_model_is_said_to_be_one():
    model, other = holder_model(two_of_one_name), holder_model(two_of_one_name)
    head = other.get_layer("head")
    message = r"'head' is a layer object that model .* does not hold\. Give an object of this model"
    with pytest.raises(ValueError, match=f"Boundary {message}"):
        split_layers(model, [head])
    with pytest.raises(ValueError, match=f"Layer to expand {message}"):
        split_layerwise(model, expand=[head])


def test_a_property_is_read_only_if_it_shows_a_layer():
    class WithCache(keras.Model):
        @property
        def cache(self) -> Any:
            raise RuntimeError("not yet")

    inputs = keras.Input((2,))
    model = WithCache(inputs, LAYERS.Dense(2, name="d")(inputs))
    model._cache = {}
    assert [group.name for group in split_layerwise(model)] == ["d"]
