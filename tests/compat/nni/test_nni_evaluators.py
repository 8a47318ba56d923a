"""Evaluators: limits reach the user's function, terms reach the loss, steps are seen, and everything is put back."""

import pytest
import torch
from nni_toys import IMAGES, LABELS, accuracy, by_step, evaluator2, evaluator3, network, shares, step
from support.optional import optional
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from gracile.compat import nni as facade
from gracile.compat.nni import v2, v3
from gracile.errors import EvaluationError, InputError

CONVS = [{"op_types": ["Conv2d"], "sparse_ratio": 0.5}]


class TestFunctions:
    def model(self):
        return nn.Linear(2, 1, bias=False)

    def test_limits_reach_the_training_function(self):
        model, seen = self.model(), []
        evaluator = v3.TorchEvaluator(
            lambda *arguments: seen.append(arguments[4:]), torch.optim.SGD(model.parameters(), 1), step
        )
        evaluator.bind_model(model)
        evaluator.train(7, None)
        evaluator.train(None, 2)
        evaluator.finetune()
        assert seen == [(7, None), (None, 2), (None, None)]

    def test_terms_and_steps_inside_only(self):
        model = self.model()
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        count = []

        def train(model, optimizer, training_step, scheduler, max_steps, max_epochs):
            for _ in range(max_steps):
                optimizer.zero_grad()
                training_step(None, model).backward()
                optimizer.step()

        evaluator = v3.TorchEvaluator(train, optimizer, lambda _, m: 0 * m.weight.sum())
        evaluator.bind_model(model)
        before = model.weight.detach().clone()
        with evaluator.watched(model.weight.sum, lambda: count.append(torch.is_grad_enabled())):
            evaluator.train(2)
        assert torch.allclose(model.weight, before - 1.0)
        evaluator.train(2)
        assert torch.allclose(model.weight, before - 1.0)
        assert count == [False, False]

    def test_a_term_of_criterion(self):
        model = self.model()
        optimizer = torch.optim.SGD(model.parameters(), 1.0)

        def train(model, optimizer, criterion, scheduler, max_steps, max_epochs):
            criterion(model(torch.ones(1, 2)), torch.zeros(1, 1)).backward()
            optimizer.step()

        evaluator = v2.TorchEvaluator(train, optimizer, lambda output, _: 0 * output.sum())
        evaluator.bind_model(model)
        before = model.weight.detach().clone()
        with evaluator.watched(lambda: model.weight[0, 0]):
            evaluator.train()
        assert torch.allclose(before - model.weight, torch.tensor([[1.0, 0.0]]))

    def test_optimizers_and_schedulers_start_anew_for_each_training(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        rates = []

        def train(model, optimizer, training_step, scheduler, max_steps, max_epochs):
            assert not optimizer.state
            rates.append(optimizer.param_groups[0]["lr"])
            by_step(model, optimizer, training_step, scheduler, 3, None)
            rates.append(optimizer.param_groups[0]["lr"])

        evaluator = v3.TorchEvaluator(train, optimizer, step, scheduler)
        evaluator.bind_model(model)
        evaluator.train()
        evaluator.train()
        assert rates == pytest.approx([0.1, 0.0125, 0.1, 0.0125])

    def test_several_optimizers_count_as_one_step(self):
        model = network()
        optimizers = [torch.optim.SGD(model.conv1.parameters(), 0.1), torch.optim.SGD(model.fc.parameters(), 0.1)]
        steps = []

        def train(model, optimizers, training_step, schedulers, max_steps, max_epochs):
            for _ in range(3):
                training_step((IMAGES, LABELS), model).backward()
                for optimizer in optimizers:
                    optimizer.step()

        evaluator = v3.TorchEvaluator(train, optimizers, step)
        evaluator.bind_model(model)
        with evaluator.watched(after_step=lambda: steps.append(None)):
            evaluator.train()
        assert len(steps) == 3

    @pytest.mark.parametrize(("value", "score"), [(0.5, 0.5), ({"default": 0.25, "other": 1}, 0.25), ((0.75, 1), 0.75)])
    def test_scores(self, value, score):
        model = network()
        evaluator = evaluator3(model, evaluating_func=lambda _: value)
        evaluator.bind_model(model)
        assert evaluator.score() == score

    @pytest.mark.parametrize("value", [{"accuracy": 1}, "good", None, float("nan")])
    def test_values_that_are_no_scores(self, value):
        model = network()
        evaluator = evaluator3(model, evaluating_func=lambda _: value)
        evaluator.bind_model(model)
        with pytest.raises(EvaluationError, match="the evaluation function returned"):
            evaluator.score()

    def test_a_training_step_without_a_loss(self):
        model = network()
        evaluator = v3.TorchEvaluator(by_step, torch.optim.SGD(model.parameters(), 0.1), lambda *_: "none")
        with pytest.raises(EvaluationError, match="the training step returned a str"):
            v3.SlimPruner(model, CONVS, evaluator, 2).compress()

    def test_mistakes(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with pytest.raises(InputError, match="training_func is a int"):
            v3.TorchEvaluator(3, optimizer, step)
        with pytest.raises(InputError, match="criterion is a str"):
            v2.TorchEvaluator(by_step, optimizer, "loss")
        with pytest.raises(InputError, match="optimizers holds a float"):
            v3.TorchEvaluator(by_step, 0.1, step)
        with pytest.raises(InputError, match="optimizers is empty"):
            v3.TorchEvaluator(by_step, [], step)
        with pytest.raises(InputError, match="evaluating_func is a int"):
            v3.TorchEvaluator(by_step, optimizer, step, evaluating_func=3)
        with pytest.raises(InputError, match="the evaluator has no model"):
            v3.TorchEvaluator(by_step, optimizer, step).train()
        with pytest.raises(InputError, match="optimizers hold no parameter of this model"):
            v3.TaylorPruner(network(), CONVS, v3.TorchEvaluator(by_step, optimizer, step), 1)

    def test_training_a_copy_and_a_cut_copy_puts_the_optimizer_back(self):
        model, copy = network(), network()
        evaluator = evaluator2(model)
        evaluator.bind_model(model)
        (optimizer,) = evaluator.optimizers
        with evaluator.moved(copy):
            evaluator.train(2)
            assert optimizer.param_groups[0]["params"][0] is copy.conv1.weight
            copy.conv1.weight = nn.Parameter(copy.conv1.weight.detach().clone())
            evaluator.retarget(copy)
            assert optimizer.param_groups[0]["params"][0] is copy.conv1.weight
            evaluator.train(2)
        assert optimizer.param_groups[0]["params"][0] is model.conv1.weight
        assert evaluator.model is model


def test_trace_is_a_pass_through():
    assert facade.trace(torch.optim.SGD) is torch.optim.SGD
    optimizer = facade.trace(torch.optim.SGD)(network().parameters(), lr=0.1)
    assert isinstance(optimizer, torch.optim.SGD)

    @facade.trace
    class Data:
        pass

    @facade.trace(kw_only=False)
    class Other:
        pass

    assert (Data.__name__, Other.__name__) == ("Data", "Other")


@pytest.mark.filterwarnings("ignore")
class TestLightning:
    @pytest.fixture
    def module(self):
        lightning = optional("lightning.pytorch")

        class Module(lightning.LightningModule):
            def __init__(self):
                super().__init__()
                self.network = network()

            def forward(self, x):
                return self.network(x)

            def training_step(self, batch, index):
                return F.cross_entropy(self(batch[0]), batch[1])

            def validation_step(self, batch, index):
                self.log("default", (self(batch[0]).argmax(1) == batch[1]).float().mean())

            def configure_optimizers(self):
                optimizer = torch.optim.SGD(self.parameters(), 0.05)
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

        class Data(lightning.LightningDataModule):
            def train_dataloader(self):
                return DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)

            val_dataloader = train_dataloader

        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        return Module(), facade.LightningEvaluator(trainer, Data(), dummy_input=IMAGES[:1])

    def test_pruning_in_its_training(self, module):
        model, evaluator = module
        before = model.network.fc.weight.detach().clone()
        pruner = v3.TaylorPruner(model, CONVS, evaluator, 6)
        _, masks = pruner.compress(max_steps=8)
        assert shares(masks) == {"network.conv1": 0.5, "network.conv2": 0.5}
        assert not torch.equal(model.network.fc.weight, before)
        pruner.unwrap_model()
        assert "training_step" not in vars(model)

    def test_terms_steps_and_scores(self, module):
        model, evaluator = module
        steps = []
        evaluator.bind_model(model)
        with evaluator.watched(lambda: 0.1 * model.network.fc.weight.sum(), lambda: steps.append(None)):
            evaluator.train(max_steps=3)
            evaluator.train(max_epochs=2)
        assert len(steps) == 3 + 8
        evaluator.finetune()
        assert len(steps) == 11
        assert evaluator.score() == pytest.approx(accuracy(model.eval()), abs=1e-6)

    def test_rounds_on_a_copy(self, module):
        model, evaluator = module
        before = model.network.conv1.weight.detach().clone()
        entry = [{"op_types": ["Conv2d"], "sparsity": 0.5}]
        pruner = v2.AGPPruner(model, entry, "l1", 1, evaluator=evaluator, speedup=True)
        small, _ = pruner.compress()
        assert small.network.conv2.out_channels == 4
        assert torch.equal(model.network.conv1.weight, before)

    def test_a_metric_of_another_name(self, module):
        model, evaluator = module
        evaluator.bind_model(model)
        model.validation_step = lambda batch, batch_idx: None
        with pytest.raises(EvaluationError, match="validation logged nothing; log the metric that counts as 'default'"):
            evaluator.evaluate()

    def test_mistakes(self):
        with pytest.raises(InputError, match="trainer is a int; give a lightning Trainer"):
            facade.LightningEvaluator(3, None)


class Images(nn.Module):
    """Takes and returns what a Trainer of transformers wants."""

    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, x, labels=None):
        logits = self.network(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.filterwarnings("ignore")
class TestTransformers:
    @pytest.fixture
    def trainer(self, tmp_path):
        optional("accelerate")
        transformers = optional("transformers")
        data = [{"x": image, "labels": label} for image, label in zip(IMAGES, LABELS, strict=True)]

        def metrics(prediction):
            return {"default": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}

        options = transformers.TrainingArguments(
            output_dir=str(tmp_path), per_device_train_batch_size=8, num_train_epochs=1, report_to=[], use_cpu=True,
            save_strategy="no", disable_tqdm=True, logging_strategy="no", learning_rate=1e-2,
        )  # fmt: skip
        return transformers.Trainer(Images(), options, train_dataset=data, eval_dataset=data, compute_metrics=metrics)

    def test_pruning_in_its_training(self, trainer):
        model = trainer.model
        evaluator = facade.TransformersEvaluator(trainer, dummy_input=(IMAGES[:1], LABELS[:1]))
        pruner = v3.MovementPruner(model, CONVS, evaluator, 1, 4)
        _, masks = pruner.compress(max_steps=6)
        assert shares(masks) == {"network.conv1": 0.5, "network.conv2": 0.5}
        pruner.unwrap_model()
        assert trainer.args.max_steps == -1

    def test_terms_steps_and_scores(self, trainer):
        evaluator = facade.TransformersEvaluator(trainer)
        evaluator.bind_model(trainer.model)
        steps = []
        with evaluator.watched(lambda: 0.1 * trainer.model.network.fc.weight.sum(), lambda: steps.append(None)):
            evaluator.train(max_steps=3)
            evaluator.train(max_epochs=2)
        assert len(steps) == 3 + 8
        assert trainer.optimizer is None
        assert evaluator.score() == pytest.approx(accuracy(trainer.model.network.eval()), abs=1e-6)

    def test_a_metric_of_another_name(self, trainer):
        evaluator = facade.TransformersEvaluator(trainer)
        evaluator.bind_model(trainer.model)
        trainer.compute_metrics = lambda _: {"accuracy": 1.0}
        with pytest.raises(EvaluationError, match="give the trainer a compute_metrics that returns"):
            evaluator.evaluate()

    def test_mistakes(self):
        with pytest.raises(InputError, match="trainer is a int; give a transformers Trainer"):
            facade.TransformersEvaluator(3)
