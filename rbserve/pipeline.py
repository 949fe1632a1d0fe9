"""Makes what is missing: data set -> artefact -> ONNX -> profile, each step only when it is not there yet.

One function a step; each says on standard error what it makes. Heavy imports wait inside the step that
needs them, so that serving an existing artefact loads none of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rbserve.arguments import Abilities, abilities, check_precisions_of, check_variants_of
from rbserve.console import say
from rbserve.core import memory
from rbserve.core.artifact import (
    ENDPOINT_VARIANT,
    EXPORTABLE,
    HALF_VARIANT,
    REFERENCE_VARIANT,
    TORCH_VARIANTS,
    Artifact,
    Parity,
    TrainingRecord,
    exported_as,
    open_artifact,
)
from rbserve.core.dataset import CtrSplit, Dataset, check_same_data, open_dataset
from rbserve.core.distillation import FROM, Teaching, check_student, check_teacher, student_name
from rbserve.core.errors import ArtifactError, DataError, Interrupted, UsageError, memory_told, unknown_name
from rbserve.core.files import home, require_replaceable, require_writable
from rbserve.core.names import plain_name
from rbserve.models.configs import EndpointConfig, kind_of
from rbserve.models.zoo import find_model, with_backbone
from rbserve.places import (
    DEFAULT_DATASET,
    RANDOM,
    artifact_path,
    choices_path,
    dataset_path,
    find_artifact,
    how_to_make,
    is_path,
    is_prepared,
    is_trained,
    left_behind,
    model_path,
    options_of,
    places,
    report_path,
    runs_path,
)
from rbserve.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rbserve.catalogue import Changed
    from rbserve.content import Encode
    from rbserve.core.integrity import IntegrityReport
    from rbserve.core.measurement import Measurement, Plan, Result
    from rbserve.core.semantic_ids import SemanticIds
    from rbserve.core.types import ModelSpec, Vectors
    from rbserve.profilers.choice import Choice, Question
    from rbserve.profilers.gate_config import GateConfig
    from rbserve.profilers.gate_run import Outcome
    from rbserve.profilers.gate_sides import Pair
    from rbserve.profilers.load import Load, LoadPlan
    from rbserve.profilers.recommend import Recommendation
    from rbserve.profilers.verify import Verified
    from rbserve.server.schema import Measured, Profiled
    from rbserve.train.distill import Lesson
    from rbserve.train.loop import Settings

EXPORTED = ("onnx-fp32", "onnx-int8")  # what is made unasked
LESS_MEMORY = (
    "a smaller --micro-batch, or --batch, or a smaller row; --set checkpointing=true where a row has it"
)
ENDPOINT_PLAN = {"processes": 1, "runs": 50, "seconds": 60.0, "slates": [1]}  # every timed call costs money


def prepare(
    name: str,
    raw: Path | None = None,
    *,
    called: str | None = None,
    protocol: Mapping[str, Any] | None = None,
    reading: Mapping[str, Any] | None = None,
    vocabulary: Path | None = None,
    texts: Mapping[str, Any] | None = None,
    memory: int | None = None,
    **options: Any,
) -> Dataset:
    """Makes a data set anew from its raw files. `protocol`, `reading` and `texts` change the source's defaults."""
    with _needs("train", "preparing data"):
        from rbserve.train.datasets import sources
        from rbserve.train.datasets.source import Reading
        from rbserve.train.splitting import Texts
        from rbserve.train.text import read_vocabulary

        source = sources.find_source(name)
        path = dataset_path(
            name if called is None else plain_name(called, "--name", "for example --name shop")
        )
        known = sources.SOURCES.get(path.name)
        if source.own and known and not known.own:
            raise UsageError(
                f"{path.name} is the name of a source of rbserve's own",
                "for example --name shop: another name",
            )
        require_replaceable(path)
        words = read_vocabulary(vocabulary) if vocabulary else None
        read = Reading(**(reading or {}))
        with _unfinished(path), progress_bar(f"prepare {path.name}", "about") as progress:
            dataset = sources.prepare(
                name,
                path,
                raw,
                sources.protocol_of(source, protocol, read),
                reading=read,
                texts=Texts(vocabulary=words, **(texts or {})),
                memory=memory or sources.MEMORY,
                progress=progress,
                **options,
            )
    say(f"prepared {path.name}: {describe_counts(dataset)} -> {dataset.path}")
    _tell_left_behind(path.name, dataset)
    return dataset


def _tell_left_behind(name: str, dataset: Dataset) -> None:
    """Names the artefacts that were made from what the data set held before."""
    left = [artifact.path.name for artifact in left_behind(name, dataset.fingerprint)]
    if left:
        say(
            f"left behind, made from earlier data of {name}: {', '.join(left)}; they can be served as they are, and "
            f"rbserve train --model MODEL --dataset {name} makes them of the new data "
            "(--init MODEL: beginning with the weights that they have)"
        )


@contextmanager
def _unfinished(path: Path) -> Iterator[None]:
    """Says what a Ctrl-C leaves."""
    try:
        yield
    except KeyboardInterrupt:
        there = "the earlier data set is as it was" if path.is_dir() else "nothing was written"
        raise Interrupted(f"stopped; {there}") from None


def describe_counts(dataset: Dataset) -> str:
    """One line of what a data set holds, and what was dropped on the way."""
    counts = dataset.manifest.counts
    rows = ", ".join(
        f"{sum(one['rows'] for one in counts[task].values()):,} {what}"
        for task, what in (("ctr", "labelled pairs"), ("seqrec", "sequences"))
    )
    dropped = sum(count for reason, count in dataset.manifest.dropped.items() if ":" not in reason)
    return f"{counts['items']:,} items; {rows}; {dropped:,} raw rows dropped"


def dataset_rows() -> list[dict[str, object]]:
    """Every data set that can be prepared, or has been, and whether it is there."""
    with _needs("train", "listing the sources"):
        from rbserve.train.datasets.sources import SOURCES

    rows: list[dict[str, object]] = [
        {
            "name": name,
            "prepared": (dataset_path(name) / "manifest.json").is_file(),
            "about": source.about,
            "needs": source.needs,
            "own": source.own,
        }
        for name, source in SOURCES.items()
    ]
    for manifest in sorted((home() / "data").glob("*/manifest.json")):
        if manifest.parent.name not in SOURCES and not manifest.parent.name.startswith("."):
            about = f"your own, {_origin(manifest.parent)}"
            name = manifest.parent.name
            rows.append({"name": name, "prepared": True, "about": about, "needs": "", "own": False})
    return rows


def _origin(path: Path) -> str:
    """What a listing says of a data set; one that cannot be read must not hide the others."""
    try:
        return f"from {open_dataset(path).manifest.source}"
    except DataError as error:
        return f"not readable: {error.message}"


def inspect_dataset(name: str) -> IntegrityReport:
    """An independent look at a prepared data set, by name or directory."""
    from rbserve.core.integrity import inspect

    if not is_path(name):
        check_dataset(name)
    dataset = open_dataset(Path(name) if is_path(name) else dataset_path(name))
    with _needs("train", "comparing with the paper"):
        from rbserve.train.datasets.sources import SOURCES

    source = SOURCES.get(dataset.manifest.source)
    with progress_bar(f"inspect {dataset.name}"):
        return inspect(dataset, source.paper if source else None)


def check_dataset(name: str) -> None:
    """Raises UsageError for a data set that is neither prepared nor one that a source can be prepared as."""
    if is_prepared(name):
        return
    rows = dataset_rows()
    if name not in [row["name"] for row in rows]:
        known = [str(row["name"]) for row in rows if not row["own"]]
        error = unknown_name("data set", name, known)
        if error.hint and error.hint.startswith("known"):
            error.hint += f"; rbserve prepare csv --name {name} makes one of your own tables"
        raise error


def ensure_dataset(name: str) -> Dataset:
    """The data set, prepared if it is not there."""
    if is_prepared(name):
        return open_dataset(dataset_path(name))
    check_dataset(name)
    say(f"data set {name} is not prepared yet; preparing it")
    return prepare(name)


def semantic_ids(
    dataset: str,
    options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    rebuild: bool = False,
    resume: bool = False,
) -> tuple[SemanticIds, Dataset]:
    """The identifiers of a data set's items, made if they are not there. Others under their name are an error."""
    from rbserve.core.semantic_ids import SEED, check_made_with, find_semantic_ids, sids_path
    from rbserve.core.settings import Settings
    from rbserve.models.configs import RqVaeConfig

    options, settings = options or {}, settings or {}
    config = RqVaeConfig(**options)
    Settings(**settings)  # refused now, before a data set is prepared
    check_dataset(dataset)
    if is_prepared(dataset) and not (rebuild or resume):  # what is there needs no torch
        data = ensure_dataset(dataset)
        found = find_semantic_ids(data, config, settings.get("seed", SEED))
        if found:
            check_made_with(found, {**options, **settings})
            return found, data
    with _needs("train", "making semantic identifiers"):
        from rbserve.train.backbone import require_findable
        from rbserve.train.sids import checkpoint_path, make_semantic_ids, settings_with
    chosen = settings_with(settings)
    require_findable(config.encoder)
    if resume and not is_prepared(dataset):
        raise UsageError(f"nothing to resume: data set {dataset} is not prepared", "leave out --resume")
    data = ensure_dataset(dataset)
    unfinished = checkpoint_path(sids_path(data, config, chosen.seed))
    if resume and not unfinished.is_file():
        raise UsageError(f"nothing to resume: no checkpoint at {unfinished}", "leave out --resume")
    with progress_bar(f"sids {data.name}") as progress:
        made = make_semantic_ids(data, config, chosen, resume, progress)
    say(f"made semantic identifiers of {len(made):,} items -> {made.path}")
    return made, data


def train(
    model: str,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    out: Path | None = None,
    resume: bool = False,
    backbone: str | None = None,
    api_base: str | None = None,
    random: bool = False,
    init: str | None = None,
) -> Artifact:
    """Trains a zoo row anew, or a recipe with a backbone; of `random` weights it is packaged untrained.

    `settings` and `options` change the training's and the config's defaults; `api_base` is the address of the endpoint
    that a row asks. UsageError for a row that asks none. `init` is an artefact (its directory, or a row of the data
    set) whose weights and config the training begins with.
    """
    spec = with_backbone(model, backbone) if backbone else find_model(model)
    if api_base is not None:
        if not isinstance(spec.config, EndpointConfig):
            raise UsageError(
                f"{spec.name} asks no endpoint, so there is no --api-base for it",
                "zeroshot-gpt-3.5 asks one, with any model: --set model=NAME",
            )
        options = {**(options or {}), "api_base": api_base}
    with _needs("train", "training"):
        from rbserve.models.configs import with_options
        from rbserve.train.loop import Settings
    spec = replace(spec, config=with_options(spec.config, options or {}), random=random)
    began = None if init is None else _to_continue(init, dataset, random)
    if began is not None:
        from rbserve.train.warm_start import continued_spec

        spec = continued_spec(spec, began, [*(options or {})])
    chosen: Settings = Settings(**{**spec.training, **(settings or {})})
    path = out or artifact_path(f"{spec.name}{RANDOM * random}", dataset)
    check_dataset(dataset)
    _check_training(spec, path, resume)
    data = ensure_dataset(dataset)
    return _fit(spec, data, path, chosen, resume, init=began)


def _to_continue(init: str, dataset: str, random: bool) -> Artifact:
    """The artefact that a training goes on from."""
    from rbserve.train.warm_start import require_continuable

    if random:
        raise UsageError("--init and --weights random cannot go together", "leave one of them out")
    artifact = open_artifact(model_path(init, dataset))
    require_continuable(artifact)
    return artifact


def distill(
    teacher: str,
    student: str,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, str] | None = None,
    out: Path | None = None,
    resume: bool = False,
    variant: str | None = None,
    teaching: Mapping[str, Any] | None = None,
) -> Artifact:
    """Trains a pair-wise zoo row on a teacher's scores; the teacher is made if it is missing.

    `teaching` changes the defaults of `Teaching`; the rest is as in `train`. UsageError for what cannot
    teach, or learn.
    """
    spec, wanted = find_model(student), Teaching(**(teaching or {}))
    check_student(spec)
    if not is_path(teacher) and FROM not in teacher:  # before it is trained for hours
        row = find_model(teacher)
        check_teacher(row.name, row.task, kind_of(row.config))
    with _needs("train", "distilling"):
        from rbserve.models.configs import with_options
        from rbserve.train.distill import prepare_lesson
        from rbserve.train.loop import Settings
    spec = replace(spec, config=with_options(spec.config, options or {}))
    chosen: Settings = Settings(**{**spec.training, **(settings or {})})
    check_variants_of(abilities(teacher, dataset), [] if variant is None else [variant])
    if not is_path(teacher):
        check_dataset(dataset)
        path = out or artifact_path(student_name(student, teacher), dataset)
        _check_training(spec, path, resume)
    teaches = ensure_artifact(teacher, dataset)
    data = ensure_dataset(dataset)
    with progress_bar(f"score {teaches.name}") as progress:
        lesson = prepare_lesson(
            teaches, student, data, wanted, chosen.seed, home() / "teachers" / dataset, variant, progress, say
        )
    spec = replace(spec, name=student_name(student, teaches.name))
    return _fit(spec, data, out or artifact_path(spec.name, dataset), chosen, resume, lesson)


def student_rows(rows: Mapping[str, ModelSpec]) -> list[dict[str, object]]:
    """Of every student of these rows that was made, what a listing of models says."""
    found: list[dict[str, object]] = []
    for file in sorted((home() / "artifacts").glob(f"*/*{FROM}*/manifest.json")):
        try:
            manifest = open_artifact(file.parent).manifest
        except ArtifactError as error:  # one that cannot be read must not hide the others
            say(f"left out: {error.message}")
            continue
        taught = manifest.training.distilled
        if taught is None or taught.student not in rows:
            continue
        spec = rows[taught.student]
        found.append({
            "name": manifest.name,
            "group": spec.group,
            "task": spec.task,
            "item_form": spec.item_form,
            "paper_name": f"{spec.paper_name}, distilled",
            "recipe": spec.recipe,
            "backbone": spec.backbone,
            "runnable": True,
            "needs": (f"nothing: made on {manifest.dataset.name}",),
        })  # fmt: skip
    return found


def _check_training(spec: ModelSpec, path: Path, resume: bool) -> None:
    """Raises for a training that cannot begin: nothing to resume, no such language model, a place that is taken."""
    from rbserve.train.backbone import require_findable
    from rbserve.train.fit import checkpoint_path

    require_replaceable(path)
    if resume and not checkpoint_path(path).is_file():
        raise UsageError(
            f"nothing to resume: no checkpoint at {checkpoint_path(path)}", "train without --resume"
        )
    for option in ("encoder", "backbone"):
        name = getattr(spec.config, option, None)
        if isinstance(name, str) and not spec.random:
            require_findable(name)


def _fit(
    spec: ModelSpec,
    data: Dataset,
    path: Path,
    settings: Settings,
    resume: bool,
    lesson: Lesson | None = None,
    init: Artifact | None = None,
) -> Artifact:
    """Trains a row into its artefact, and says what came of it."""
    from rbserve.train.fit import checkpoint_path
    from rbserve.train.fit import train as fit_model

    if not resume and checkpoint_path(path).is_file():
        say(f"an unfinished training of {path.name} is discarded (--resume would have continued it)")
    _say_what_is_replaced(path)
    with memory_told(f"training {spec.name}", LESS_MEMORY), progress_bar(f"train {path.name}") as progress:
        artifact = fit_model(spec, data, path, settings, resume, progress, say, lesson, init)
    record = artifact.manifest.training
    say(f"{artifact.name} on {data.name}: {_how(record)} -> {path}")
    return artifact


def _say_what_is_replaced(path: Path) -> None:
    """Says of an artefact that a training replaces what became of its items, for that goes with it."""
    try:
        changes = open_artifact(path).manifest.catalogue
    except ArtifactError:
        return
    if changes is not None:
        say(
            f"the artefact that is replaced has {changes.added:,} added and {changes.retired:,} retired items; the new "
            "one has the items of the data set: rbserve items add and rbserve items retire change them again"
        )


def _how(record: TrainingRecord) -> str:
    if record.random:
        return "packaged with random weights, for its latency"
    if record.best_metric is None:
        return "packaged as it is"
    how = f"weights of {record.taken_from}" if record.taken_from else "trained"
    if record.distilled:
        how = record.distilled.said
    if record.continued:
        how = record.continued.said
    epochs = f"{record.epochs} epochs in {record.seconds:.0f} s"
    return f"{how}, {epochs}, valid {record.metric} {record.best_metric:.4f}"


def ensure_artifact(model: str, dataset: str, random: bool = False) -> Artifact:
    """The artefact at a path, or of a zoo row on a data set, trained (or its weights drawn) if it is not there.

    A student is found by the name of its artefact, and not made: who asks for it has to say how it is taught.
    """
    if is_path(model):
        return open_artifact(Path(model))
    student, taught, _ = model.partition(FROM)
    find_model(student)  # an unknown name is refused before anything is looked for
    path = artifact_path(f"{model}{RANDOM * random}", dataset)
    if not (path / "manifest.json").is_file():
        if taught:
            raise UsageError(f"no artefact of {model} at {path}", how_to_make(model, dataset))
        check_dataset(dataset)
        others = [] if random else [place.dataset for place in places(model)]
        elsewhere = f" (it is trained on {', '.join(others)}: --dataset)" if others else ""
        say(f"{model} is not {'packaged for' if random else 'trained on'} {dataset} yet{elsewhere}; doing so")
        return train(model, dataset, random=random)
    artifact = open_artifact(path)
    if is_prepared(dataset):
        check_same_data(
            artifact.name, artifact.manifest.dataset.fingerprint, open_dataset(dataset_path(dataset))
        )
    return artifact


def export_model(model: str, dataset: str, precisions: Sequence[str]) -> Artifact:
    """Exports a model at the given precisions, training it if it is missing."""
    check_precisions_of(abilities(model, dataset), precisions)
    return export(ensure_artifact(model, dataset), precisions)


def export(artifact: Artifact, precisions: Sequence[str]) -> Artifact:
    """Exports an artefact at the given precisions and says how the scores compare."""
    told = memory_told(f"exporting {artifact.name}", "a machine with more memory, or a smaller row")
    with told, _needs("export", "exporting"):
        from rbserve.exporters.export import export as export_artifact

        data = ensure_dataset(artifact.manifest.dataset.name)
        with progress_bar(f"export {artifact.name}") as progress:
            exported = export_artifact(artifact, data, precisions, progress)
    for precision in precisions:
        record = exported.manifest.variants[f"onnx-{precision}"]
        parity, warnings = record.parity, "; ".join(record.warnings)
        say(
            f"exported {artifact.name} onnx-{precision}: max |difference| {parity.max_abs:.1e} on "
            f"{parity.rows} rows{_cost(parity)}{'; warning: ' + warnings if warnings else ''}"
        )
    return exported


def _cost(parity: Parity) -> str:
    """What a variant's differences from the reference do to its accuracy."""
    if parity.auc_difference is not None:
        return f", AUC {parity.auc_difference:+.5f}"
    if parity.ndcg is not None and parity.ndcg_reference is not None:
        change = parity.ndcg - parity.ndcg_reference
        return f", nDCG@{parity.k} {change:+.5f}, {parity.same_top:.1%} of the lists the same"
    return ""


def add_items(
    model: str, dataset: str, file: Path, item: str, text: str, delimiter: str | None = None
) -> Changed:
    """Adds a table's items to an artefact that is there (`rbserve.catalogue`)."""
    from rbserve import catalogue

    artifact = open_artifact(model_path(model, dataset))
    with _needs("train", "adding items"):
        from rbserve.train.datasets.item_file import read_items
        from rbserve.train.tally import Tally

        tally = Tally()
        rows = list(read_items(file, item, text, tally, delimiter))
        return catalogue.add_items(artifact, rows, text_encoder(artifact), tally.dropped)


def retire_items(
    model: str, dataset: str, listed: Path | Sequence[str], item: str, delimiter: str | None = None
) -> Changed:
    """Retires items of an artefact that is there: those of a table's column, or those listed."""
    from rbserve import catalogue

    artifact = open_artifact(model_path(model, dataset))
    if isinstance(listed, Path):
        with _needs("train", "reading a table of items"):
            from rbserve.train.datasets.item_file import read_ids

            listed = read_ids(listed, item, delimiter)
    return catalogue.retire_items(artifact, listed)


def text_encoder(artifact: Artifact) -> Encode:
    """Makes vectors of texts by the language model that made those of an artefact's items, loaded when it is needed.

    The vectors are kept in the cache, as those of a data set's items are.
    """
    config = artifact.manifest.config

    def encode(texts: Sequence[str]) -> Vectors:
        with _needs("train", f"vectors of texts by {config['encoder']}"):
            from rbserve.train.embed import embed_texts

            return embed_texts(texts, config["encoder"], config["pooling"])

    return encode


def serving_encoder(artifact: Artifact) -> Encode:
    """`text_encoder` for a server: the language model is loaded for the first text and stays; nothing is written."""
    config = artifact.manifest.config
    loaded: list[Any] = []

    def encode(texts: Sequence[str]) -> Vectors:
        if not loaded:
            with _needs("train", f"vectors of texts by {config['encoder']}"):
                import torch

                from rbserve.train.backbone import locate
                from rbserve.train.embed import MAX_TOKENS
                from rbserve.train.encoder import TextEncoder

                torch.set_num_threads(1)
                loaded.append(TextEncoder(locate(config["encoder"]), config["pooling"], MAX_TOKENS))
        vectors: Vectors = loaded[0].encode(texts)
        return vectors

    return encode


def ensure_exported(artifact: Artifact, variants: Sequence[str] = EXPORTED) -> Artifact:
    """The artefact with what it lacks of the files that variants are loaded from."""
    wanted = dict.fromkeys(map(exported_as, variants))
    missing = [one.removeprefix("onnx-") for one in wanted if one not in artifact.variants]
    return export(artifact, missing) if missing else artifact


def profile(
    model: str,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    variants: Sequence[str] | None = None,
    random: bool = False,
) -> tuple[Measurement, Path]:
    """Profiles a model, making what is missing upstream; returns the measurement and its file.

    `settings` change the default plan of the model's task. Of the variants that nobody named, those whose weights do
    not fit into memory are left out, and torch-bf16 takes the place of torch-fp32.
    """
    from rbserve.core.measurement import write_measurement
    from rbserve.profilers.harness import profile as measure

    plan = plan_of(abilities(model, dataset, random), settings or {}, variants or ())
    artifact = ensure_artifact(model, dataset, random)
    left_out: dict[str, str] = {}
    if artifact.is_endpoint:
        chosen = list(variants or artifact.variants)
    else:
        chosen, left_out = _to_measure(artifact, variants)
        artifact = ensure_exported(artifact, [one for one in chosen if exported_as(one) in EXPORTABLE])
    data = ensure_dataset(artifact.manifest.dataset.name)
    require_writable(runs_path())
    if artifact.is_endpoint:
        _say_what_it_takes(artifact, data, plan)
    with progress_bar(f"profile {artifact.name}") as progress:
        measurement = measure(artifact, data, plan, chosen, progress, left_out)
    path = write_measurement(runs_path(), measurement)
    if artifact.is_endpoint and not (measurement.random or measurement.predictions.scores):
        from rbserve.endpoint import UnclearAnswersError

        reasons = [told for warnings in measurement.variant_warnings.values() for told in warnings]
        raise UnclearAnswersError(f"{artifact.name}: {'; '.join(reasons)}", f"what was measured is in {path}")
    return measurement, path


def plan_of(model: Abilities, settings: Mapping[str, Any], variants: Sequence[str] = ()) -> Plan:
    """The plan of a model's profile; UsageError for settings or variants that it cannot be measured with."""
    import msgspec

    from rbserve.profilers.harness import check_numbers, default_plan, refuse_warm

    check_variants_of(model, variants)
    if model.is_endpoint and "budget_s" in settings:
        raise UsageError(
            "--budget is for models that run here; calls of an endpoint cost money", "give --runs"
        )
    usual = ENDPOINT_PLAN if model.is_endpoint else {}
    plan = msgspec.structs.replace(
        default_plan(model.task, settings.get("budget_s")), **{**usual, **settings}
    )
    check_numbers(model.name, model.task, plan)
    if plan.warm and not (model.is_language_model and model.task == "ctr"):
        refuse_warm(model.name)
    return plan


def _to_measure(artifact: Artifact, named: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The variants to measure, and of those that are left out why; variants that were named are not left out."""
    if named:
        return list(named), {}
    chosen = list(dict.fromkeys([REFERENCE_VARIANT, *EXPORTED, *artifact.manifest.variants]))
    left_out = {one: reason for one in chosen if (reason := memory.shortage(artifact, one))}
    if REFERENCE_VARIANT in left_out and HALF_VARIANT in artifact.can_open:
        chosen.append(HALF_VARIANT)
    if importlib.util.find_spec("torch") is None:
        left_out |= {one: "torch is not installed" for one in chosen if one in TORCH_VARIANTS}
    for one, reason in left_out.items():
        say(f"{artifact.name} {one} is not measured: {reason}")
    return [one for one in chosen if one not in left_out], left_out


def _say_what_it_takes(artifact: Artifact, data: Dataset, plan: Plan) -> None:
    from rbserve.profilers.harness import test_rows
    from rbserve.profilers.latency import PAID_WARMUP_CALLS, most_calls
    from rbserve.runtime import estimate

    rows = test_rows(artifact, data, plan)
    assert isinstance(rows, CtrSplit)
    taken = estimate(artifact, rows.histories, rows.candidates)
    calls = plan.processes * len(plan.scopes) * most_calls(plan.runs, PAID_WARMUP_CALLS)
    timed = calls * sum(plan.slates)  # a request a candidate
    say(
        f"{artifact.name}: {taken.requests:,} requests to make ({taken.answered:,} answered before), "
        f"about {taken.prompt_tokens:,} prompt tokens, {taken.usd:.2f} USD at the config's prices; "
        f"and at most {timed:,} to time it, warm-up included. Requests that fail are made again. Ctrl-C keeps what is "
        "answered."
    )


def report(name: str, runs: Path | None = None, datasets: Sequence[str] = ()) -> Path:
    """Renders the newest profile of every model into reports/<name>/, of these data sets or of all."""
    from rbserve.profilers.report import collect, render, with_sketch

    folder = report_path(name)
    require_replaceable(folder, "report.json")
    require_writable(folder.parent)
    measurements = collect(runs or runs_path())
    known = {run.dataset for run in measurements}
    for dataset in datasets:
        if dataset not in known:
            raise unknown_name("data set with runs", dataset, known)
    chosen = [
        with_sketch(run, dataset_path(run.dataset))
        for run in measurements
        if run.dataset in (datasets or known)
    ]
    with _needs("report", "reporting"), progress_bar(f"report {name}"):
        return render(chosen, folder)


def check(pairs: Sequence[Pair], config: GateConfig, chosen: Mapping[str, Any]) -> Outcome:
    """Holds artefacts against what they were; `chosen` are fields of the gate's Scope."""
    with _needs("check", "judging a change"):
        import scipy.special  # noqa: F401  (missing, it is to be missed before anything is measured)

        from rbserve.profilers.gate_run import check as judge
        from rbserve.profilers.gate_sides import Scope
    with progress_bar("check") as progress:
        return judge(
            pairs, lambda one: ensure_dataset(one.manifest.dataset.name), config, Scope(**chosen), progress
        )


def recommend(slo: str, runs: Path | None = None, **choice: Any) -> Recommendation:
    """The most accurate variant that meets the latency objectives; `choice` is as `profilers.recommend` takes it."""
    from rbserve.profilers.recommend import parse_objectives
    from rbserve.profilers.recommend import recommend as choose
    from rbserve.profilers.report import collect

    objectives = parse_objectives(slo)
    return choose(collect(runs or runs_path()), objectives, **choice)


def open_for_serving(model: str, dataset: str | None, variant: str, make: bool = False) -> Artifact:
    """The artefact with the variant to serve.

    A variant that is not exported yet is exported from the data set that the artefact was made from. With `make`, what
    is missing is trained and prepared too.
    """
    if make:
        check_variants_of(abilities(model, dataset or DEFAULT_DATASET), [variant])
    artifact = to_serve(model, dataset, make)
    if variant in artifact.can_open:
        return artifact
    if variant not in artifact.can_have:
        raise unknown_name(f"variant of {artifact.name}", variant, artifact.can_have)
    data_of(artifact, f"{variant} of {artifact.name} is not exported yet; exporting it", make)
    return ensure_exported(artifact, [variant])


def to_serve(model: str, dataset: str | None, make: bool = False) -> Artifact:
    """The artefact that `--model` and `--dataset` mean, which is all that serving takes; trained if told to."""
    if make and not is_path(model) and not is_trained(model, dataset):
        return ensure_artifact(model, dataset or DEFAULT_DATASET)
    artifact, line = find_artifact(model, dataset)
    if line:
        say(line)
    return artifact


def data_of(artifact: Artifact, doing: str, make: bool = False) -> Dataset:
    """The data set that an artefact was made from. UsageError, saying what takes it, where it is not there any more."""
    made_from = artifact.manifest.dataset
    there = [variant for variant in artifact.can_open if variant not in TORCH_VARIANTS]
    hint = f"rbserve serve {options_of(artifact)} --variant {there[0]} takes the artefact alone" if there else (
        f"train it again: {how_to_make(artifact.name, made_from.name)}")  # fmt: skip
    if not make and not is_prepared(made_from.name):
        raise UsageError(f"{doing} takes data set {made_from.name}, which is not there", hint)
    data = ensure_dataset(made_from.name)
    if data.fingerprint != made_from.fingerprint:
        raise UsageError(
            f"{doing} takes the data that it was made from ({made_from.fingerprint[:12]}), and data set {data.name} "
            f"is {data.fingerprint[:12]} now",
            hint,
        )
    return data


def measured(artifact: Artifact, variant: str) -> Profiled:
    """What profiles of this artefact on this machine say of a variant: the newest that is settled, else the newest.

    Without any, what there is instead.
    """
    from rbserve.core.environment import environment
    from rbserve.core.measurement import comparability_key, read_measurement
    from rbserve.profilers.choice import earlier_runs_of, runs_of
    from rbserve.server.schema import NOT_PROFILED, Profiled

    here = environment()
    disturbed: Profiled | None = None
    note = unprofiled = NOT_PROFILED.note
    for path in runs_of(artifact, runs_path()):
        run = read_measurement(path)
        own = [result for result in run.results if result.variant == variant]
        settled = [result for result in own if not result.inconclusive]
        key = comparability_key(here, run.plan.threads, artifact.manifest.dataset.fingerprint)
        if run.comparability_key == key and settled:
            return Profiled(_figures(run, settled, path.stem))
        if run.comparability_key == key and own:
            disturbed = disturbed or Profiled(_figures(run, own, path.stem))
        elif note == unprofiled:
            other = "of another machine or other libraries" if own else "of other variants"
            note = f"not profiled here: run {path.stem} is {other}"
    if note == unprofiled and earlier_runs_of(artifact, runs_path()):
        note = f"profiled before the artefact was changed; rbserve profile --model {artifact.path} measures it anew"
    return disturbed or Profiled(note=note)


def _figures(run: Measurement, results: Sequence[Result], run_id: str) -> list[Measured]:
    from rbserve.profilers.paper import TASK_METRIC
    from rbserve.server.schema import Measured

    metric = TASK_METRIC[run.task]
    judged = [result.accuracy.get(metric) for result in results]
    return [
        Measured(
            result.scope, result.slate, run.plan.threads, result.latency_ms.p50, result.latency_ms.p99, metric,
            accuracy if isinstance(accuracy, float) else None, run_id, result.inconclusive,
        )
        for result, accuracy in zip(results, judged, strict=True)
    ]  # fmt: skip


def load(url: str, model: str | None, slate: int | None, plan: LoadPlan) -> Load:
    """Offers the server at `url` requests of test users of the data set that its model says it belongs to."""
    import numpy as np

    from rbserve.client import Client
    from rbserve.core.wire import PATHS
    from rbserve.profilers.load import run_load
    from rbserve.profilers.requests import bodies, draw

    with Client(url) as client:
        served = client.model(model)
    data = ensure_dataset(served.dataset)
    served.require_data(data.fingerprint, url)
    pairs = served.task == "ctr"
    size = slate or (100 if pairs else 10)
    split = data.ctr("test") if pairs else data.seqrec("test")
    requests = draw(np.random.default_rng(plan.seed), split, size, len(data.items))
    if served.variant == ENDPOINT_VARIANT:
        most = len(requests.histories) * size
        say(f"{served.name} is answered by an endpoint: up to {most:,} requests to it are paid for")
    with progress_bar(f"load on {served.name}", bound="about") as progress:
        return run_load(
            url, PATHS[served.task], bodies(requests, data.items, size, served.name), plan, progress
        )


def verify(
    model: str, dataset: str | None, url: str, slate: int | None, overhead_ms: float | None, rounds: int
) -> Verified:
    """Holds the server at `url` against the artefact that it says it serves."""
    from rbserve.profilers.verify import OVERHEAD_MS
    from rbserve.profilers.verify import verify as compare

    artifact = to_serve(model, dataset)
    if artifact.is_endpoint:
        raise UsageError(
            f"{artifact.name} is answered by an endpoint: holding a server against it would pay for every call",
            "rbserve profile tells beforehand how many requests it makes",
        )
    data = data_of(artifact, "verifying asks for test users, and that")
    size = slate or (1 if artifact.manifest.task == "ctr" else 10)
    limit = OVERHEAD_MS if overhead_ms is None else overhead_ms
    with progress_bar(f"verify {artifact.name}") as progress:
        return compare(artifact, data, url, size, limit, rounds, progress=progress)


def choose_variant(
    model: str,
    dataset: str | None,
    slate: int | None = None,
    threads: int = 1,
    tolerance: float | None = None,
    make: bool = False,
) -> tuple[Artifact, Choice]:
    """The artefact, and the fastest of its variants that holds the accuracy of fp32 (`profilers.choice`).

    An answer that was given before stands, from choices/. Else a profile of the artefact answers, or a short one made
    now. An artefact without any exported variant gets the usual ones.
    """
    import msgspec

    from rbserve.core.files import optional_write, write_bytes
    from rbserve.profilers import choice as auto

    allowed = auto.TOLERANCE if tolerance is None else tolerance
    auto.check_tolerance(allowed)
    if make and abilities(model, dataset or DEFAULT_DATASET).is_endpoint:
        auto.refuse_endpoint(model)
    artifact = to_serve(model, dataset, make)
    if not artifact.is_endpoint and not artifact.manifest.variants:
        data_of(artifact, f"no variant of {artifact.name} is exported yet; exporting one", make)
        artifact = ensure_exported(artifact)
    question = auto.question_of(artifact, runs_path(), slate, threads, allowed)
    file = choices_path() / question.file_name
    answer = _answered(file, question)
    if answer is not None and not auto.unusable(artifact, [answer.chosen]):
        return artifact, answer
    absent = auto.absent(artifact)
    unusable = auto.unusable(artifact, [one for one in auto.candidates(artifact) if one not in absent])
    answer = _choose(artifact, question, absent | unusable)
    if not unusable:  # a file may be mended, and memory freed, without a change of the question
        with optional_write("the choice of a variant"):
            write_bytes(file, msgspec.json.format(msgspec.json.encode(answer)))
    return artifact, answer


def _answered(file: Path, question: Question) -> Choice | None:
    """The answer that a file has to this question; one that cannot be read is told, and is none."""
    from rbserve.core.manifest import read_manifest
    from rbserve.profilers.choice import SCHEMA, Choice

    if not file.is_file():
        return None
    try:
        answer = read_manifest(file, Choice, SCHEMA, "a choice", "it is made anew")
    except DataError as error:
        say(f"{error.message}; {error.hint}")
        return None
    return answer if answer.question == question else None


def _choose(artifact: Artifact, question: Question, refused: Mapping[str, str]) -> Choice:
    """From a profile that there is, else from one made now."""
    from rbserve.profilers import choice as auto
    from rbserve.profilers.harness import profile as measure
    from rbserve.profilers.harness import test_rows

    variants = [one for one in auto.candidates(artifact) if one not in refused]
    auto.check_reference(artifact.name, variants, refused)
    data = data_of(artifact, f"choosing a variant of {artifact.name}")
    plan = auto.plan_of(artifact, data, question)
    rows = test_rows(artifact, data, plan)
    users = len({*rows.users.tolist()})
    run = auto.known_run(auto.runs_of(artifact, runs_path()), question, variants, users)
    if run is not None:
        return auto.choose(run, question, refused)
    judged = "latency alone" if artifact.is_random else f"latency, and accuracy on {len(rows):,} test rows"
    say(f"choosing a variant of {artifact.name}: measuring {judged}, of {', '.join(variants)}")
    with progress_bar(f"choose {artifact.name}") as progress:
        run = measure(artifact, data, plan, variants, progress)
    return auto.choose(run, question, {**run.failed, **refused}, measured=True)


@contextmanager
def _needs(extra: str, doing: str) -> Iterator[None]:
    """Turns a missing optional package into what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "rbserve":
            raise
        raise UsageError(
            f"{doing} needs the package {error.name}, which is not installed",
            f"pip install 'rbserve[{extra}]'",
        ) from error
