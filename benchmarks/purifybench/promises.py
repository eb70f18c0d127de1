"""Promises of the library, each with one change of its code that breaks it and the tests that must notice."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Break:
    """One promise, broken.

    Attributes:
        promise: what no longer holds.
        file: where, below the repository's root.
        old: text that occurs there once.
        new: what it becomes.
        tests: files of tests, below `tests`, one of which must go red.
    """

    promise: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


CORE = "wdpurify/"

#: A new promise of the library gets a line here, and is to be seen red.
BREAKS = (
    # Lifetime and traces
    Break(
        "nothing of an iteration stays alive",
        CORE + "pull/hand_over.py",
        "            features.register_hook(_Reader(self, number))\n",
        "            reader: Any = _Reader(self, number)\n            reader.kept = features\n"
        "            features.register_hook(reader)\n",
        ("test_lifetime.py",),
    ),
    Break(
        "what is held is let go at the optimiser's step",
        CORE + "_iterations.py",
        "        if ended is not None:\n            ended()\n",
        "",
        ("test_lifetime.py",),
    ),
    Break(
        "the user's hooks see no auxiliary rows",
        CORE + "features/lending.py",
        "for key, hook in value.items() if root_library(hook) in STRUCTURAL)",
        "for key, hook in value.items())",
        ("test_traces.py",),
    ),
    Break(
        "containers that the model writes to are as they were",
        CORE + "features/lending.py",
        "        copied = value.copy()\n",
        "        return value\n        copied = value.copy()\n",
        ("test_traces.py",),
    ),
    Break(
        "BatchNorm statistics stay untouched",
        CORE + "features/lending.py",
        "            return {key: self._copied(buffer) for key, buffer in value.items()}",
        "            return value",
        ("test_side_effects.py",),
    ),
    Break(
        "the global random state is as it was",
        CORE + "_torch/randomness.py",
        "            generator.set_state(state)\n",
        "            pass\n",
        ("test_side_effects.py",),
    ),
    # The user's model
    Break(
        "rows that are not finite reach no normalisation layer",
        CORE + "_acting.py",
        "    replaced = {name: replace_rows(value, keep) for name, value in floating.items()}",
        "    replaced = dict(floating)",
        ("test_model_stays_finite.py", "test_rubbish.py"),
    ),
    Break(
        "a pull that is not finite is dropped",
        CORE + "_acting.py",
        "    finite = norms.isfinite().all()",
        "    finite = norms.isfinite().all() | True",
        ("test_model_stays_finite.py", "test_rubbish.py"),
    ),
    Break(
        "a step that a scaler skips teaches nothing",
        CORE + "pull/window.py",
        "        says = torch.isfinite(value * weight) & (weight > 0)",
        "        says = weight > 0",
        ("test_rubbish.py", "test_strength_properties.py", "test_precision.py"),
    ),
    Break(
        "one outlier does not rule the strength",
        CORE + "pull/window.py",
        "torch.fmin(values, limit)",
        "values",
        ("test_strength_properties.py",),
    ),
    # The pull
    Break(
        "a wrapped criterion has the value of the bare one",
        CORE + "features/criterion.py",
        "with_pull(loss, term)",
        "loss + term",
        ("test_value_of_the_term.py",),
    ),
    Break(
        "groups are brought together whatever the sign of the loss",
        CORE + "pull/hand_over.py",
        "-scale.abs() if ctx.climbed else scale.abs()",
        "scale",
        ("test_value_of_the_term.py",),
    ),
    Break(
        "the gain does not grow where the features lose their spread",
        CORE + "pull/gain.py",
        "        room = kept**CARE * (",
        "        room = (",
        ("test_gain.py",),
    ),
    Break(
        "the gain falls back once the groups are together",
        CORE + "pull/gain.py",
        ".clamp(0.0, 2.0) - 1.0",
        ".clamp(1.0, 2.0) - 1.0",
        ("test_gain.py",),
    ),
    Break(
        "what is folded into the classifier is the eraser",
        CORE + "erasure/erase.py",
        "    return weight - seen @ read.T, ",
        "    return weight, ",
        ("test_erasure.py",),
    ),
    Break(
        "the pull comes before the critic learns from the rows",
        CORE + "_acting.py",
        "            trainer.see(pull.spread.typical)\n",
        "            trainer.see(pull.spread.typical)\n"
        "            weights = gap_weights(rows.groups, rows.population, trainer.critic[-1].out_features)\n"
        "            trainer.fit(rows.features, rows.groups, rows.population, weights=weights, step=number)\n",
        ("test_invariance_properties.py", "test_metrics.py", "test_regularizer.py"),
    ),
    Break(
        "a pull that is to keep the features' spread does",
        CORE + "pull/strength.py",
        "        if self.keep > 0:\n",
        "        if False:\n",
        ("test_spread.py", "test_strength_properties.py"),
    ),
    Break(
        "a pull that outweighs the task gradient below the features is weakened",
        CORE + "pull/coherence.py",
        "        return (self.ratio / TOLERANCE).nan_to_num(nan=1.0, posinf=1.0).clamp(min=1.0)\n",
        "        return torch.ones_like(self.ratio)\n",
        ("test_coherence.py",),
    ),
    Break(
        "micro-batches are as coherent as the batch that they make",
        CORE + "pull/task_gradient.py",
        "self._sums = sums if self._sums is None else moved(self._sums, sums.device) + sums\n",
        "self._sums = sums\n",
        ("test_coherence.py",),
    ),
    Break(
        "ranks are as coherent as one process with all their rows",
        CORE + "pull/task_gradient.py",
        "    sums = rows[..., 2:].sum(0)\n",
        "    sums = rows[0, ..., 2:]\n",
        ("test_distributed.py",),
    ),
    Break(
        "a compiled model's task gradient is measured like any other's",
        CORE + "pull/hand_over.py",
        "        ctx.known = ctx.count > 0 and features.ndim == 2\n",
        "        ctx.known = False\n",
        ("test_coherence.py",),
    ),
    Break(
        "the coherence of pull and task gradient is saved",
        CORE + "pull/pull.py",
        '        self.coherence.load_state_dict(state["coherence"])\n',
        "",
        ("test_coherence.py",),
    ),
    Break(
        "features that have collapsed are named",
        CORE + "_monitor.py",
        '"spread_kept": (0.02, math.inf)',
        '"spread_kept": (-1.0, math.inf)',
        ("test_spread.py",),
    ),
    Break(
        "auxiliary images of another range are named",
        CORE + "_monitor.py",
        '"spread_beside_task": (1 / 30, 30.0)',
        '"spread_beside_task": (-1.0, math.inf)',
        ("test_warnings.py",),
    ),
    Break(
        "a `loss()` without a `critic_step()` in its iteration is named",
        CORE + "_iterations.py",
        "(self.watches or not self.stepped)",
        "True",
        ("test_missed_terms.py",),
    ),
    Break(
        "losses that come past the term are named",
        CORE + "_reach.py",
        "tap.was_passed_by() and",
        "False and",
        ("test_missed_terms.py",),
    ),
    Break(
        "a criterion carries one term of its kind",
        CORE + "_registry.py",
        "        if acts and other.tap.layer",
        "        if False and other.tap.layer",
        ("test_criterion.py",),
    ),
    Break(
        "a column of pandas is read by place",
        CORE + "_images.py",
        '    return getattr(images, "iloc", images)\n',
        "    return images\n",
        ("test_images.py",),
    ),
    Break(
        "a value that most batches consist of is named",
        CORE + "_labels.py",
        "    if counts[common] > LONE_VALUE * total and",
        "    if False and",
        ("test_labels.py",),
    ),
    Break(
        "the scale of the features plays no part",
        CORE + "critic/trainer.py",
        "        if self._scale_features:\n",
        "        if False:\n",
        ("test_invariance_properties.py",),
    ),
    Break(
        "several passes balance like one concatenated batch",
        CORE + "functional.py",
        "    return norm / math.sqrt(passes)",
        "    return norm",
        ("test_passes.py",),
    ),
    Break(
        "our own gradient is not taken for the task's",
        CORE + "pull/hand_over.py",
        "            task = task if own is None else task - own.float()\n",
        "",
        ("test_strength_properties.py", "test_passes.py"),
    ),
    Break(
        "a pull that was made at other weights is made anew",
        CORE + "_game.py",
        "        elif self._batch is not None and self._weights_changed():",
        "        elif False:",
        ("test_passes.py",),
    ),
    Break(
        "a pass whose loss is pending begins no iteration",
        CORE + "_iterations.py",
        "not (self._announced or pending or self._resumed)",
        "not (self._announced or self._resumed)",
        ("test_passes.py", "test_iterations.py"),
    ),
    Break(
        "the pull fades as the groups come together",
        CORE + "pull/strength.py",
        "            wanted = wanted * (separation / self.fade).clamp(0.0, 1.0)\n",
        "            pass\n",
        ("test_strength_properties.py", "test_invariance_properties.py"),
    ),
    Break(
        "no_grad and inference mode around the first line cost no pull",
        CORE + "_acting.py",
        "with torch.inference_mode(False), forward.lent",
        "with forward.lent",
        ("test_passes.py",),
    ),
    Break(
        "padding plays no part in pooling",
        CORE + "features/pooling.py",
        "    if mask is not None and mask.shape != features.shape[:2]:",
        "    if True:",
        ("test_pooling.py",),
    ),
    Break(
        "weights are clipped after the optimiser's step",
        CORE + "critic/trainer.py",
        "                self.constraint.project_(self.critic)\n",
        "",
        ("test_regularizer.py", "test_lipschitz_properties.py"),
    ),
    Break(
        "a compiled backward pass works",
        CORE + "_torch/compiled.py",
        '("compiled_autograd_enabled", "in_compiled_autograd_region")',
        "()",
        ("test_compiled.py",),
    ),
    Break(
        "checkpoints that need images with a gradient keep the term",
        CORE + "features/auxiliary.py",
        "any(parameter.requires_grad for parameter in self.model.parameters())",
        "False",
        ("test_compiled.py",),
    ),
    # The figures
    Break(
        "what chance gives is exact",
        CORE + "pull/separation.py",
        "(1.0 - DECAY) ** 2 * variance",
        "(1.0 - DECAY) * variance",
        ("test_invariance_properties.py",),
    ),
    Break(
        "many groups cost no more than the critic",
        CORE + "pull/separation.py",
        "(centred @ weights.T).square().sum()",
        "((weights.T @ weights) * (centred.T @ centred)).sum()",
        ("test_many_groups.py",),
    ),
    # Saved and loaded
    Break(
        "a state is checked before it is taken over",
        CORE + "_state.py",
        "        check_state(state, options=self._options, critic=self._trainer.critic)\n",
        "",
        ("test_state.py", "test_rubbish.py"),
    ),
    Break(
        "a state that is refused changes nothing",
        CORE + "_state.py",
        "            self._take_over(before)\n",
        "            pass\n",
        ("test_state.py", "test_rubbish.py"),
    ),
    Break(
        "the spread of the features is saved",
        CORE + "critic/trainer.py",
        '        self._spread = state["spread"].clone()\n',
        "",
        ("test_state.py", "test_interruption.py"),
    ),
    Break(
        "the separation is loaded",
        CORE + "pull/pull.py",
        '        self.separation.load_state_dict(state["separation"])\n',
        "",
        ("test_state.py", "test_interruption.py"),
    ),
    Break(
        "a pull under way is saved",
        CORE + "_game.py",
        '            self._pull.take_prepared(state["prepared"], self._forward.model.named_parameters())\n',
        "            pass\n",
        ("test_interruption.py",),
    ),
    Break(
        "an iteration under way goes on after loading",
        CORE + "_iterations.py",
        "        self._resumed = number >= 0 and not stepped and (announced or number == 0)\n",
        "        self._resumed = False\n",
        ("test_interruption.py",),
    ),
    Break(
        "a state of all ranks gives each its own",
        CORE + "_state.py",
        "        return dict(ranks[rank])\n",
        "        return dict(ranks[0])\n",
        ("test_interruption.py",),
    ),
    Break(
        "a file is whole or absent",
        "integrations/_files.py",
        'unfinished = path.with_name(f"{path.name}.unfinished")',
        "unfinished = path",
        ("test_files.py",),
    ),
    Break(
        "a copy trains by itself",
        CORE + "_sampler.py",
        "        copied = copy.copy(self)  # the rows are never written to\n",
        "        copied = self\n",
        ("test_copies.py",),
    ),
    # Ranks
    Break(
        "ranks that differ are refused",
        CORE + "_torch/ranks.py",
        "        if other is not None:\n",
        "        if False:\n",
        ("test_unlike_ranks.py",),
    ),
    Break(
        "parameters that a pass does not reach get no pull under DDP",
        CORE + "pull/pull.py",
        "        if ranks > 1:\n                reachable",
        "        if False:\n                reachable",
        ("test_distributed.py",),
    ),
    Break(
        "every rank starts from the first one's critic",
        CORE + "critic/trainer.py",
        "            self._seed = copy_from_first_rank(self.critic, self._seed)\n",
        "",
        ("test_distributed.py",),
    ),
    Break(
        "ranks stay together after a state of one of them",
        CORE + "_state.py",
        "        return _between_iterations(ranks[0])  # as on the other ranks, which cannot go on inside one\n",
        "        return dict(ranks[0])\n",
        ("test_interruption.py",),
    ),
    Break(
        "sharded models are pulled",
        CORE + "pull/pull.py",
        "is_shard(pair[0]) or id(pair[0]) in reachable",
        "id(pair[0]) in reachable",
        ("test_distributed.py",),
    ),
    # Labels
    Break(
        "labels that read differently in another process are refused",
        CORE + "_labels.py",
        "not isinstance(value, Set) and ",
        "",
        ("test_labels.py",),
    ),
    Break(
        "each row comes once before any comes twice",
        CORE + "_sampler.py",
        "derive_seed(self.seed, name, epoch)",
        "derive_seed(self.seed, name)",
        ("test_sampler_properties.py",),
    ),
    # The audit
    Break(
        "hostile names do no harm in Markdown",
        CORE + "audit/_text.py",
        'r"\\\\\\1", shown(text))',
        'r"\\1", shown(text))',
        ("audit/test_audit.py",),
    ),
    Break(
        "the paper's preset reads features as they come",
        CORE + "_options.py",
        '    "scale_features": False,\n',
        "",
        ("test_regularizer.py", "test_invariance_properties.py"),
    ),
)
