"""Faces of the scores, the released model and the report: a signature and one call each.

Arguments named `*_config` are sections of the recipe; `name` is the phase.
"""
# ruff: noqa: D417, UP045 (Kubeflow takes the descriptions of outputs from `Returns`, and knows `dict | None` not)

from typing import Optional

from kfp import dsl

from components.images import CPU


@dsl.component(base_image=CPU, install_kfp_package=False)
def evaluate(
    model: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
    languages_config: dict,
    model_config: dict,
    evaluate_config: dict,
    compute_config: dict,
    name: str,
    store: str,
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    scripts: dsl.Output[dsl.ClassificationMetrics],
) -> None:
    """Score one model per language and tier on held-out text.

    Args:
        model: Checkpoint or merged model.
        tokenizer: Tokenizer files.
        tokens: Token shards with their index.
        languages_config: Section `languages`: the waves.
        model_config: Section `model`: sizes and dtype.
        evaluate_config: Section `evaluate`.
        compute_config: What running reads of section `compute`: threads, device, micro-batch, store; never part of a result.
        name: The phase (or `merge`).
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: Results per tier, beside unigram models.
        scripts: Script of the masked token (rows) and of the model's guess (columns).
    """
    from mmenc.kubeflow import run_step

    sections = {
        "languages": languages_config,
        "model": model_config,
        "evaluate": evaluate_config,
        "compute": compute_config,
        "store": store,
    }
    inputs = {"model": model, "tokenizer": tokenizer, "tokens": tokens}
    run_step("evaluate", 5, name, sections, inputs, out, metrics=metrics, page=page, scripts=scripts)


@dsl.component(base_image=CPU, install_kfp_package=False)
def release(
    model: dsl.Input[dsl.Model],
    tokenizer: dsl.Input[dsl.Artifact],
    evaluate: dsl.Input[dsl.Artifact],
    validate: dsl.Input[dsl.Artifact],
    tokens: dsl.Input[dsl.Dataset],
    model_config: dict,
    release_config: dict,
    seed: int,
    evaluate_config: dict,
    compute_config: dict,
    store: str,
    out: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.Markdown],
    source: dsl.Input[dsl.Model] | None = None,
) -> None:
    """Export as a Hugging Face model with its card; logits are compared with transformers.

    Args:
        model: Checkpoint or merged model.
        tokenizer: Tokenizer files.
        evaluate: Scores of the merged model.
        validate: Verdict of the gate; a red one stops this step.
        tokens: Token shards with their index.
        model_config: Section `model`: sizes and dtype.
        release_config: Section `release`.
        seed: Seed of everything random.
        evaluate_config: Section `evaluate`.
        compute_config: What running reads of section `compute`: threads, device, micro-batch, store; never part of a result.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.
        source: The last release, to be no worse than; stands for `release.previous`.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: The page for people.
    """
    from mmenc.kubeflow import run_step

    sections = {
        "model": model_config,
        "release": release_config,
        "seed": seed,
        "evaluate": evaluate_config,
        "compute": compute_config,
        "store": store,
    }
    inputs = {
        "model": model,
        "tokenizer": tokenizer,
        "evaluate": evaluate,
        "validate": validate,
        "tokens": tokens,
        "source": source,
    }
    run_step("release", 2, "", sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def report(
    release: dsl.Input[dsl.Model],
    languages_config: dict,
    merge_config: dict,
    model_config: dict,
    evaluate_config: dict,
    release_config: dict,
    store: str,
    out: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    phase_1: Optional[dict] = None,
    phase_2: Optional[dict] = None,
    phase_3: Optional[dict] = None,
    phase_4: Optional[dict] = None,
    phase_5: Optional[dict] = None,
    phase_6: Optional[dict] = None,
    phase_7: Optional[dict] = None,
    phase_8: Optional[dict] = None,
    scores_1: dsl.Input[dsl.Artifact] | None = None,
    scores_2: dsl.Input[dsl.Artifact] | None = None,
    scores_3: dsl.Input[dsl.Artifact] | None = None,
    scores_4: dsl.Input[dsl.Artifact] | None = None,
    scores_5: dsl.Input[dsl.Artifact] | None = None,
    scores_6: dsl.Input[dsl.Artifact] | None = None,
    scores_7: dsl.Input[dsl.Artifact] | None = None,
    scores_8: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """Draw the page that a person opens first: curves, mix, tables, lineage.

    Args:
        release: The released model.
        languages_config: Section `languages`: the waves.
        merge_config: Section `merge`: base, branches, method.
        model_config: Section `model`: sizes and dtype.
        evaluate_config: Section `evaluate`.
        release_config: Section `release`.
        store: Folder or s3:// prefix that owns large files and resume state (`compute.store`); empty: the artifacts do.
        phase_1: A phase of section `phases`, in the recipe's order, with its name.
        phase_2: A phase of section `phases`, in the recipe's order, with its name.
        phase_3: A phase of section `phases`, in the recipe's order, with its name.
        phase_4: A phase of section `phases`, in the recipe's order, with its name.
        phase_5: A phase of section `phases`, in the recipe's order, with its name.
        phase_6: A phase of section `phases`, in the recipe's order, with its name.
        phase_7: A phase of section `phases`, in the recipe's order, with its name.
        phase_8: A phase of section `phases`, in the recipe's order, with its name.
        scores_1: Scores of one phase or of the merged model.
        scores_2: Scores of one phase or of the merged model.
        scores_3: Scores of one phase or of the merged model.
        scores_4: Scores of one phase or of the merged model.
        scores_5: Scores of one phase or of the merged model.
        scores_6: Scores of one phase or of the merged model.
        scores_7: Scores of one phase or of the merged model.
        scores_8: Scores of one phase or of the merged model.

    Returns:
        out: The artifact: one directory with manifest.json and lineage.json.
        metrics: Headline figures.
        page: The page for people.
    """
    from mmenc.kubeflow import run_step

    sections = {
        "languages": languages_config,
        "phases": [phase_1, phase_2, phase_3, phase_4, phase_5, phase_6, phase_7, phase_8],
        "merge": merge_config,
        "model": model_config,
        "evaluate": evaluate_config,
        "release": release_config,
        "store": store,
    }
    inputs = {"release": release, "evaluate": [scores_1, scores_2, scores_3, scores_4, scores_5, scores_6, scores_7, scores_8]}
    run_step("report", 3, "", sections, inputs, out, metrics=metrics, page=page)


@dsl.component(base_image=CPU, install_kfp_package=False)
def compare(
    names: list,
    evaluate_config: dict,
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    scores_1: dsl.Input[dsl.Artifact] | None = None,
    scores_2: dsl.Input[dsl.Artifact] | None = None,
    scores_3: dsl.Input[dsl.Artifact] | None = None,
    scores_4: dsl.Input[dsl.Artifact] | None = None,
    scores_5: dsl.Input[dsl.Artifact] | None = None,
    scores_6: dsl.Input[dsl.Artifact] | None = None,
    scores_7: dsl.Input[dsl.Artifact] | None = None,
    scores_8: dsl.Input[dsl.Artifact] | None = None,
) -> None:
    """Show several models side by side, over the languages that all of them were scored on.

    Args:
        names: What the models are called, in the order of their scores.
        evaluate_config: Section `evaluate`: resampling of the intervals.
        scores_1: Scores of one model.
        scores_2: Scores of one model.
        scores_3: Scores of one model.
        scores_4: Scores of one model.
        scores_5: Scores of one model.
        scores_6: Scores of one model.
        scores_7: Scores of one model.
        scores_8: Scores of one model.

    Returns:
        metrics: Headline figures.
        page: The models side by side.
    """
    from mmenc.kubeflow import show_comparison

    scores = [scores_1, scores_2, scores_3, scores_4, scores_5, scores_6, scores_7, scores_8]
    show_comparison(names, scores, evaluate_config, metrics, page)
