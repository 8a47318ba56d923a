"""Distillation on models: which pass counts, what is compared with what, what is left behind."""

import copy
from dataclasses import dataclass

import pytest
import torch
from support.optional import optional
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import gracile
from gracile.errors import InputError
from gracile.maths.distill import mean_square, soft_target_loss
from gracile.plan import Plan
from gracile.session.observing import main_tensor


def net(width=6):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.Linear(width, 3))


@pytest.fixture
def data():
    return torch.randn(5, 4)


def prepared(student, teacher, **options):
    return gracile.prepare(student, torch.zeros(2, 4), gracile.Distillation(teacher, **options))


def test_the_penalty_is_the_formula_and_reaches_the_student_alone(data):
    student, teacher = net(), net(9)
    run = prepared(student.train(), teacher, weight=0.7, temperature=3.0)
    output = student(data)
    penalty = run.penalty()
    expected = 0.7 * soft_target_loss(output, teacher(data), 3.0)
    torch.testing.assert_close(penalty, expected)
    penalty.backward()
    wanted = torch.autograd.grad(
        0.7 * soft_target_loss(student(data), teacher(data).detach(), 3.0), [student[0].weight]
    )
    torch.testing.assert_close(student[0].weight.grad, wanted[0])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())
    assert run.finalize() == Plan()


def test_the_teacher_runs_in_evaluation_mode_and_keeps_its_own(data):
    teacher = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    teacher[2].eval()
    student = net().train()
    before = copy.deepcopy(teacher.state_dict())
    run = prepared(student, teacher)
    output = student(data)
    torch.testing.assert_close(run.penalty(), soft_target_loss(output, copy.deepcopy(teacher).eval()(data), 2.0))
    assert [module.training for module in teacher] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_student_as_its_own_teacher_is_copied_as_it_is_now(data):
    student = net().train()
    run = prepared(student, student)
    frozen = copy.deepcopy(student)
    student(data)
    assert run.penalty().item() == pytest.approx(0, abs=1e-6)
    run.step()
    with torch.no_grad():
        student[3].weight.mul_(-3)
    output = student(data)
    torch.testing.assert_close(run.penalty(), soft_target_loss(output, frozen(data), 2.0))
    assert run.penalty().item() > 0.01


def test_the_last_of_several_passes_counts_and_evaluation_between_does_not(data):
    student, teacher = net().train(), net()
    run = prepared(student, teacher)
    student(data + 1)
    output = student(data)
    with torch.no_grad():
        student(data + 2)
    student.eval()
    student(data + 3)
    student.train()
    penalty = run.penalty()
    torch.testing.assert_close(penalty, soft_target_loss(output, teacher(data), 2.0))
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(run.penalty(), penalty)
    assert not calls
    student(data + 1)
    assert run.penalty().item() != penalty.item()
    assert len(calls) == 1


def test_gradients_accumulate_pass_by_pass(data):
    student, teacher = net().train(), net()
    run = prepared(student, teacher)
    for half in (data[:2], data[2:4]):
        student(half)
        (run.penalty() / 2).backward()
    accumulated = student[0].weight.grad.clone()
    run.step()
    student.zero_grad()
    student(data[:4])
    run.penalty().backward()
    torch.testing.assert_close(student[0].weight.grad, accumulated)


@pytest.mark.parametrize("how", ["nothing", "evaluation", "no_grad", "stepped"])
def test_a_penalty_without_a_training_pass_is_refused(data, how):
    student = net().train(how != "evaluation")
    run = prepared(student, net())
    if how != "nothing":
        with torch.set_grad_enabled(how != "no_grad"):
            student(data)
    if how == "stepped":
        run.step()
    with pytest.raises(InputError, match="no training pass"):
        run.penalty()


def test_a_penalty_looked_at_without_gradients_is_made_anew_with_them(data):
    student = net().train()
    run = prepared(student, net())
    student(data)
    with torch.no_grad():
        looked = run.penalty()
    assert not looked.requires_grad
    assert run.penalty().requires_grad
    torch.testing.assert_close(run.penalty().detach(), looked)


def test_linked_layers_take_the_nearest_teacher_layer(data):
    student, teacher = net().train(), net()
    run = prepared(student, teacher, weight=0.0, layers={"2": ("0", "2")}, layer_weight=10.0)
    student(data)
    # What a layer puts out is kept although the activation behind it overwrites it.
    first, second = teacher[0](data), teacher[:3](data)
    hidden = student[:3](data)
    distances = [mean_square(hidden, first), mean_square(hidden, second)]
    assert abs((distances[0] - distances[1]).item()) > 1e-3
    torch.testing.assert_close(run.penalty(), 10 * min(distances))


def test_layers_by_common_names_with_the_divergence_beside_the_logits(data):
    student, teacher = net().train(), net()
    run = prepared(student, teacher, layers=["0", "2"], loss="kl", temperature=4.0)
    output = student(data)
    expected = sum(
        soft_target_loss(student[:stop](data), teacher[:stop](data), 4.0) for stop in (1, 3)
    ) + soft_target_loss(output, teacher(data), 4.0)
    torch.testing.assert_close(run.penalty(), expected)


def test_one_layer_gives_gradients_to_what_is_below_it_alone(data):
    student = net().train()
    run = prepared(student, net(), weight=0.0, layers=["0"])
    student(data)
    run.penalty().backward()
    assert bool(student[0].weight.grad.any())
    assert student[2].weight.grad is None


def test_a_map_joins_layers_of_different_channels_and_learns(data):
    student, teacher = net(5).train(), net(8)
    run = prepared(student, teacher, weight=0.0, layers=["0"], adapter_rate=0.05)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    start = None
    for _ in range(200):
        student(data)
        penalty = run.penalty()
        start = penalty.item() if start is None else start
        run.step()
    assert penalty.item() < 0.05 * start
    assert run.finalize() == Plan()


def test_a_fixed_map_is_the_draw_of_its_seed(data):
    student, teacher = net(5).train(), net(8)
    weight = torch.randn(8, 5, generator=torch.Generator().manual_seed(3)) / 5**0.5
    run = prepared(student, teacher, weight=0.0, layers=["0"], adapter_rate=0, seed=3)
    for _ in range(3):
        student(data)
        expected = mean_square(F.linear(student[0](data), weight), teacher[0](data))
        torch.testing.assert_close(run.penalty(), expected)
        run.step()


def test_the_first_step_of_a_map_is_adams_with_the_gradient_of_the_joint_loss(data):
    student, teacher = net(5).train(), net(8)
    weight = (torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) / 5**0.5).requires_grad_()
    run = prepared(student, teacher, weight=0.0, layers=["0"], adapter_rate=0.01)
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for batch in (data, data + 1):
        (mean_square(F.linear(student[0](batch).detach(), weight), teacher[0](batch).detach()) / 2).backward()
        student(batch)
        # Whatever a gradient scaler makes of the penalty, the map does not see it.
        (1e4 * run.penalty()).backward()
    optimizer.step()
    run.step()
    student(data)
    expected = mean_square(F.linear(student[0](data), weight), teacher[0](data))
    torch.testing.assert_close(run.penalty(), expected)


def test_convolutions_are_joined_along_axis_1():
    student, teacher = (nn.Sequential(nn.Conv2d(3, w, 3), nn.Conv2d(w, 2, 3)).train() for w in (4, 6))
    images = torch.randn(2, 3, 8, 8)
    run = gracile.prepare(student, images, gracile.Distillation(teacher, layers=["0"], axis=1, adapter_rate=0, seed=1))
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) / 2
    output = student(images)
    expected = soft_target_loss(output, teacher(images), 2.0, axis=1) + mean_square(
        torch.einsum("oc,nchw->nohw", weight, student[0](images)), teacher[0](images)
    )
    torch.testing.assert_close(run.penalty(), expected)


def test_a_teacher_of_another_precision(data):
    teacher = net()
    student = copy.deepcopy(net()).double().train()
    run = gracile.prepare(student, torch.zeros(2, 4).double(), gracile.Distillation(teacher))
    output = student(data.double())
    penalty = run.penalty()
    assert penalty.dtype == torch.float64
    torch.testing.assert_close(penalty, soft_target_loss(output, teacher(data).double(), 2.0))


def test_half_precision_training(data):
    student, teacher = net().train(), net()
    run = prepared(student, teacher, layers=["0"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = student(data)
        penalty = run.penalty()
    assert output.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32
    penalty.backward()
    assert bool(student[0].weight.grad.any())


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False) if self.training else self.body(x))


def test_checkpointed_layers_are_seen_once(data):
    student, teacher = Checkpointed().train(), Checkpointed()
    run = prepared(student, teacher, layers=["body"], weight=0.0)
    loss = student(data).sum()
    penalty = run.penalty()
    torch.testing.assert_close(penalty, mean_square(student.body(data), teacher.body(data)))
    (loss + penalty).backward()
    run.finalize()
    expected = student.body.weight.grad.clone()
    student.zero_grad()
    (student(data).sum() + mean_square(student.body(data), teacher.body(data).detach())).backward()
    torch.testing.assert_close(student.body.weight.grad, expected)


def test_finalize_leaves_no_hook():
    student, teacher = net(), net()
    keys = set(vars(student))
    run = prepared(student, teacher, layers=["0"])
    student.train()(torch.zeros(2, 4))
    run.penalty()
    run.finalize()
    assert set(vars(student)) == keys
    for module in (*student.modules(), *teacher.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


def test_outputs_of_all_kinds():
    scalar, logits, other = torch.tensor(1.0), torch.zeros(2, 3), torch.ones(2, 3)
    assert main_tensor(logits) is logits
    assert main_tensor((scalar, [None, logits], other)) is logits
    assert main_tensor({"loss": scalar, "hidden": other, "logits": logits}) is logits
    assert main_tensor({"loss": scalar, "hidden": logits, "more": other}) is logits
    assert main_tensor(Output(scalar, logits)) is logits
    assert main_tensor(scalar) is None
    assert main_tensor("text") is None


def test_a_hugging_face_model_learns_from_another():
    transformers = optional("transformers")
    sizes = {"vocab_size": 50, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    config = transformers.BertConfig(hidden_size=16, num_hidden_layers=1, **sizes)
    wide = transformers.BertConfig(hidden_size=24, num_hidden_layers=2, **sizes)
    student, teacher = (transformers.BertForSequenceClassification(each) for each in (config, wide))
    inputs = {"input_ids": torch.randint(0, 50, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    layers = {"bert.encoder.layer.0": ["bert.encoder.layer.0", "bert.encoder.layer.1"]}
    run = gracile.prepare(student, inputs, gracile.Distillation(teacher, layers=layers))
    student.train()
    output = student(**inputs, labels=torch.tensor([0, 1]))
    teacher.eval()
    assert run.penalty().item() > soft_target_loss(output.logits, teacher(**inputs).logits, 2.0).item()
    (output.loss + run.penalty()).backward()
    run.step()
    run.finalize()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "net"}, "teacher is a str"),
        ({"temperature": 0}, "temperature is 0"),
        ({"weight": -1}, "weight is -1"),
        ({"weight": float("nan")}, "weight is nan"),
        ({"loss": "l1"}, "loss is 'l1'; it is one of mse, kl"),
        ({"layers": "0"}, "layers is the text '0'"),
        ({"weight": 0}, "nothing is distilled"),
        ({"layers": {"0": []}}, "links '0' to no module"),
        ({"layers": ["00"]}, "layers names '00', but the model has no such module; did you mean '0'"),
        ({"layers": {"0": "9"}}, "layers names '9', but the teacher has no such module"),
        ({"layers": {"0": "3"}}, None),
        ({"teacher": nn.Linear(4, 5)}, r"puts out \[2, 3\] and the teacher \[2, 5\]"),
        ({"teacher": nn.Linear(5, 3)}, "the teacher does not run on the model's example inputs"),
        ({"teacher": nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Flatten(), nn.Linear(4, 3)), "layers": {"0": "0"}},
         r"the teacher's '0' \[2, 2, 2\]; only the axis of channels \(axis=-1\) may differ"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_nothing_stays(options, message):
    student = net()
    options = dict(options)
    teacher = options.pop("teacher", net())
    if message is None:
        prepared(student, teacher, **options).finalize()
        return
    with pytest.raises(InputError, match=message):
        prepared(student, teacher, **options)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
