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
    store: str,
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    source: dsl.Input[dsl.Model] | None = None,
) -> None:
    """Make the checkpoint at step 0: random, or a released model taken over.

    Args:
        tokenizer: Tokenizer files.
        seed: Seed of everything random.
        model_config: Section `model`: sizes and dtype.
        tokenizer_config: Section `tokenizer`.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.
        source: A released model to start from; stands for `model.source`.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
    """
    from mmenc.kubeflow import run_step

    sections = {"seed": seed, "model": model_config, "tokenizer": tokenizer_config, "store": store}
    inputs = {"tokenizer": tokenizer, "source": source}
    run_step("init", 1, "", sections, inputs, out, metrics=metrics)


@dsl.component(base_image=CPU, install_kfp_package=False)
def mixture(
    tokens: dsl.Input[dsl.Dataset],
    languages_config: dict,
    phase_config: dict,
    name: str,
    store: str,
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Compute what one phase reads: quota, epochs and caps per language.

    Args:
        tokens: Token shards with their index.
        languages_config: Section `languages`: the waves.
        phase_config: This phase, of section `phases`; its name and its `init` are fixed when compiled.
        name: The phase.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: Share, tokens and epochs per language and bucket.
    """
    from mmenc.kubeflow import run_step

    sections = {"languages": languages_config, "phase": phase_config, "store": store}
    inputs = {"tokens": tokens}
    run_step("mixture", 1, name, sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=GPU, install_kfp_package=False)
def train(
    tokens: dsl.Input[dsl.Dataset],
    mixture: dsl.Input[dsl.Artifact],
    init: dsl.Input[dsl.Model],
    seed: int,
    model_config: dict,
    tokenizer_config: dict,
    phase_config: dict,
    languages_config: dict,
    compute_config: dict,
    name: str,
    store: str,
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Train one phase from its parent's checkpoint.

    Args:
        tokens: Token shards with their index.
        mixture: Quota per language and bucket of this phase.
        init: Checkpoint that this phase starts from: of its parent phase, or of step 0.
        seed: Seed of everything random.
        model_config: Section `model`: sizes and dtype.
        tokenizer_config: Section `tokenizer`.
        phase_config: This phase, of section `phases`; its name and its `init` are fixed when compiled.
        languages_config: Section `languages`: the waves.
        compute_config: What running reads of section `compute`: threads, device, micro-batch, store; never part of a result.
        name: The phase.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: Curves of the loss, and what was read against the plan.
    """
    from mmenc.kubeflow import run_step

    sections = {
        "seed": seed,
        "model": model_config,
        "tokenizer": tokenizer_config,
        "phase": phase_config,
        "languages": languages_config,
        "compute": compute_config,
        "store": store,
    }
    inputs = {"tokens": tokens, "mixture": mixture, "init": init}
    run_step("train", 3, name, sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def merge(
    base: dsl.Input[dsl.Model],
    tokens: dsl.Input[dsl.Dataset],
    seed: int,
    model_config: dict,
    merge_config: dict,
    compute_config: dict,
    store: str,
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
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
        compute_config: What running reads of section `compute`: threads, device, micro-batch, store; never part of a result.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.
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
        page: Dev loss of every merge that was tried, and of each branch alone.
    """
    from mmenc.kubeflow import run_step

    sections = {"seed": seed, "model": model_config, "merge": merge_config, "compute": compute_config, "store": store}
    inputs = {"train": [base, branch_1, branch_2, branch_3, branch_4, branch_5, branch_6, branch_7, branch_8], "tokens": tokens}
    run_step("merge", 2, "", sections, inputs, out, metrics=metrics, page=page)
