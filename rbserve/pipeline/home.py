"""`rbserve.Home`: every step as a method, for notebooks and scripts. The command line calls the same methods.

    home = rbserve.Home("shop")
    artifact = home.train("gdcn", "ml-100k", settings={"epochs": 5})
    print(home.profile("gdcn", "ml-100k").results)

A step makes what is missing before it, as the command does. Options are given as the record that the command fills
(`Settings`, `Plan`, `Protocol`, …), which sets every value, or as a mapping, which changes some of the defaults.
Wrong arguments raise UsageError before any work begins; every error of rbserve is a `rbserve.core.errors.RbserveError`
with a `message` and a `hint`. Progress goes to standard error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import msgspec

from rbserve.core.files import at_home
from rbserve.core.files import home as current_home
from rbserve.core.names import DEFAULT_DATASET
from rbserve.core.variants import DEFAULT_SERVED
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.home.paths import runs_path
from rbserve.home.target import ModelName, model_path, resolve
from rbserve.models.zoo import find_model, with_backbone
from rbserve.pipeline import (
    adopting,
    checking,
    choosing,
    data,
    exporting,
    items,
    profiling,
    reporting,
    serving,
    sharing,
    sizing,
    training,
)
from rbserve.runs.plan import Slate

if TYPE_CHECKING:
    from rbserve.core.adoption import AdoptOptions
    from rbserve.core.settings import Settings, Teaching
    from rbserve.core.types import Ranker, Scorer
    from rbserve.profilers.capacity.plan import CapacityPlan
    from rbserve.profilers.capacity.sizing import Sizing
    from rbserve.profilers.choose.choice import Choice
    from rbserve.profilers.choose.recommendation import Recommendation
    from rbserve.profilers.gate.config import GateConfig
    from rbserve.profilers.gate.rounds import GateOutcome
    from rbserve.profilers.gate.sides import Scope
    from rbserve.runs.measurement import Measurement
    from rbserve.runs.plan import Plan
    from rbserve.server.api.options import Limits, ServerOptions
    from rbserve.store.store import Transfer
    from rbserve.train.datasets.options import Reading
    from rbserve.train.protocol.options import Protocol
    from rbserve.train.protocol.splitting import Texts

MB = 1_000_000

Changes = Mapping[str, Any]
"""Values by the name of a record's field; fields that are not named keep their defaults."""

Model = str | Path | ModelName
"""A zoo row ("gdcn"), a student ("gdcn-emb-from-text-minilm-l6"), an adopted model or the directory of an artefact."""

Arguments = ParamSpec("Arguments")
Returned = TypeVar("Returned")
Method = Callable[Concatenate["Home", Arguments], Returned]


def _at_home(method: Method[Arguments, Returned]) -> Method[Arguments, Returned]:
    """The method, with `Home.path` as the home directory while it runs."""

    @wraps(method)
    def run(self: Home, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
        with at_home(self._path):
            return method(self, *args, **kwargs)

    return run


class Home:
    """A home directory: data sets, artefacts, run files and reports below one path, and what makes them.

    Without a path it is RBSERVE_HOME, else the working directory, as for the command line.

    A `model` is a zoo row ("gdcn"), a student ("gdcn-emb-from-text-minilm-l6"), the name of an adopted model or the
    directory of an artefact; a `dataset` is the name of a data set.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self._path = None if path is None else Path(path)

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """The home directory; it need not be there yet."""
        return self._path or current_home()

    @_at_home
    def prepare(
        self,
        source: str,
        raw: Path | None = None,
        *,
        name: str | None = None,
        protocol: Protocol | Changes | None = None,
        reading: Reading | Changes | None = None,
        texts: Texts | Changes | None = None,
        vocabulary: Path | None = None,
        catalogue: Literal["used", "seen", "all"] = "used",
        memory: int | None = None,
        temporary: Path | None = None,
        partitions: int | None = None,
        address: str | None = None,
    ) -> Dataset:
        """Makes data/<name>/ anew from the raw files of a source (`rbserve datasets` lists them).

        `raw` is the folder of the raw files; they are fetched where that is possible. `name` is the source's by
        default. `memory` is in bytes; what it does not hold goes to disk, in the folder `temporary`.

        With `partitions` events are read and sorted by tasks of the Ray cluster at `address`, or of this machine;
        `memory` is then that of a task, and `temporary` a folder that all nodes see.
        """
        return data.prepare(
            source,
            raw,
            called=name,
            protocol=_values(protocol),
            reading=_values(reading),
            vocabulary=vocabulary,
            texts=_values(texts),
            memory=memory,
            catalogue=catalogue,
            temporary=temporary,
            partitions=partitions,
            address=address,
        )

    @_at_home
    def export_dataset(
        self, name: str, to: str | Path, format: Literal["parquet", "csv"] = "parquet", counted: bool = False
    ) -> list[Path]:
        """Writes the rows of a prepared data set as flat tables to the folder `to`, and returns the tables' paths.

        A model that is made elsewhere is then trained and judged on exactly these rows. `counted` adds the counts of
        training rows as columns of each row, without similarities of texts. `to` is a new or an empty
        folder, or one of an earlier export, which is replaced.
        """
        return data.export_tables(name, Path(to), format, counted)

    @_at_home
    def train(
        self,
        model: Model,
        dataset: str = DEFAULT_DATASET,
        *,
        settings: Settings | Changes | None = None,
        config: Changes | None = None,
        out: Path | None = None,
        resume: bool = False,
        backbone: str | None = None,
        api_base: str | None = None,
        random: bool = False,
        init: str | None = None,
    ) -> Artifact:
        """Trains a zoo row, or a recipe with a `backbone`; the data set is prepared if it is missing.

        `config` changes the model ({"dim": 32}), `settings` its training ({"epochs": 5}). The artefact is written to
        artifacts/<dataset>/<model>/, or to `out`. `resume` continues a training that was stopped. `init` names an
        artefact whose weights the training begins with. `random` packages the model with random weights, to measure
        its latency alone. `api_base` is the address of the endpoint that answers for zeroshot-gpt-3.5.
        """
        row = with_backbone(str(model), backbone) if backbone else find_model(str(model))
        return training.train(
            dataclasses.replace(row, random=random),
            dataset,
            _values(settings),
            config,
            out,
            resume,
            api_base,
            None if init is None else model_path(init, dataset),
        )

    @_at_home
    def distill(
        self,
        teacher: Model,
        student: str | None = None,
        dataset: str = DEFAULT_DATASET,
        *,
        settings: Settings | Changes | None = None,
        config: Changes | None = None,
        teaching: Teaching | Changes | None = None,
        variant: str | None = None,
        out: Path | None = None,
        resume: bool = False,
    ) -> Artifact:
        """Trains the zoo row `student` on the scores of `teacher`, a model, which is trained if it is missing.

        `variant` of the teacher scores: onnx-fp32 where it is exported, else torch-fp32. The other options are those
        of `train`. With `teaching={"layers": L}` in the place of `student`, the student is the teacher, a language
        model, with L layers.
        """
        return training.distill(
            resolve(teacher, dataset),
            None if student is None else find_model(student),
            dataset,
            _values(settings),
            config,
            out,
            resume,
            variant,
            _values(teaching),
        )

    @_at_home
    def adopt(
        self,
        source: str | Path,
        requests: Path,
        *,
        options: AdoptOptions | Changes | None = None,
        dataset: str | None = None,
        name: str | None = None,
        force: bool = False,
    ) -> Artifact:
        """Makes an artefact of a model that was made elsewhere, to be judged and timed on a table of requests.

        `source` is its file or directory, or `module:factory` of a Python callable. `options` says which columns are
        labels and groups and which fill which input; what is not said is guessed, and told in `manifest.adopted`.
        `dataset` names the prepared data set whose test rows the requests are; the model then shares the front of its
        models. `name` is that of the file by default; `force` replaces another model of that name.
        """
        return adopting.adopt(
            str(source), requests, _values(options), dataset=dataset, name=name, force=force
        )

    @_at_home
    def export(
        self,
        model: Model,
        dataset: str = DEFAULT_DATASET,
        precisions: Sequence[str] | None = None,
        *,
        indexes: Sequence[str] = (),
        recall: float | None = None,
    ) -> Artifact:
        """Writes a model's ONNX files and compares their scores with the trained model's; it is trained if missing.

        Without `precisions` they are fp32 and int8, as far as the model can have them. `indexes` over the item vectors
        of a ranking (hnsw, ivf, ivf-int8, ivf-pq) are written beside `precisions`, or alone without these; each is to
        find `recall` of the ten best items, 0.99 if it is not named.
        """
        return exporting.export_model(resolve(model, dataset), precisions, indexes, recall)

    @_at_home
    def profile(
        self,
        model: Model,
        dataset: str = DEFAULT_DATASET,
        *,
        plan: Plan | Changes | None = None,
        variants: Sequence[str] | None = None,
        random: bool = False,
        metrics: Sequence[str] = (),
        indexes: Sequence[str] = (),
    ) -> Measurement:
        """Measures latency and accuracy of a model's variants, and writes them to runs/<id>.json.

        What is missing is made: data set, artefact, ONNX files. Without `variants`, those that the model has and that
        fit into memory are measured. `results` of the measurement has an entry a variant, scope and slate; latencies
        are in milliseconds. `metrics` names functions of your own, module:function, of (labels, scores, users) that
        return a number; `own_metrics` of the measurement has their values. `failed` says of variants whose process died
        why. `indexes` (hnsw, ivf, ivf-int8, ivf-pq) over the item vectors of a ranking are measured as well.
        """
        return profiling.profile(resolve(model, dataset, random), _values(plan), variants, metrics, indexes)

    @_at_home
    def report(self, name: str = "latest", *, datasets: Sequence[str] = (), runs: Path | None = None) -> Path:
        """Draws the newest run file of every model into reports/<name>/, and returns that folder.

        `datasets` limits it to the runs on these data sets; `runs` is another folder of run files.
        """
        return reporting.report(name, runs, datasets)

    @_at_home
    def recommend(
        self,
        slo: str,
        *,
        dataset: str | None = None,
        slate: Slate | None = None,
        metric: str | None = None,
        task: str | None = None,
        scope: str | None = None,
        threads: int | None = None,
        confidence: float = 0.95,
        runs: Path | None = None,
    ) -> Recommendation:
        """The most accurate variant that meets latency limits such as "p50<2ms,p99<20ms", by the run files.

        Where the requests have no labels, the fastest variant that meets them.

        `pick` is None where no variant meets them with a probability of at least `confidence`. UsageError where the
        runs leave a choice of data set, slate, scope or threads that no argument settles.
        """
        return reporting.recommend(
            slo,
            runs,
            dataset=dataset,
            slate=slate,
            metric=metric,
            task=task,
            scope=scope,
            threads=threads,
            confidence=confidence,
        )

    @_at_home
    def size(
        self,
        slo: str,
        plan: CapacityPlan | Changes | None = None,
        *,
        model: str | None = None,
        dataset: str | None = None,
        variant: str | None = None,
        slate: Slate | None = None,
        scope: str | None = None,
        threads: int | None = None,
        arrivals: Path | None = None,
        verified: Path | None = None,
        runs: Path | None = None,
    ) -> Sizing:
        """The replicas that a rate of requests takes under latency limits such as "p99<50ms", by the run files.

        `plan` has the rate and the server's options. `arrivals` is a file of times, `verified` the output of
        `rbserve verify --json`. `needed` is None where no number of replicas meets the limits. UsageError where the
        runs leave a choice of model, variant or slate that no argument settles.
        """
        from rbserve.profilers.capacity.plan import CapacityPlan

        return sizing.size(
            slo,
            CapacityPlan(**_values(plan)),
            model=model,
            dataset=dataset,
            variant=variant,
            slate=slate,
            scope=scope,
            threads=threads,
            arrivals=arrivals,
            verified=verified,
            runs=runs,
        )

    @_at_home
    def check(
        self,
        base: Path,
        head: Path,
        models: Sequence[str] | None = None,
        *,
        config: GateConfig | None = None,
        scope: Scope | Changes | None = None,
        base_python: Path | None = None,
    ) -> GateOutcome:
        """Compares models after a change (`head`) with those before it (`base`): p50, peak memory, file size, accuracy.

        Each path is an artefact, a run file, or a folder of artefacts, of which `models` selects some. `config` has
        the tolerances and the time to spend. `suite.exit_code` of the outcome is 0 where nothing regressed.
        `base_python` is an interpreter that measures base, with another rbserve or onnxruntime.
        """
        return checking.check(base, head, models, base_python, config, _values(scope))

    @_at_home
    def check_files(
        self,
        base: str | Path,
        head: str | Path,
        requests: Path,
        *,
        options: AdoptOptions | Changes | None = None,
        config: GateConfig | None = None,
        scope: Scope | Changes | None = None,
        base_python: Path | None = None,
    ) -> GateOutcome:
        """Compares two models that were made elsewhere, by their files, on the requests of a table.

        `base` and `head` are what can be adopted: ONNX files, models of other libraries, "module:factory". Both are
        adopted into a temporary home directory with `options`, which hold for both, and removed. The other arguments
        are those of `check`.
        """
        return checking.check_files(
            str(base), str(head), requests, _values(options), base_python, config, _values(scope)
        )

    @_at_home
    def choose(
        self,
        model: Model,
        dataset: str | None = None,
        *,
        slate: Slate | None = None,
        threads: int = 1,
        tolerance: float | None = None,
        make: bool = False,
    ) -> tuple[Artifact, Choice]:
        """The fastest variant of a model that loses at most `tolerance` of AUC or nDCG@10 (0.002) against fp32.

        A run file of this machine answers, else a short profile made now. `make` trains a model that is missing.
        """
        return choosing.choose_variant(resolve(model, dataset), slate, threads, tolerance, make)

    @_at_home
    def push(
        self,
        names: Sequence[str] = (),
        datasets: Sequence[str] = (),
        *,
        runs: bool = False,
        store: str | None = None,
        again: bool = False,
    ) -> list[Transfer]:
        """Uploads models of data sets, or data/NAME, runs/ID, bench/NAME, to a store; without names the data sets.

        `store` is its URL, by default RBSERVE_STORE. `runs` adds all run files. Files that are there are not uploaded,
        unless `again` replaces them.
        """
        return sharing.push_names(names, datasets, runs, store, again)

    @_at_home
    def pull(
        self,
        names: Sequence[str] = (),
        datasets: Sequence[str] = (),
        *,
        runs: bool = False,
        store: str | None = None,
        force: bool = False,
    ) -> list[Transfer]:
        """Brings what `push` uploaded to this home directory, checked by sha256, whole or not at all.

        What was changed here and not pushed is a UsageError; `force` replaces it.
        """
        return sharing.pull_names(names, datasets, runs, store, force)

    @_at_home
    def serve(
        self,
        models: Mapping[str, str] | Mapping[ModelName, str],
        dataset: str | None = None,
        *,
        options: ServerOptions | None = None,
        limits: Limits | None = None,
        threads: int = 1,
        user_cache_mb: int = 256,
        make: bool = False,
        trust: bool = False,
    ) -> None:
        """Serves variants of models, {"gdcn": "onnx-int8"}, over HTTP until SIGTERM or SIGINT.

        `dataset` is that of the rows among the models; without it, ml-100k or the only one that a row is trained on.
        Variants that are not exported yet are exported first; `make` trains models that are missing. Models that run
        Python code of the user's are served with `trust` alone.
        """
        from rbserve.server.api.options import Limits, ServerOptions
        from rbserve.server.scoring.reload import Opening, ServedVariant
        from rbserve.server.serve import serve

        served = [
            (serving.open_for_serving(resolve(model, dataset), variant, make, trust), variant)
            for model, variant in models.items()
        ]
        opening = Opening(
            [
                ServedVariant(
                    artifact.path, variant, partial(serving.measured, runs_path()), items.serving_encoder
                )
                for artifact, variant in served
            ],
            threads=threads,
            user_cache=user_cache_mb * MB,
            limits=limits or Limits(),
        )
        serve(opening, options or ServerOptions())


def _values(options: object) -> dict[str, Any]:
    """The fields of a record of options, or what a mapping has; nothing where there is neither."""
    if options is None or isinstance(options, Mapping):
        return dict(options or {})
    if isinstance(options, msgspec.Struct):
        return msgspec.structs.asdict(options)
    assert dataclasses.is_dataclass(options)
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


def open_scorer(
    path: str | Path, variant: str = DEFAULT_SERVED, threads: int = 1, user_cache_mb: int = 0
) -> Scorer:
    """The scorer of a variant of the artefact at `path`: `score(request) -> float32[N]`, a score a candidate.

    A zoo row's request is {"history": int32[T], "candidates": int32[N]}, rows of the artefact's item table, which
    `open_artifact(path).items.lookup(ids)` gives; an adopted model takes the tensors of its signature. Computes on
    `threads` threads. A language model keeps up to `user_cache_mb` of what it read of its last users' histories.
    Raises ArtifactError for a missing or damaged file, UsageError for an unknown variant or a model that ranks items.
    """
    from rbserve.runtimes import opening

    return opening.open_scorer(open_artifact(Path(path)), variant, threads, user_cache_mb * MB)


def open_ranker(path: str | Path, variant: str = DEFAULT_SERVED, threads: int = 1) -> Ranker:
    """The ranker of a variant of the artefact at `path`: `top_k(history int32[T], k) -> int32[k], float32[k]`.

    The k best items of the catalogue and their scores, best first. Items, threads and errors are as in `open_scorer`.
    """
    from rbserve.runtimes import opening

    return opening.open_ranker(open_artifact(Path(path)), variant, threads)
