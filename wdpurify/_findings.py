"""All warnings about a training run: the problem and the remedy of each."""

from typing import NamedTuple

from .exceptions import (
    AuxiliaryDataWarning,
    CriticWarning,
    FeatureScaleWarning,
    GroupsApartWarning,
    PullNotAppliedWarning,
    PurifyWarning,
)


class Finding(NamedTuple):
    """A finding: the class of its warning, the problem, and the remedy."""

    category: type[PurifyWarning]
    what: str
    remedy: str


#: All findings, by name.
FINDINGS = {
    "dead critic": Finding(
        CriticWarning,
        "The critic's gradient is zero, so purifying pulls nothing.",
        "Use `constraint=GradientPenalty()`, or a `critic` with `activation=nn.LeakyReLU`. "
        "If `metrics().dropped_rows` is high, mend those auxiliary rows that are not finite. "
        "If most batches hold one group, raise the sampler's `batch_size`, or give it the rare value as `fixed`. "
        "If the features are constant, lower `strength`.",
    ),
    "saturated critic": Finding(
        CriticWarning,
        "{value:.0%} of the critic's weights sit at the clipping bound.",
        "Use `constraint=GradientPenalty()` or a larger bound.",
    ),
    "changed critic": Finding(
        CriticWarning,
        "The critic's weights were changed from outside.",
        "Take its parameters out of your optimiser: it has its own.",
    ),
    "collapsed features": Finding(
        FeatureScaleWarning,
        "The features have shrunk to a point, so that little can be learned from them.",
        "Let the pull stop earlier, `strength=BalancedStrength(keep=1)`, or lower `strength` to 0.1.",
    ),
    "unlike rows": Finding(
        FeatureScaleWarning,
        "The auxiliary features are spread {value:.3g} times as widely as the task's, so the pull is "
        "not as large as `strength` asks for.",
        "Give auxiliary rows the task's range, units and normalisation (images: 0 to 1 or 0 to 255).",
    ),
    "dropped rows": Finding(
        AuxiliaryDataWarning,
        "{value:.0%} of the auxiliary rows or of their features are not finite, or too large, and are left out.",
        "Fill in missing numbers, or leave these rows out. If only features are not finite, lower the learning rate.",
    ),
    "groups apart": Finding(
        GroupsApartWarning,
        "The pull is as strong as it may become, and the groups are as far apart as before (separation {value:.2f}).",
        "Call `purify.erase(loader)` after training, which removes what is left. Ask whether the task needs this label.",
    ),
    "one token read": Finding(
        PurifyWarning,
        "The task's gradient arrives at one token of each row, and the pull acts on the mean of all tokens.",
        'Set `pool="last"` for a causal language model, or `pool="first"` for a classifier that reads the first token.',
    ),
    "features without grad": Finding(
        PullNotAppliedWarning,
        "`features` carry no gradient (frozen backbone, no_grad or detach), so there is nothing to purify.",
        "Give the features of a part that is trained, or use `purify.erase(loader)` after training.",
    ),
    "no task gradient": Finding(
        PullNotAppliedWarning,
        "`loss(features)` is not added to the loss, or no task gradient reaches the features, so a balanced strength stays 0.",
        "Add `purify.loss(features)` to the loss that you back-propagate, in every step. Give it the very tensor that the head "
        "reads, not a copy, a view or a second forward. For a compiled model call `backward()` without `inputs`, and in a "
        "compiled step call `loss(features)` before the head reads them.",
    ),
    "no task gradient at layer": Finding(
        PullNotAppliedWarning,
        "No task gradient reaches the input of the layer {layer!r}, so a balanced strength stays 0.",
        "Name the layer that reads the features with `layer=...`. Back-propagate the loss that the wrapped criterion returns. "
        "For a compiled model call `backward()` without `inputs`.",
    ),
    "batched gradients": Finding(
        PullNotAppliedWarning,
        "Gradients of several losses come in one vectorised call (`is_grads_batched=True`), from which the task gradient "
        "cannot be read, so a balanced strength stays 0.",
        "Use `strength=FixedStrength(...)`, or back-propagate the losses one by one.",
    ),
    "evaluation mode": Finding(
        PullNotAppliedWarning,
        "The optimiser steps while the model is in evaluation mode, where `loss(features)` pulls nothing by itself.",
        "Call `model.train()` before training, or `purify.critic_step()` before each backward pass.",
    ),
    "forward writes": Finding(
        PurifyWarning,
        "A forward of the model writes to its parameters in place ({names}), and the one on auxiliary rows did so too.",
        "Write to them outside of `forward()`, or under a flag that your loop sets for its own forwards.",
    ),
    "negative factor": Finding(
        PullNotAppliedWarning,
        "`loss(features)` is multiplied by a number below 0, of which only the magnitude counts.",
        "Add the term to the loss after the minus sign.",
    ),
    "functional transform": Finding(
        PullNotAppliedWarning,
        "The loss is differentiated by torch.func, which the purify term cannot enter.",
        "Use `loss.backward()` or `torch.autograd.grad` for this loss, or train without the term.",
    ),
    "other weights": Finding(
        PullNotAppliedWarning,
        "The model ran with other parameters than its own (functional_call, clones, meta-learning). A pull would be lost.",
        "Make the regularizer for the model that is trained, or copy the trained values into the model. For copies made at "
        "each step (MLDG, Fish) use `objective=OneSided()`, which moves the task features, and `purify.loss(features)`.",
    ),
    "foreign optimiser": Finding(
        PullNotAppliedWarning,
        "Optimisers step, but none of them holds a parameter of the model that the regularizer was made for.",
        "Make it for the model that is trained (a copy has other parameters). Where that model is updated by hand, call "
        "`purify.optimizer_stepped()` after each update.",
    ),
    "no step seen": Finding(
        PullNotAppliedWarning,
        "No step of an optimiser that holds the model's parameters was seen, so passes are counted as iterations.",
        "If your optimiser is no torch.optim.Optimizer, call `purify.optimizer_stepped()` after each of its steps.",
    ),
    "term not added": Finding(
        PullNotAppliedWarning,
        "The model was trained for {value:.0f} steps by losses without the purify term.",
        "Call the wrapped criterion itself, not a method of it, and wrap the innermost one where there are several; or add "
        "`purify.loss()` to the loss. A layer in eval mode is passed by: name one in train mode with `layer=...`.",
    ),
    "loss not called": Finding(
        PullNotAppliedWarning,
        "The model was trained for {value:.0f} steps without a call of `loss(features)`, so nothing is pulled.",
        "Add `purify.loss(features)` to the loss that you back-propagate, in every step. Call `purify.remove()` on a "
        "regularizer that is not used, or make it after training if it only erases.",
    ),
    "silent tap": Finding(
        PullNotAppliedWarning,
        "The tapped layer {layer!r} sees no training forwards.",
        "Train the very model that the regularizer was made for: copies and fresh models need one of their own. For copies "
        "made at each step use `objective=OneSided()` and `purify.loss(features)`. Keep the layer in train mode, or name "
        "another one with `layer=...`. Make the regularizer before the first call of a compiled model, and call "
        "`torch._dynamo.reset()` if one like it was compiled before.",
    ),
}
