"""A language model's slates beside the paper's way, on real prompts: `make fast`.

    python tests/benchmarks/fast_paths.py --model text-smollm2-135m --dataset mind

The paper's way (`torch-recbench`): eager torch in fp32, the whole prompt again for each candidate, every word's logit
at every place. A request is a test user's history and a slate of items. For each request in turn everything is timed,
so that a machine that slows down slows all alike; the paper's way, in which a candidate costs what every other costs,
is timed on a few candidates of the slate. Ratios are of milliseconds per candidate: the geometric mean over requests,
with Student's t interval of the logarithms. `cold`: a user never seen; `warm`: the prompt's beginning is still known.

`--beside` times other models on the same requests, such as one that reads items as tokens, against the same calls of
the paper's way; their scores are other scores, and are not compared.

    python tests/benchmarks/fast_paths.py --model text-smollm2-135m --random --dataset microlens \
        --beside item-smollm2-135m,bst-emb --beside-variants onnx-fp32,onnx-int8
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy import stats

from rbserve.core.files import write_bytes
from rbserve.core.requests import slate_request
from rbserve.core.types import Items, Scores
from rbserve.core.variants import REMEMBERING
from rbserve.data.artifact import WEIGHTS, Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.parity import sample
from rbserve.machine.environment import environment
from rbserve.runtimes.contents import artifact_prompts
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.memory import parameters
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc, log_odds

ROOT = Path(__file__).resolve().parents[2]
USER_CACHE = 1 << 30


def requests(artifact: Artifact, dataset: Dataset, number: int, slate: int) -> Iterator[tuple[Items, Items]]:
    """Histories of test users, drawn, and slates of items, drawn."""
    test, rng = dataset.ctr("test"), np.random.default_rng(2024)
    for row in rng.choice(len(test), number, replace=False):
        yield test.histories[row], rng.integers(len(artifact.items), size=slate, dtype=np.int32)


def timed(call: Callable[[], Scores]) -> tuple[float, Scores]:
    """Seconds, and what came out."""
    start = time.perf_counter()
    scores = call()
    return time.perf_counter() - start, scores


def measure(
    artifact: Artifact, beside: list[Artifact], dataset: Dataset, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each slate, model, variant and user, cold or, of models that remember users, warm."""
    papers = open_scorer(artifact, "torch-recbench")
    scorers = {
        (one.name, variant, state): open_scorer(one, variant, user_cache=USER_CACHE if state == "warm" else 0)
        for one, variants in ((artifact, options.variants), *((one, options.beside_variants) for one in beside))
        for variant in variants if variant in one.can_open
        for state in (("cold", "warm") if one.kind in REMEMBERING else ("cold",))
    }  # fmt: skip
    prompts, rows = artifact_prompts(artifact), []
    for slate in options.slates:
        seconds: dict[tuple[str, str, str], list[float]] = {key: [] for key in scorers}
        protocol, apart = [], dict.fromkeys(scorers, 0.0)
        tokens, papers_tokens = [], []
        for number, (history, candidates) in enumerate(
            requests(artifact, dataset, options.requests + 1, slate)
        ):
            few = candidates[: options.protocol_candidates]
            taken, expected = timed(lambda: papers.score(slate_request(history, few)))  # noqa: B023
            prefix, suffixes = prompts.sizes(history, candidates)
            for key, scorer in scorers.items():
                if key[2] == "warm":
                    scorer.score(slate_request(history, candidates[:1]))
                spent, found = timed(lambda: scorer.score(slate_request(history, candidates)))  # noqa: B023
                if key[0] == artifact.name:
                    difference = np.abs(log_odds(found[: len(few)]) - log_odds(expected)).max()
                    apart[key] = max(apart[key], float(difference))
                if number:  # the first warms everything up
                    seconds[key].append(spent / slate)
            if number:
                protocol.append(taken / len(few))
                tokens.append(prefix + suffixes)
                papers_tokens.append(slate * prefix + suffixes)
        for (name, variant, state), spent in seconds.items():
            logs = np.log(np.array(protocol) / np.array(spent))
            half = stats.sem(logs) * stats.t.ppf(0.975, len(logs) - 1)
            rows.append({
                "slate": slate, "model": name, "variant": variant, "user": state, "requests": len(logs),
                "ratio": float(np.exp(logs.mean())), "low": float(np.exp(logs.mean() - half)),
                "high": float(np.exp(logs.mean() + half)), "ms_a_candidate": 1e3 * float(np.median(spent)),
                "protocol_ms_a_candidate": 1e3 * float(np.median(protocol)),
                "tokens": float(np.mean(tokens)), "protocol_tokens": float(np.mean(papers_tokens)),
                "largest_difference_of_log_odds": apart[name, variant, state],
            })  # fmt: skip
            print(line(rows[-1]), flush=True)
    return rows


def accuracy(artifact: Artifact, dataset: Dataset, options: argparse.Namespace) -> list[dict[str, Any]]:
    """AUC of the same test rows, by the paper's way on a part of them, and by every variant."""
    test = sample(dataset.ctr("test"), options.rows, 7)
    few = test.take(np.arange(min(options.protocol_rows, len(test))))
    rows = []
    for variant, some in [
        ("torch-recbench", few),
        *((one, part) for one in options.variants for part in (few, test)),
    ]:
        scores = score_rows(open_scorer(artifact, variant), some.histories, some.candidates)
        rows.append({"variant": variant, "rows": len(some), "auc": auc(some.labels, scores)})
        print(f"{variant}: AUC {rows[-1]['auc']:.4f} on {len(some)} rows", flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """A row of the Markdown table."""
    cells = (
        row["slate"], row["model"], row["variant"], row["user"],
        f"{row['ratio']:,.1f} [{row['low']:,.1f}, {row['high']:,.1f}]",
        f"{row['ms_a_candidate']:.3f} of {row['protocol_ms_a_candidate']:.0f}",
        f"{row['tokens']:.0f} of {row['protocol_tokens']:.0f}", f"{row['largest_difference_of_log_odds']:.1e}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--random", action="store_true", help="true shape, drawn weights: speed alone")
    parser.add_argument(
        "--slates", type=lambda text: [int(one) for one in text.split(",")], default=[20, 100]
    )
    parser.add_argument("--variants", type=lambda text: text.split(","), default=["onnx-fp32", "onnx-int8"])
    parser.add_argument(
        "--beside", type=lambda text: text.split(","), default=[], help="models timed beside it"
    )
    parser.add_argument(
        "--beside-variants", type=lambda text: text.split(","), default=["onnx-fp32", "onnx-int8"]
    )
    parser.add_argument("--requests", type=int, default=6)
    parser.add_argument("--protocol-candidates", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000, help="of which AUC is computed; 0: none")
    parser.add_argument("--protocol-rows", type=int, default=200)
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "fast")
    options = parser.parse_args()
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])

    from rbserve.home.target import resolve
    from rbserve.pipeline.data import ensure_dataset
    from rbserve.pipeline.exporting import ensure_exported
    from rbserve.pipeline.training import ensure_artifact

    dataset = ensure_dataset(options.dataset)
    artifact = ensure_exported(
        ensure_artifact(resolve(options.model, options.dataset, options.random)), options.variants
    )
    beside = [
        ensure_exported(one, [variant for variant in options.beside_variants if variant in one.can_have])
        for one in (ensure_artifact(resolve(name, options.dataset)) for name in options.beside)
    ]
    print(
        "| slate | model | variant | user | times as fast [95%] | ms a candidate | tokens a slate | log-odds apart |"
    )
    print("|--:|---|---|---|--:|--:|--:|--:|")
    rows = measure(artifact, beside, dataset, options)
    found = {
        "model": artifact.name, "dataset": dataset.name, "environment": msgspec.to_builtins(environment()),
        "parameters": parameters(artifact.path / WEIGHTS), "speed": rows,
        "accuracy": [] if artifact.is_random or not options.rows else accuracy(artifact, dataset, options),
    }  # fmt: skip
    path = options.out / f"{artifact.name}-{dataset.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, msgspec.json.format(msgspec.json.encode(found)))


if __name__ == "__main__":
    main()
