"""The models of KerasHub, tiny and with random weights: their groups, LoRA, saving, precision.

`test_composite_layers.py` tests the same on layers of our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dlr_tf.core._validation import unwrap_optimizer
from dlr_tf.core.assignment import assign_variables
from dlr_tf.core.groups import LayerGroup, split_evenly, split_layers, split_layerwise
from dlr_tf.core.learning_rates import layerwise_rates
from dlr_tf.core.model_tree import leaf_layers
from dlr_tf.core.optimizer import MultiGroupOptimizer
from dlr_tf.training.fine_tuning import fine_tune
from dlr_tf.training.freezing import freeze_to
from tests.core.core_helpers import assert_same, assert_same_weights, values

keras_hub = pytest.importorskip("keras_hub", reason="KerasHub is not installed")

pytestmark = [
    # What KerasHub does in its own `fit`, and when Keras loads a task.
    pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored"),
    pytest.mark.filterwarnings("ignore:`compile\\(\\)` was not called as part of model loading"),
]

HUB = keras_hub.models
WORDS, LENGTH = 20, 5
TEXT = {
    "vocabulary_size": WORDS,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "max_sequence_length": LENGTH,
    "dropout": 0.0,
}
GEMMA = {
    "vocabulary_size": WORDS,
    "num_layers": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "head_dim": 4,
}
VIT = {
    "image_shape": (8, 8, 3),
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
}
RESNET = {
    "image_shape": (8, 8, 3),
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64],
    "stackwise_num_blocks": [1],
    "stackwise_num_strides": [1],
    "block_type": "basic_block",
}
HEAD = {"num_classes": 3, "preprocessor": None}
BERT_EMBEDDINGS = (
    "token_embedding",
    "position_embedding",
    "segment_embedding",
    "embeddings_add",
    "embeddings_layer_norm",
    "embeddings_dropout",
)
EMBEDDINGS = ("embeddings", "embeddings_layer_norm", "embeddings_dropout")
FIRST, SECOND = ("transformer_layers/0",), ("transformer_layers/1",)
VIT_FIRST = ("vit_encoder/encoder_layers/0",)
VIT_SECOND = ("vit_encoder/encoder_layers/1", "vit_encoder/dropout")
VIT_EMBEDDINGS, VIT_NORM = ("vit_patching_and_embedding",), ("vit_encoder/layer_norm",)
MIXED = ("mixed_float16", "mixed_bfloat16")

Layers = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Hub:
    """A backbone and a task of KerasHub.

    Args:
        backbone: Builds the backbone.
        task: Builds the task around a backbone.
        boundary: Where the second transformer layer, or the body after the stem, begins.
        layerwise: The layers of each group that `split_layerwise` makes of the backbone.
        head: The layers of each group behind the backbone in the task; the first ones, in a tuple
            of their own, belong to the last group of the backbone.
        evenly: The layers of each group that `split_evenly(model, 3)` makes of the task.
        expand: The composite layers to open.
    """

    backbone: Callable[[], keras.Model]
    task: Callable[[keras.Model], keras.Model]
    boundary: str
    layerwise: Layers
    head: Layers
    evenly: Layers
    expand: tuple[str, ...] = ()

    def model(self, seed: int = 0) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return self.task(self.backbone())

    def groups(self, model: keras.Model) -> tuple[LayerGroup, ...]:
        return split_layerwise(model, expand=self.expand)

    def compile(self, model: keras.Model, **arguments: Any) -> keras.Model:
        groups = self.groups(model)
        optimizer = MultiGroupOptimizer(groups, layerwise_rates(groups, 1e-2, 0.8), **arguments)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss, run_eagerly=True)
        return model

    def compiled(self, seed: int = 0, **arguments: Any) -> keras.Model:
        return self.compile(self.model(seed), **arguments)


def inside(layers: Layers) -> Layers:
    """The paths in a task of the layers of its backbone."""
    return tuple(tuple(f"backbone/{path}" for path in group) for group in layers)


def text(name: str, layers: Layers, head: Layers, evenly: Layers) -> Hub:
    return Hub(
        lambda: getattr(HUB, f"{name}Backbone")(**TEXT),
        lambda backbone: getattr(HUB, f"{name}TextClassifier")(backbone, dropout=0.0, **HEAD),
        "transformer_layer_1",
        layers,
        head,
        evenly,
    )


MODELS = {
    "bert": text(
        "Bert",
        (BERT_EMBEDDINGS, FIRST, SECOND, ("pooled_dense",)),
        (("output_dropout",), ("output_dense",)),
        (
            inside(((*BERT_EMBEDDINGS, *FIRST),))[0],
            (*inside(((*SECOND, "pooled_dense"),))[0], "output_dropout"),
            ("output_dense",),
        ),
    ),
    "roberta": text(
        "Roberta",
        (EMBEDDINGS, FIRST, SECOND),
        (("pooled_dropout",), ("pooled_dense", "output_dropout"), ("output_dense",)),
        (
            inside(((*EMBEDDINGS, *FIRST),))[0],
            (*inside((SECOND,))[0], "pooled_dropout", "pooled_dense", "output_dropout"),
            ("output_dense",),
        ),
    ),
    "distil_bert": text(
        "DistilBert",
        (EMBEDDINGS, FIRST, SECOND),
        ((), ("pooled_dense", "output_dropout"), ("output_dense",)),
        (
            inside(((*EMBEDDINGS, *FIRST),))[0],
            (*inside((SECOND,))[0], "pooled_dense", "output_dropout"),
            ("output_dense",),
        ),
    ),
    # The logits come from the token embedding, which belongs to the first group.
    "gemma": Hub(
        lambda: HUB.GemmaBackbone(**GEMMA),
        lambda backbone: HUB.GemmaCausalLM(backbone=backbone, preprocessor=None),
        "decoder_block_1",
        (("token_embedding",), FIRST, SECOND, ("layer_norm",)),
        ((),),
        inside((("token_embedding",), FIRST, (*SECOND, "layer_norm"))),
    ),
    "vit": Hub(
        lambda: HUB.ViTBackbone(**VIT),
        lambda backbone: HUB.ViTImageClassifier(backbone, **HEAD),
        "transformer_block_2",
        (VIT_EMBEDDINGS, VIT_FIRST, VIT_SECOND, VIT_NORM),
        (("output_dropout",), ("output_dense",)),
        (
            inside(((*VIT_EMBEDDINGS, *VIT_FIRST),))[0],
            (*inside(((*VIT_SECOND, *VIT_NORM),))[0], "output_dropout"),
            ("output_dense",),
        ),
        ("vit_encoder",),
    ),
    "resnet": Hub(
        lambda: HUB.ResNetBackbone(**RESNET),
        lambda backbone: HUB.ResNetImageClassifier(backbone, **HEAD),
        "stack0_block0_0_conv",
        (),
        (),
        (),
    ),
}
# The others take the same branches.
QUICK = ("bert", "gemma", "vit")


@pytest.fixture(params=MODELS)
def hub(request: pytest.FixtureRequest) -> Hub:
    return MODELS[request.param]


@pytest.fixture(
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS
    ]
)
def few(request: pytest.FixtureRequest) -> Hub:
    return MODELS[request.param]


@pytest.fixture(
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in MODELS
        if name != "resnet"
    ]
)
def transformer(request: pytest.FixtureRequest) -> Hub:
    return MODELS[request.param]


def data(model: keras.Model, n: int = 4) -> tuple[Any, np.ndarray]:
    """A batch that a task takes."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    names = list(model.input) if isinstance(model.input, dict) else []
    if not names:
        return rng.normal(size=(n, *model.input_shape[1:])).astype("float32"), labels
    ids = rng.integers(1, WORDS, (n, LENGTH)).astype("int32")
    ones = np.ones((n, LENGTH), "int32")
    x = {"token_ids": ids, "padding_mask": ones, "segment_ids": 0 * ones}
    x = {name: x[name] for name in names}
    return x, ids if isinstance(model, HUB.CausalLM) else labels


def paths(groups: Any) -> Layers:
    return tuple(group.layers for group in groups)


def trainable(model: keras.Model, groups: Any) -> dict[str, int]:
    """The group of each variable that is trainable now, by its path."""
    return {
        entry.path: entry.group
        for entry in assign_variables(model, groups)
        if any(entry.variable is v for v in model.trainable_variables)
    }


def moved(model: keras.Model, groups: Any, step: Callable[[], Any]) -> set[str]:
    """The paths of the variables that a call changes."""
    entries = assign_variables(model, groups)
    before = values(entry.variable for entry in entries)
    step()
    after = values(entry.variable for entry in entries)
    return {e.path for e, a, b in zip(entries, before, after) if np.any(a != b)}


# --- Groups --------------------------------------------------------------------------------------


def test_split_layerwise_gives_embeddings_each_transformer_layer_and_head(hub):
    model = hub.model()
    backbone = model.backbone
    layers, head = hub.layerwise, hub.head
    if isinstance(backbone, HUB.ResNetBackbone):
        layers = paths(hub.groups(backbone))
        head = (("pooler", "output_dropout"), ("output_dense",))
        # One group per convolution and per normalization.
        assert [path for group in layers for path in group if path.endswith(("conv", "bn"))] == [
            *("conv1_conv", "conv1_bn"),
            *("stack0_block0_1_conv", "stack0_block0_1_bn"),
            *("stack0_block0_2_conv", "stack0_block0_2_bn"),
        ]
        assert len(layers) == 6
    assert paths(hub.groups(backbone)) == layers
    expected = inside(layers)
    expected = (*expected[:-1], (*expected[-1], *head[0]), *head[1:])
    assert paths(hub.groups(model)) == expected
    entries = assign_variables(model, hub.groups(model))
    assert sorted(map(id, model.weights)) == sorted(id(e.variable) for e in entries)


def test_split_evenly_keeps_embeddings_and_head(hub):
    model = hub.model()
    groups = split_evenly(model, 3, expand=hub.expand)
    if hub.evenly:
        assert paths(groups) == hub.evenly
    else:
        assert [group.layers[0] for group in groups] == [
            "backbone/conv1_pad",
            "backbone/stack0_block0_2_conv",
            "output_dense",
        ]
    entries = assign_variables(model, groups)
    assert len(entries) == len(model.weights)


def test_a_boundary_in_the_backbone(hub):
    model = hub.model()
    boundary = hub.boundary if hub.expand or hub.layerwise else "stack0_block0_2_conv"
    groups = split_layers(model, [boundary])
    all_paths = [leaf.path for leaf in leaf_layers(model, {f"backbone/{p}" for p in hub.expand})]
    assert [path for group in groups for path in group.layers] == all_paths
    last = groups[-1].layers[0]
    assert last in (f"backbone/{path}" for path in (*SECOND, VIT_SECOND[0], boundary))
    assert len(assign_variables(model, groups)) == len(model.weights)


def test_a_composite_layer_of_a_task_is_one_leaf_by_default():
    model = MODELS["vit"].model()
    assert paths(split_layerwise(model)) == (
        ("backbone/vit_patching_and_embedding",),
        ("backbone/vit_encoder", "output_dropout"),
        ("output_dense",),
    )
    opened = split_layerwise(model, expand=["vit_patching_and_embedding"])
    assert paths(opened)[:2] == (
        ("backbone/vit_patching_and_embedding/patch_embedding",),
        ("backbone/vit_patching_and_embedding/position_embedding",),
    )
    group_of = {e.path: e.group for e in assign_variables(model, opened)}
    assert group_of["backbone/vit_patching_and_embedding/class_token"] == 0


# --- Training ------------------------------------------------------------------------------------


def test_one_step_moves_every_group_at_its_own_rate(hub):
    model = hub.compiled()
    groups = hub.groups(model)
    changed = moved(model, groups, lambda: model.train_on_batch(*data(model)))
    group_of = trainable(model, groups)
    assert {group_of[path] for path in changed & group_of.keys()} == set(range(len(groups)))
    rates = model.optimizer.learning_rates
    assert rates == pytest.approx([1e-2 * 0.8**n for n in reversed(range(len(rates)))])


def test_freezing_a_task(hub):
    model = hub.compiled()
    groups = hub.groups(model)
    everything = trainable(model, groups)
    for first in (len(groups) - 1, 1, 0):
        freeze_to(model, groups, first)
        wanted = {path: group for path, group in everything.items() if group >= first}
        assert trainable(model, groups) == wanted
    freeze_to(model, groups, 2)
    changed = moved(model, groups, lambda: model.train_on_batch(*data(model)))
    group_of = {e.path: e.group for e in assign_variables(model, groups)}
    assert {group_of[path] for path in changed} == set(range(2, len(groups)))


@pytest.mark.parametrize(
    "policy", ["bfloat16", *(pytest.param(p, marks=pytest.mark.slow) for p in MIXED)]
)
def test_low_precision(few, policy):
    keras.config.set_dtype_policy(policy)
    try:
        # In bfloat16, 0.999 is 1, and Keras' Adam does not move.
        template = keras.optimizers.Adam(beta_2=0.99) if policy == "bfloat16" else None
        model = few.compiled(optimizer=template)
        wrapped = model.optimizer is not unwrap_optimizer(model.optimizer)
        assert wrapped == (policy == "mixed_float16")
        if wrapped:  # the first scale, 2**15, overflows here
            model.optimizer.build(model.trainable_variables)
            model.optimizer.dynamic_scale.assign(8.0)
        groups = few.groups(model)
        freeze_to(model, groups, -1)
        model.train_on_batch(*data(model))
        freeze_to(model, groups, 0)
        changed = moved(model, groups, lambda: model.train_on_batch(*data(model)))
        group_of = {e.path: e.group for e in assign_variables(model, groups)}
        assert {group_of[path] for path in changed} == set(range(len(groups)))
        assert int(unwrap_optimizer(model.optimizer).iterations) == 2
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
def test_a_task_that_comes_compiled_is_fine_tuned_with_its_own_loss_and_metrics(hub):
    model = hub.model()
    assert model.compiled
    loss, groups = model.loss, hub.groups(model)
    rates = layerwise_rates(groups, 1e-2, 0.8)
    history = fine_tune(model, groups, data(model), learning_rate=rates, epochs=2, verbose=0)
    assert model.loss is loss
    assert set(history.history) == {"loss", "sparse_categorical_accuracy"}
    assert isinstance(model.optimizer, MultiGroupOptimizer)
    assert int(model.optimizer.iterations) == 2


@pytest.mark.slow
def test_a_task_is_fine_tuned_on_a_data_set():
    """Its own `fit` maps the data first, and refuses a batch size."""
    model = MODELS["bert"].model()
    model.compile(run_eagerly=True)
    dataset = tf.data.Dataset.from_tensor_slices(data(model)).batch(4)
    groups = split_layers(model, ["logits"])
    fine_tune(model, groups, dataset, epochs=1, frozen_epochs=0, verbose=0)
    assert model.optimizer.learning_rates[1] > 0


def test_a_task_with_a_preprocessor_takes_strings(tmp_path):
    """The preprocessor is not built, has no weights, and is not part of any group."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    tokenizer = HUB.BertTokenizer(vocabulary=words)
    preprocessor = HUB.BertTextClassifierPreprocessor(tokenizer, sequence_length=LENGTH)
    hub = MODELS["bert"]
    model = HUB.BertTextClassifier(
        hub.backbone(), num_classes=3, preprocessor=preprocessor, dropout=0.0
    )
    without = hub.groups(hub.model())
    assert hub.groups(model) == without
    hub.compile(model)
    model.fit(np.array(["a b", "b", "a"]), np.arange(3), verbose=0)
    assert int(model.optimizer.iterations) == 1
    assert hub.groups(model) == without


# --- LoRA ----------------------------------------------------------------------------------------


def lora_of(model: keras.Model, groups: Any) -> tuple[set[str], set[str]]:
    """The paths of LoRA's weights, and of the kernels below them."""
    names = [entry.path for entry in assign_variables(model, groups)]
    lora = {path for path in names if "/lora_kernel_" in path}
    return lora, {path.rsplit("/", 1)[0] + "/kernel" for path in lora}


@pytest.mark.parametrize("when", ["before", "after"])
def test_lora_before_and_after_the_optimizer_is_built(transformer, when):
    model = transformer.model()
    if when == "before":
        model.backbone.enable_lora(2)
    transformer.compile(model)
    groups = transformer.groups(model)
    model.train_on_batch(*data(model))
    if when == "after":
        model.backbone.enable_lora(2)
        model.train_on_batch(*data(model))
    steps = int(model.optimizer.iterations)
    lora, base = lora_of(model, groups)
    assert len(lora) == 8
    learning = set(trainable(model, groups))
    assert lora <= learning
    assert not base & learning
    # The last group of a causal model is a normalization, without LoRA.
    for first in (1, 0) if isinstance(model, HUB.CausalLM) else (-1, 1, 0):
        freeze_to(model, groups, first)
        changed = moved(model, groups, lambda: model.train_on_batch(*data(model)))
        assert not base & changed
        assert changed <= learning
    assert set(trainable(model, groups)) == learning
    assert lora <= changed
    assert int(model.optimizer.iterations) >= steps + 2


# --- Files ---------------------------------------------------------------------------------------


def go_on(model: keras.Model, other: keras.Model, steps: int = 2) -> None:
    """Train both, and see that they are the same."""
    assert int(other.optimizer.iterations) == int(model.optimizer.iterations) == steps
    for each in (model, other):
        each.train_on_batch(*data(each))
    assert_same_weights(model, other)
    assert_same(values(model.optimizer.variables), values(other.optimizer.variables))


def test_a_keras_file_of_a_task_goes_on_after_compile_and_load_weights(few, tmp_path):
    """Keras does not restore the optimizer: the task compiles itself with another one."""
    model = few.compiled()
    for _ in range(2):
        model.train_on_batch(*data(model))
    model.save(tmp_path / "task.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        other = keras.models.load_model(tmp_path / "task.keras", compile=False)
    assert not isinstance(other.optimizer, MultiGroupOptimizer)
    few.compile(other)
    other.load_weights(tmp_path / "task.keras")
    assert other.optimizer.groups == model.optimizer.groups
    go_on(model, other)


def test_a_weights_file_goes_on(few, tmp_path):
    model, other = few.compiled(), few.compiled(seed=1)
    for _ in range(2):
        model.train_on_batch(*data(model))
    model.save_weights(tmp_path / "task.weights.h5")
    other.load_weights(tmp_path / "task.weights.h5")
    go_on(model, other)


@pytest.mark.parametrize("lora", [False, True])
def test_a_checkpoint_goes_on(transformer, lora, tmp_path):
    def made(seed: int) -> keras.Model:
        model = transformer.model(seed)
        if lora:
            model.backbone.enable_lora(2)
        return transformer.compile(model)

    model, other = made(0), made(1)
    for _ in range(2):
        model.train_on_batch(*data(model))
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "task")
    other.optimizer.build(other.trainable_variables)
    restored = tf.train.Checkpoint(model=other, optimizer=other.optimizer).restore(path)
    restored.assert_existing_objects_matched()
    go_on(model, other)


@pytest.mark.slow
def test_files_merge_lora_into_the_kernels(transformer, tmp_path):
    """The state of every other variable follows it, also where a layer has several kernels."""
    model = transformer.compiled()
    model.train_on_batch(*data(model))  # so every kernel has state
    model.backbone.enable_lora(2)
    model.train_on_batch(*data(model))
    model.save(tmp_path / "task.keras")
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        other = keras.models.load_model(tmp_path / "task.keras", compile=False)
    transformer.compile(other)
    other.optimizer.build(other.trainable_variables)
    with pytest.warns(UserWarning, match="no longer has these .*lora_kernel_a'.* was restored"):
        other.load_weights(tmp_path / "task.keras")
    x, _ = data(model)
    np.testing.assert_allclose(model(x), other(x), atol=1e-5)
    groups = transformer.groups(other)
    assert not lora_of(other, groups)[0]
    ours, theirs = state_by_path(model), state_by_path(other)
    assert {path for path in ours if "lora_kernel" not in path} == theirs.keys()
    for path, slots in theirs.items():
        assert_same(slots, ours[path])


def state_by_path(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """The slots of each variable, by its path."""
    named = model.optimizer._state.variables()
    return {
        entry.path: values(v for name, v in named.items() if name.startswith(f"{entry.key}."))
        for entry in assign_variables(model, model.optimizer.groups)
        if any(name.startswith(f"{entry.key}.") for name in named)
    }


def test_groups_of_the_backbone_in_a_task_that_is_loaded(tmp_path):
    """The head is frozen, and the groups are those of a part of the model."""
    hub = MODELS["bert"]
    model = hub.model()
    groups = split_layerwise(model.backbone)
    for name in ("output_dense", "output_dropout"):
        getattr(model, name).trainable = False
    model.compile(MultiGroupOptimizer(groups, 1e-2), model.loss, run_eagerly=True)
    model.train_on_batch(*data(model))
    config = model.optimizer.get_config()
    assert config["model_path"] == "backbone"
    other = hub.model(1)
    for name in ("output_dense", "output_dropout"):
        getattr(other, name).trainable = False
    optimizer = MultiGroupOptimizer.from_config(config)
    other.compile(optimizer, model.loss, run_eagerly=True)
    model.save_weights(tmp_path / "task.weights.h5")
    other.load_weights(tmp_path / "task.weights.h5")
    assert int(optimizer.iterations) == 1
    assert optimizer._assignment.model is other.backbone
