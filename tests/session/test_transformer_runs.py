"""Transformers pruned in a run: heads by one part, feed-forward layers by another, with a teacher."""

import logging

import numpy as np
import pytest
import torch
from support.optional import optional
from torch import nn
from torch.nn import functional as F

import gracile
from gracile.errors import InputError
from gracile.graph import tensors_of
from gracile.prune.gates import gates_of, without_gates
from gracile.prune.sparsify import sparsify
from gracile.testing import equivalence

HEADS, WIDTH = 4, 24
SIZE = WIDTH // HEADS


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, SIZE)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.up, self.down = Attention(), nn.Linear(WIDTH, 40), nn.Linear(40, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x):
        x = self.first(x + self.attention(x))
        return self.second(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        self.words = nn.Embedding(50, WIDTH)
        self.layers = nn.Sequential(*[Layer() for _ in range(layers)])
        self.classifier = nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        return self.classifier(self.layers(self.words(tokens)).mean(1))


TOKENS = torch.randint(0, 50, (16, 7), generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(0, 3, (16,), generator=torch.Generator().manual_seed(2))
SOON = gracile.Schedule(kind="agp", start=1, every=1, times=4)
BY_MOVEMENT = gracile.Pruning(criterion="movement", sparsity=0.5, schedule=SOON, include=["*.query"])
BY_TAYLOR = gracile.Pruning(criterion="taylor", sparsity=0.4, schedule=SOON, include=["*.up"])


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Encoder()


def warned(caplog):
    """What gracile warned of."""
    return [record for record in caplog.records if record.name.startswith("gracile") and record.levelname == "WARNING"]


def trained(model, run, steps=6):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        (F.cross_entropy(model(TOKENS), LABELS) + run.penalty()).backward()
        optimizer.step()
        run.step()
    return model.eval()


@pytest.mark.parametrize("turned", [False, True])
def test_heads_and_feed_forward_channels_go_in_one_run(encoder, turned, caplog):
    torch.manual_seed(1)
    parts = [BY_MOVEMENT, BY_TAYLOR, gracile.Distillation(Encoder())]
    run = gracile.prepare(encoder, TOKENS[:2], parts[::-1] if turned else parts)
    trained(encoder, run)
    plan = run.finalize()
    assert not gates_of(encoder)
    assert not warned(caplog)
    small = gracile.apply(encoder, gracile.Plan.from_json(plan.to_json()))
    for layer in small.layers:
        assert layer.attention.heads == 2
        assert layer.attention.out.in_features == 2 * SIZE
        assert layer.up.out_features == layer.down.in_features == 24
    assert small.words.embedding_dim == WIDTH
    torch.testing.assert_close(small(TOKENS), encoder(TOKENS), rtol=1e-5, atol=1e-6)
    found = equivalence(encoder, plan, TOKENS)
    assert found.dtype is torch.float64
    assert found.error <= found.tolerance


def test_masks_that_are_there_at_once_do_not_confuse_the_next_part(encoder, caplog):
    both = [gracile.Pruning(sparsity=0.5, include=[layers]) for layers in ("*.up", "*.query")]
    run = gracile.prepare(encoder, TOKENS[:2], both)
    assert not warned(caplog)
    assert [set(part.gone) for part in run.parts] == [
        {"layers.0.up", "layers.1.up"},
        {"layers.0.attention.query", "layers.1.attention.query"},
    ]
    small = gracile.apply(encoder, run.finalize())
    assert small.layers[1].attention.heads == 2
    torch.testing.assert_close(small(TOKENS), encoder.eval()(TOKENS), rtol=1e-5, atol=1e-6)


def test_two_parts_on_the_same_layers_are_refused(encoder):
    with pytest.raises(InputError, match="is masked already"):
        gracile.prepare(encoder, TOKENS[:2], [BY_MOVEMENT, BY_MOVEMENT])
    assert not gates_of(encoder)


def test_masks_chosen_at_the_end_settle_before_anything_is_cut(encoder):
    late = gracile.Schedule(start=None)
    both = [
        gracile.Pruning(criterion="taylor", sparsity=0.5, schedule=late, include=[layers])
        for layers in ("*.query", "*.up")
    ]
    run = gracile.prepare(encoder, TOKENS[:2], both)
    trained(encoder, run, steps=2)
    small = gracile.apply(encoder, run.finalize())
    assert [layer.attention.heads for layer in small.layers] == [2, 2]
    assert [layer.up.out_features for layer in small.layers] == [20, 20]
    torch.testing.assert_close(small(TOKENS), encoder(TOKENS), rtol=1e-5, atol=1e-6)


def products_of_heads(parameters):
    """Gradient times weight, summed over all that belongs to a head: rows of query, key and value, columns of out."""
    total = torch.zeros(HEADS)
    for name, parameter in parameters.items():
        product = parameter.detach() * parameter.grad
        of_out = name == "layers.0.attention.out.weight"
        total += product.reshape(WIDTH, HEADS, SIZE).sum((0, 2)) if of_out else product.reshape(HEADS, -1).sum(1)
    return total


def test_movement_scores_of_heads_follow_gradient_times_weight_of_all_their_tensors():
    torch.manual_seed(0)
    model = Encoder(layers=1)
    later = gracile.Schedule(start=3)
    spec = gracile.Pruning(
        criterion="movement", sparsity=0.5, schedule=later, include=["*.query"], movement=gracile.Movement(rate=0.1)
    )
    run = gracile.prepare(model, TOKENS[:2], spec)
    expected = torch.zeros(HEADS, requires_grad=True)
    adam = torch.optim.Adam([expected], lr=0.1)
    model.train()
    for start in (0, 8):
        for parameter in model.parameters():
            parameter.grad = None
        F.cross_entropy(model(TOKENS[start : start + 8]), LABELS[start : start + 8]).backward()
        expected.grad = products_of_heads({name: tensors_of(model)[name] for name in run.masks})
        adam.step()
        run.step()
    scores = run.parts[0]._scoring.scores()["layers.0.attention.query"]
    np.testing.assert_allclose(scores, expected.detach().numpy(), rtol=1e-3)
    assert len(set(scores.round(6))) > 1


def test_movement_gradients_of_removed_heads_say_what_the_loss_would_do():
    torch.manual_seed(0)
    model = Encoder(layers=1).double()
    once = gracile.Schedule(start=1)
    spec = gracile.Pruning(criterion="movement", sparsity=0.5, schedule=once, include=["*.query", "*.up"])
    run = gracile.prepare(model, TOKENS[:2], spec)
    trained(model, run, steps=1)
    (part,) = run.parts
    zeroed = without_gates(model)
    with torch.no_grad():
        for name, keep in part.masks.items():
            zeroed.get_parameter(name).mul_(keep)
    # The masked model computes what the zeros would make of it, whichever tensors the masks are on.
    torch.testing.assert_close(model(TOKENS), zeroed(TOKENS))

    model.train()
    loss = F.cross_entropy(model(TOKENS), LABELS)
    loss.backward()
    run.step()
    heads = "layers.0.attention.query"
    gradients = part._scoring._values[heads].grad
    (removed, _) = part.gone[heads].nonzero().flatten().tolist()
    # A little of the head again, by the columns that read it.
    little = without_gates(model)
    columns = slice(removed * SIZE, (removed + 1) * SIZE)
    with torch.no_grad():
        for name, keep in part.masks.items():
            if "attention.out" in name or "down" in name:
                little.get_parameter(name).mul_(keep)
        wide = tensors_of(model)["layers.0.attention.out.weight"][:, columns]
        little.layers[0].attention.out.weight[:, columns] = 1e-6 * wide
        slope = (F.cross_entropy(little(TOKENS), LABELS) - loss) / 1e-6
    assert abs(slope) > 1e-5
    assert gradients[removed].item() == pytest.approx(slope.item(), rel=1e-2)


def test_masks_cover_norms_where_the_readers_alone_would_not_do(encoder):
    spec = gracile.Pruning(
        criterion="movement", sparsity=0.25, schedule=gracile.Schedule(start=1), include=["words", "*.up"]
    )
    run = gracile.prepare(encoder, TOKENS[:2], spec)
    trained(encoder, run, steps=1)
    removed = {name for name, gates in gates_of(encoder).items() if any(gate.removed.any() for gate in gates)}
    assert {"words.weight", "layers.0.first.weight", "layers.0.up.weight"} <= removed
    # Those of the feed-forward layer itself are only in the layer that reads it.
    assert not {"layers.0.up.bias", "layers.1.up.bias"} & removed


def test_include_chooses_groups_and_exclude_goes_before_it(encoder, caplog):
    plan = gracile.prune.plan(encoder, TOKENS[:2], sparsity=0.5, round_to=1, include=["*.up"], exclude=["layers.1.*"])
    small = gracile.apply(encoder, plan)
    assert [layer.up.out_features for layer in small.layers] == [20, 40]
    assert [layer.attention.heads for layer in small.layers] == [HEADS, HEADS]
    # By any layer whose outputs go, as exclude.
    named = gracile.prune.plan(encoder, TOKENS[:2], sparsity=0.5, round_to=1, include=["layers.0.attention.value"])
    assert gracile.apply(encoder, named).layers[0].attention.heads == 2
    assert not gracile.prune.plan(encoder, TOKENS[:2], sparsity=0.5, include=[]).edits
    assert not warned(caplog)
    with caplog.at_level(logging.WARNING):
        gracile.prune.plan(encoder, TOKENS[:2], sparsity=0.5, include=["*.up", "no.such"])
    assert "include: 'no.such' matches no layer" in caplog.text


def test_include_must_be_a_list_and_leave_something(encoder):
    with pytest.raises(InputError, match=r"include is the text '\*\.up'"):
        gracile.prune.plan(encoder, TOKENS[:2], sparsity=0.5, include="*.up")
    with pytest.raises(InputError, match=r"no channels can be removed: not among include=\['no.such'\]"):
        gracile.prepare(encoder, TOKENS[:2], gracile.Pruning(sparsity=0.5, include=["no.such"]))


def test_include_chooses_layers_for_masks_within_tensors(encoder):
    masks = sparsify(encoder, 0.5, include=["*.up", "classifier"], exclude=["layers.1.*"])
    assert set(masks) == {"layers.0.up.weight", "classifier.weight"}
    with pytest.raises(InputError, match=r"no layer with a weight is left for sparsity=0.5, include=\['words'\]"):
        sparsify(encoder, 0.5, include=["words"])
    spec = gracile.Pruning(criterion="l1", granularity="element", sparsity=0.5, include=["classifier"])
    run = gracile.prepare(encoder, TOKENS[:2], spec)
    assert set(run.masks) == {"classifier.weight"}
    run.finalize()


def test_a_hugging_face_bert_loses_heads_and_feed_forward_channels():
    transformers = optional("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=40,
        max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    inputs = {"input_ids": TOKENS[:2], "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}
    run = gracile.prepare(
        model,
        inputs,
        [
            gracile.Pruning(criterion="movement", sparsity=0.5, schedule=SOON, include=["*.self.query"]),
            gracile.Pruning(criterion="taylor", sparsity=0.4, schedule=SOON, include=["*.intermediate.dense"]),
            gracile.Distillation(model),
        ],
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(5):
        loss = model(**inputs, labels=torch.tensor([0, 1])).loss
        (loss + run.penalty()).backward()
        optimizer.step()
        run.step()
        optimizer.zero_grad()
    small = gracile.apply(model, run.finalize()).eval()
    for layer in small.bert.encoder.layer:
        assert layer.attention.self.query.out_features == layer.attention.output.dense.in_features == 2 * SIZE
        assert layer.intermediate.dense.out_features == 24
    # Other lengths than the example's run, too.
    other = {"input_ids": TOKENS[2:5, :4], "attention_mask": torch.ones(3, 4, dtype=torch.long)}
    torch.testing.assert_close(small(**other).logits, model.eval()(**other).logits, rtol=1e-4, atol=1e-6)
