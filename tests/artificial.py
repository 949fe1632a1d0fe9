"""Artificial profiles. The figures are made up and mean nothing; only their shape is that of real runs."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from rbserve.machine.environment import Environment
from rbserve.runs.measurement import Latency, Measurement, Predictions, Result
from rbserve.runs.plan import Plan
from rbserve.runs.samples import Samples
from rbserve.runs.summary import summarise

GROUP_A = ("dnn", "pnn", "deepfm", "dcn", "dcnv2", "masknet", "finalmlp", "autoint", "gdcn")
VARIANTS = {"torch-fp32": 1.0, "onnx-fp32": 0.5, "onnx-int8": 0.3}
SLATES = [1, 100]


def result(variant: str, slate: int, p50: float, auc: float, **changes: Any) -> Result:
    """One artificial line: intervals of a plausible width around the two figures."""
    made = Result(
        variant=variant,
        scope="forward",
        slate=slate,
        threads=1,
        n=1000,
        processes=5,
        latency_ms=Latency(
            mean=p50 * 1.1,
            p50=p50,
            p90=p50 * 1.3,
            p99=p50 * 1.9,
            max=p50 * 6,
            ci95=(p50 * 0.93, p50 * 1.06),
            mean_ci95=(p50, p50 * 1.2),
        ),
        accuracy={
            "auc": auc,
            "gauc": auc + 0.01,
            "logloss": 0.6,
            "auc_ci95": (auc - 0.03, auc + 0.03),
            "gauc_ci95": (auc - 0.02, auc + 0.04),
        },
        peak_rss_mb=100.0,
        load_ms=90.0,
        first_call_ms=1.5,
        file_mb=8.5,
        warnings=[],
    )
    return msgspec.structs.replace(made, **changes)


def measurement(model: str, results: list[Result], **changes: Any) -> Measurement:
    """One artificial profile."""
    made = Measurement(
        schema=1,
        id=f"run-{model}"[:40],
        created="2001-01-01T00:00:00+00:00",
        model=model,
        group="A",
        task="ctr",
        item_form="id",
        dataset="ml-100k",
        dataset_fingerprint="f" * 64,
        artifact_digest="a" * 64,
        comparability_key="key",
        environment=Environment(
            cpu="Artificial CPU",
            isa=["avx2"],
            cores=2,
            allowed_cores=2,
            memory_mb=1000,
            governor=None,
            kernel="0",
            container_cpus=None,
            libraries={"onnxruntime": "1.0"},
        ),
        plan=Plan(5, 200, 10.0, SLATES, 1, "forward", 2024),
        file_bytes={},
        variant_warnings={},
        baselines={"popularity": {"auc": 0.62, "gauc": 0.61}, "item_mean": {"auc": 0.7123, "gauc": 0.72}},
        samples=[],
        predictions=Predictions([1, 1, 2], [0, 1, 0], {}),
        results=results,
    )
    return msgspec.structs.replace(made, **changes)


def profiles(models: tuple[str, ...] = GROUP_A, seed: int = 0) -> list[Measurement]:
    """Artificial profiles of several models, as close to one another as those of real ones are."""
    rng = np.random.default_rng(seed)
    made = []
    for model in models:
        auc, base = 0.7 + rng.uniform(-0.008, 0.008), 0.4 * 10 ** rng.uniform(-0.2, 0.5)
        lines = [
            result(variant, slate, base * part * (1 if slate == 1 else 14) * rng.uniform(0.9, 1.1), auc)
            for variant, part in VARIANTS.items()
            for slate in SLATES
        ]
        made.append(measurement(model, lines))
    return made


def ranking(model: str, ndcg: float, **changes: Any) -> Measurement:
    """An artificial profile of a list-wise model in both scopes, its generation observed in one."""
    lines = [
        result(
            "onnx-fp32", 10, p50, 0.5, scope=scope, stages=stages,
            accuracy={
                "ndcg@10": ndcg, "ndcg@10_ci95": (ndcg - 0.01, ndcg + 0.01), "recall@10": 0.1, "mrr@10": 0.04,
                "recall@10_ci95": (0.05, 0.2), "illegal_share": 0.125,
            },
        )
        for scope, p50, stages in (("forward", 1.0, {"prefill": 0.75, "rest": 0.25}), ("end_to_end", 1.5, None))
    ]  # fmt: skip
    facts: dict[str, Any] = {
        "group": "G", "task": "seqrec", "plan": Plan(5, 200, 10.0, [10], 1, "both", 2024),
        "baselines": {"popularity": {"ndcg@10": 0.03, "recall@10": 0.06}},
        "predictions": Predictions([1, 2], [], {}, [3, 4], {}, 50),
    }  # fmt: skip
    return msgspec.structs.replace(measurement(model, lines), **{**facts, **changes})


def sampled(
    model: str,
    times_ms: dict[str, float],
    *,
    skill: float = 1.0,
    slate: int = 100,
    processes: int = 5,
    runs: int = 140,
    users: int = 60,
    seed: int = 0,
    noise: int = 9,
    **changes: Any,
) -> Measurement:
    """An artificial profile with raw samples and predictions; `skill` is how far the scores tell the labels apart.

    Of one `noise` the models find the same rows hard.
    """
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(users), 8)
    labels = np.tile([0, 1], len(rows) // 2)
    scores = 1 / (1 + np.exp(-(skill * labels + np.random.default_rng(noise).normal(size=len(rows)))))
    samples = [
        Samples(
            variant=variant,
            scope="forward",
            slate=slate,
            threads=1,
            process=process,
            core=None,
            load_ns=1,
            first_call_ns=1,
            warmup_ns=[],
            runs_ns=(ms * 1e6 * rng.lognormal(0, 0.05, runs)).astype(int).tolist(),
            peak_rss_bytes=1,
        )
        for variant, ms in times_ms.items()
        for process in range(processes)
    ]
    made = measurement(
        model,
        [],
        plan=Plan(processes, runs, 10.0, [slate], 1, "forward", 2024),
        file_bytes=dict.fromkeys(times_ms, 1),
        samples=samples,
        predictions=Predictions(rows.tolist(), labels.tolist(), dict.fromkeys(times_ms, scores.tolist())),
        **changes,
    )
    return msgspec.structs.replace(made, results=summarise(made))
