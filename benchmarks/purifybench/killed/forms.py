"""One small training in each form of loop: it saves at every step, goes on from the newest that is whole, and writes its end.

The data of a step depend on the number of the step alone, so a run that was killed any number of times must end with the very
weights of one that was not. Frameworks are imported where they are used: a form needs no other's.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from wdpurify import GroupSampler, PurifyRegularizer
from wdpurify.integrations._files import save_whole

STEPS = 8
WIDTH = 6
PARTS = 3
END = "end.pt"

#: Trains in a folder, from what is there on, and writes the end there.
Form = Callable[[Path], None]


class Network(nn.Module):
    """Convolution, BatchNorm, features of width :data:`WIDTH` and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, WIDTH)
        )
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Images to class scores."""
        scores: Tensor = self.head(self.body(images))
        return scores


def batch(step: int, part: int = 0) -> tuple[Tensor, Tensor]:
    """Images and classes of a step."""
    generator = torch.Generator().manual_seed(PARTS * step + part)
    return torch.rand((12, 3, 8, 8), generator=generator), torch.randint(4, (12,), generator=generator)


def auxiliary() -> tuple[Tensor, list[int]]:
    """Auxiliary images, brighter with the group, and their groups."""
    groups = [row % 3 for row in range(60)]
    images = torch.rand((60, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return images + torch.tensor(groups)[:, None, None, None], groups


def sampler() -> GroupSampler:
    """Draws from the auxiliary images."""
    return GroupSampler(*auxiliary(), batch_size=16)


def streamed(folder: Path) -> Any:
    """Draws from a stream of parquet files, by two workers."""
    from datasets import load_dataset

    from wdpurify.integrations.hf_datasets import group_sampler

    files = sorted(str(file) for file in folder.parent.glob("auxiliary-*.parquet"))
    rows = load_dataset("parquet", data_files=files, split="train", streaming=True)
    return group_sampler(
        rows, group="group", image="image", transform=_as_image, values=[0, 1, 2], batch_size=16, buffer_size=25, num_workers=1
    )


def write_stream(folder: Path) -> None:
    """The files that :func:`streamed` reads."""
    images, groups = auxiliary()
    for number, part in enumerate((slice(0, 30), slice(30, 60))):
        rows = pd.DataFrame({"image": images[part].flatten(1).tolist(), "group": groups[part]})
        rows.to_parquet(folder / f"auxiliary-{number}.parquet")


def _as_image(pixels: Any) -> Tensor:
    return torch.as_tensor(pixels).view(3, 8, 8)


class Loop:
    """A loop of one's own: a model, and its loss with the term, by hand or by a wrapped criterion.

    Args:
        rows: a sampler; None leaves the term out.
        tapped: wrap the criterion.
    """

    def __init__(self, rows: Any, *, tapped: bool) -> None:
        self.model = Network()
        self.criterion: Any = nn.CrossEntropyLoss()
        self.purify: Any = None
        self._by_hand = rows is not None and not tapped
        if self._by_hand:
            self.purify = PurifyRegularizer(self.model.body, rows, feature_dim=WIDTH)
        elif rows is not None:
            self.purify = PurifyRegularizer.for_model(self.model, rows)
            self.criterion = self.purify.criterion(self.criterion)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The task's loss with the term."""
        if not self._by_hand:
            loss: Tensor = self.criterion(self.model(images), labels)
            return loss
        self.purify.critic_step()
        features = self.model.body(images)
        return nn.functional.cross_entropy(self.model.head(features), labels) + self.purify.loss(features)


def save_end(file: Path, model: nn.Module, purify: Any) -> None:
    """Write what must be equal in the end: the weights of model and critic."""
    save_whole({"model": model.state_dict(), "critic": purify.state_dict()["critic"]}, file)


def train(folder: Path, loop: Loop, *, parts: int = 1) -> None:
    """Train from where the folder's file is; with several micro-batches a step it is saved after each, with their gradients."""
    file = folder / "state.pt"
    optimizer = torch.optim.AdamW(loop.model.parameters(), 1e-2)
    saved = {"model": loop.model, "optimizer": optimizer, "purify": loop.purify}
    begin = 0
    if file.exists():
        state = torch.load(file, weights_only=True)
        for name, part in saved.items():
            part.load_state_dict(state[name])
        for parameter, gradient in zip(loop.model.parameters(), state["gradients"], strict=True):
            parameter.grad = gradient
        begin = state["place"]
    for place in range(begin, STEPS * parts):
        step, micro_batch = divmod(place, parts)
        (loop.loss(*batch(step, micro_batch)) / parts).backward()
        if micro_batch == parts - 1:
            optimizer.step()
            optimizer.zero_grad()
        states = {name: part.state_dict() for name, part in saved.items()}
        gradients = [parameter.grad for parameter in loop.model.parameters()]
        save_whole({**states, "gradients": gradients, "place": place + 1}, file)
    save_end(folder / END, loop.model, loop.purify)


def own_loop(folder: Path, *, tapped: bool, parts: int = 1, stream: bool = False) -> None:
    """``critic_step()`` and ``loss(features)`` by hand, or the criterion wrapped; rows at hand, or that workers read ahead."""
    rows = streamed(folder) if stream else sampler()
    train(folder, Loop(rows, tapped=tapped), parts=parts)
    getattr(rows, "close", bool)()


def accelerate(folder: Path) -> None:
    """``accelerator.save_state`` into a folder per step, with a mark when it is whole."""
    from accelerate import Accelerator

    from wdpurify.integrations.hf_accelerate import purified

    accelerator = Accelerator(cpu=True)
    model = Network()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 1e-2))
    purify = purified(accelerator, model, sampler())
    criterion = purify.criterion(nn.CrossEntropyLoss())
    whole = newest(folder.glob("step-*/whole"))
    begin = 0
    if whole is not None:
        accelerator.load_state(str(whole.parent))
        begin = int(whole.parent.name.removeprefix("step-"))
    for step in range(begin, STEPS):
        images, labels = batch(step)
        accelerator.backward(criterion(model(images), labels))
        optimizer.step()
        optimizer.zero_grad()
        place = folder / f"step-{step + 1}"
        shutil.rmtree(place, ignore_errors=True)  # what a kill has left of it
        accelerator.save_state(str(place))
        (place / "whole").touch()
    save_end(folder / END, accelerator.unwrap_model(model), purify)


def timm(folder: Path) -> None:
    """timm's task, whose state goes with the checkpoint."""
    from timm.task import ClassificationTask

    from wdpurify.integrations.timm_models import PurifyTask

    model = Network()
    task = PurifyTask(ClassificationTask(model, criterion=nn.CrossEntropyLoss()), sampler(), layer="head")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    file = folder / "state.pt"
    begin = 0
    if file.exists():
        saved = torch.load(file, weights_only=True)
        task.load_checkpoint_state(saved["state_dict"], saved["task_state"])
        optimizer.load_state_dict(saved["optimizer"])
        begin = int(saved["step"])
    for step in range(begin, STEPS):
        task(*batch(step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        save_whole({**task.get_checkpoint_state(), "optimizer": optimizer.state_dict(), "step": step + 1}, file)
    save_end(folder / END, model, task.purify)


def lightning(folder: Path) -> None:
    """Lightning's own checkpoints, one a step."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint

    from wdpurify.integrations.lightning_callback import PurifyCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Network()

        def forward(self, images: Tensor) -> Tensor:
            scores: Tensor = self.network(images)
            return scores

        def training_step(self, rows: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(rows[0]), rows[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 1e-2)

    callback = PurifyCallback(sampler(), layer="network.head", log_every=0)
    keeper = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_epochs=STEPS, callbacks=[callback, keeper], **quiet)
    # An epoch per step: from a checkpoint inside an epoch that was itself resumed, Lightning trains more steps than asked for.
    loader = DataLoader(TensorDataset(*batch(0)), batch_size=12)
    module = Module()
    trainer.fit(module, loader, ckpt_path=newest(folder.glob("*.ckpt"), readable), weights_only=False)
    save_end(folder / END, module.network, callback)


def transformers(folder: Path) -> None:
    """The Trainer's own checkpoints, one a step."""
    from transformers import Trainer, TrainingArguments

    from wdpurify.integrations.hf_transformers import STATE_FILE, purify_trainer

    class Model(Network):
        def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Any:
            scores = super().forward(pixel_values)
            return (scores,) if labels is None else (nn.functional.cross_entropy(scores, labels), scores)

    rows = [{"pixel_values": image, "labels": label} for image, label in zip(*batch(0), strict=True)] * STEPS
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=12,
        max_steps=STEPS,
        save_steps=1,
        logging_steps=1000,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    model = Model()
    trainer = Trainer(model=model, args=args, train_dataset=rows)  # type: ignore[arg-type]
    images, groups = auxiliary()
    purify = purify_trainer(trainer, GroupSampler([{"pixel_values": image} for image in images], groups, batch_size=16))
    whole = newest(folder.glob(f"checkpoint-*/{STATE_FILE}"))
    for unfinished in folder.glob("checkpoint-*"):
        if whole is None or not (unfinished / STATE_FILE).exists():
            shutil.rmtree(unfinished)
    trainer.train(resume_from_checkpoint=None if whole is None else str(whole.parent))
    save_end(folder / END, model, purify)


def newest(files: Iterator[Path], accept: Callable[[Path], bool] = lambda file: True) -> Path | None:
    """The file that was written last among those that are accepted."""
    return max(filter(accept, files), key=lambda file: file.stat().st_mtime_ns, default=None)


def readable(file: Path) -> bool:
    """Whether a checkpoint is whole: frameworks that write it in place leave a part of one when they are killed."""
    try:
        torch.load(file, weights_only=False, map_location="meta")
    except (RuntimeError, EOFError, OSError):
        return False
    return True


FORMS: Mapping[str, Form] = {
    "explicit": partial(own_loop, tapped=False),
    "tapped": partial(own_loop, tapped=True),
    "accumulation": partial(own_loop, tapped=False, parts=PARTS),
    "stream with workers": partial(own_loop, tapped=True, stream=True),
    "Accelerate": accelerate,
    "timm": timm,
    "Lightning": lightning,
    "Trainer": transformers,
}
