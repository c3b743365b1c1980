"""Faces of what a phase reads, its training, and the merge of the branches: a signature and one call each.

Arguments named `*_config` are sections of the recipe; `name` is the phase.
"""
# ruff: noqa: D417 (Kubeflow takes the descriptions of outputs from `Returns`)

from kfp import dsl

from components.images import CPU, GPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def init(
    tokenizer: dsl.Input[dsl.Artifact],
    seed: int,
    model_config: dict,
    tokenizer_config: dict,
    out: dsl.Output[dsl.Model],
) -> None:
    """Make the checkpoint at step 0: random, or a released model taken over.

    Args:
        tokenizer: Tokenizer files.
        seed: Seed of everything random.
        model_config: Section `model`: sizes and dtype.
        tokenizer_config: Section `tokenizer`.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
    """
    from mmenc.kubeflow import run_step

    sections = {"seed": seed, "model": model_config, "tokenizer": tokenizer_config}
    inputs = {"tokenizer": tokenizer}
    run_step("init", 1, "", sections, inputs, out)


@dsl.component(base_image=CPU, install_kfp_package=False)
def mixture(
    tokens: dsl.Input[dsl.Dataset],
    languages_config: dict,
    phases_config: dict,
    name: str,
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Compute what one phase reads: quota, epochs and caps per language.

    Args:
        tokens: Token shards with their index.
        languages_config: Section `languages`: the waves.
        phases_config: Section `phases`: the tree of phases; its shape is fixed when compiled.
        name: The phase.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
    """
    from mmenc.kubeflow import run_step

    sections = {"languages": languages_config, "phases": phases_config}
    inputs = {"tokens": tokens}
    run_step("mixture", 1, name, sections, inputs, out, metrics=metrics)


@dsl.component(base_image=GPU, install_kfp_package=False)
def train(
    tokens: dsl.Input[dsl.Dataset],
    mixture: dsl.Input[dsl.Artifact],
    init: dsl.Input[dsl.Model],
    seed: int,
    model_config: dict,
    tokenizer_config: dict,
    phases_config: dict,
    languages_config: dict,
    compute_config: dict,
    name: str,
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train one phase from its parent's checkpoint.

    Args:
        tokens: Token shards with their index.
        mixture: Quota per language and bucket of this phase.
        init: Checkpoint that this phase starts from: of its parent phase, or of step 0.
        seed: Seed of everything random.
        model_config: Section `model`: sizes and dtype.
        tokenizer_config: Section `tokenizer`.
        phases_config: Section `phases`: the tree of phases; its shape is fixed when compiled.
        languages_config: Section `languages`: the waves.
        compute_config: Section `compute`: threads, device, micro-batch; never part of a result.
        name: The phase.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
    """
    from mmenc.kubeflow import run_step

    sections = {
        "seed": seed,
        "model": model_config,
        "tokenizer": tokenizer_config,
        "phases": phases_config,
        "languages": languages_config,
        "compute": compute_config,
    }
    inputs = {"tokens": tokens, "mixture": mixture, "init": init}
    run_step("train", 1, name, sections, inputs, out, metrics=metrics)


@dsl.component(base_image=CPU, install_kfp_package=False)
def merge(
    base: dsl.Input[dsl.Model],
    tokens: dsl.Input[dsl.Dataset],
    seed: int,
    model_config: dict,
    merge_config: dict,
    compute_config: dict,
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    branch_1: dsl.Input[dsl.Model] | None = None,
    branch_2: dsl.Input[dsl.Model] | None = None,
    branch_3: dsl.Input[dsl.Model] | None = None,
    branch_4: dsl.Input[dsl.Model] | None = None,
    branch_5: dsl.Input[dsl.Model] | None = None,
    branch_6: dsl.Input[dsl.Model] | None = None,
    branch_7: dsl.Input[dsl.Model] | None = None,
    branch_8: dsl.Input[dsl.Model] | None = None,
) -> None:
    """Merge the decay branches against their base; what is free is chosen on dev.

    Args:
        base: Checkpoint that the branches share.
        tokens: Token shards with their index.
        seed: Seed of everything random.
        model_config: Section `model`: sizes and dtype.
        merge_config: Section `merge`: base, branches, method.
        compute_config: Section `compute`: threads, device, micro-batch; never part of a result.
        branch_1: Checkpoint of a branch.
        branch_2: Checkpoint of a branch.
        branch_3: Checkpoint of a branch.
        branch_4: Checkpoint of a branch.
        branch_5: Checkpoint of a branch.
        branch_6: Checkpoint of a branch.
        branch_7: Checkpoint of a branch.
        branch_8: Checkpoint of a branch.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
    """
    from mmenc.kubeflow import run_step

    sections = {"seed": seed, "model": model_config, "merge": merge_config, "compute": compute_config}
    inputs = {"train": [base, branch_1, branch_2, branch_3, branch_4, branch_5, branch_6, branch_7, branch_8], "tokens": tokens}
    run_step("merge", 1, "", sections, inputs, out, metrics=metrics)
